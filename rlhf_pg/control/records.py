"""Episodes of a trained policy step by step, with the keys of runs.EPISODE and runs.TOKEN."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.control.collect import Collector, make_environments, time_limit
from rlhf_pg.control.config import ControlConfig
from rlhf_pg.control.distributions import Categorical
from rlhf_pg.control.entropy import Temperature
from rlhf_pg.control.normalise import scaled
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.control.watch import Agent
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.masked import masked_var, whiten
from rlhf_pg.core.returns import td_errors
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.reading import METRICS_LINE, read_jsonl

DIGITS = 7  # decimal places of a record's numbers
ACTIONS: dict[str, Sequence[str]] = {  # names from the environments' documentation
    "CartPole-v1": ("left", "right"),
    "Acrobot-v1": ("torque −1", "torque 0", "torque +1"),
    "MountainCar-v0": ("left", "coast", "right"),
}


# Baselines that compare the episodes of a rollout: they need as many as the learner had.
COMPARED = ("leave-one-out", "group", "group-centred", "batch-mean")


@torch.no_grad()
def episodes(path: Path, count: int, seed: int = 0, trust: bool = False) -> list[dict[str, Any]]:
    """Play `count` whole episodes with a run's policy; one record each.

    Rewards, TD errors and advantages are those that the learner would get from these episodes at
    the end of the run: scaled, shaped and with its own baseline. Raises ValueError as `read_config`
    does, or if the run has not recorded the scale of its rewards.
    """
    agent = Agent.load(path, trust=trust)
    config = agent.config
    played = config.environments if config.learner.baseline in COMPARED else count
    environments = make_environments(config.env, max(count, played), config.env_options)
    rollout = Collector(environments, agent.policy, seed, config.greedy).episodes()
    environments.close()
    scale, temperature, constant = _at_the_end(path, config)
    # The steps of a training iteration before the update: shape the rewards, then advantages.
    shaped = scaled(rollout, scale) if config.normalise_rewards else rollout
    shaped = Temperature(temperature).shape(shaped)
    if config.learner.whiten_rewards:
        before = masked_var(shaped.rewards, shaped.mask)
        shaped = replace(shaped, rewards=whiten(shaped.rewards, shaped.mask, shift_mean=False))
        factor = float((masked_var(shaped.rewards, shaped.mask) / before).sqrt()) if before else 1.0
        scale, temperature = scale * factor, temperature * factor
    unwhitened = replace(config.learner, whiten_advantages=False, whiten_rewards=False)
    advantages, _ = estimate_advantages(shaped, unwhitened, constant)
    settings = {"reward_scale": scale, "entropy_temperature": temperature}
    return [
        _record(config, agent.policy, rollout.rewards, shaped, advantages, settings, row, seed)
        for row in range(count)
    ]


def _at_the_end(path: Path, config: ControlConfig) -> tuple[float, float, float]:
    """Scale of the rewards, entropy temperature and constant baseline of a run's last updates."""
    file = path / "metrics.jsonl"
    last: dict[str, float] = {}
    for line in read_jsonl(file, METRICS_LINE) if file.is_file() else []:
        last |= {name: value for name, value in line.items() if value is not None}
    if config.normalise_rewards and "reward_scale" not in last:
        raise ValueError(f"{file} has no reward_scale, which the critic's values need: train again")
    return (
        last.get("reward_scale", 1.0),
        last.get("entropy_temperature", config.entropy_temperature),
        last.get("constant_baseline", 0.0),
    )


def _record(
    config: ControlConfig,
    policy: ActorCritic,
    raw_rewards: Tensor,
    shaped: Rollout,
    advantages: Tensor,
    settings: dict[str, float],
    row: int,
    seed: int,
) -> dict[str, Any]:
    """One episode: `raw_rewards` of the environment, and the learner's rewards in `shaped`."""
    one, score = replace(shaped[row : row + 1], group_size=1), raw_rewards[row : row + 1]
    length = int(one.mask.sum())
    learner = config.learner
    columns = {
        "logprob": one.logprobs,
        "entropy": policy.evaluate(one).entropies,
        "score": score,
        "reward": one.rewards,
        "value": one.values,
        "next_value": one.next_values,
        "delta": td_errors(one.rewards, one.values, one.next_values, learner.gamma),
        "advantage": advantages[row : row + 1],
    }
    limit = time_limit(config.env, config.env_options)
    terminated = limit is None or length < limit
    names = [_name(config.env, policy, action) for action in one.actions[0, :length]]
    likeliest = _likeliest(config.env, policy, one, length)
    return {
        "iteration": None,
        "prompt": f"{config.env}, seed {seed}, copy {row}",
        "completion": f"{length} steps, {'terminated' if terminated else 'cut by the time limit'}",
        "score": round(float(score[0, :length].sum()), DIGITS),
        "gold": None,
        "finished": terminated,
        "gamma": learner.gamma,
        "lam": learner.lam,
        "kl_coef": 0.0,
        **settings,
        "kl_in": "reward",
        "baseline": learner.baseline,
        "clip": learner.clip,
        "tokens": [
            {
                "token": names[t],
                "state": [round(x, 4) for x in one.inputs[0, t].tolist()],
                **{key: round(float(x[0, t]), DIGITS) + 0.0 for key, x in columns.items()},
                "top": likeliest[t],
            }
            for t in range(length)
        ],
    }


def _name(env: str, policy: ActorCritic, action: Tensor) -> str:
    """The action as text: its name, its number, or its real values."""
    if isinstance(policy.distribution, Categorical) and policy.distribution.single:
        names = ACTIONS.get(env)
        return names[int(action)] if names else str(int(action) + policy.distribution.start)
    return " ".join(f"{x:+.2f}" for x in action.flatten().tolist())


def _likeliest(env: str, policy: ActorCritic, one: Rollout, length: int) -> list[list[list[Any]]]:
    """The five likeliest actions of each step, [name, probability]; none if real-valued."""
    if not (isinstance(policy.distribution, Categorical) and policy.distribution.single):
        return [[] for _ in range(length)]
    rows = []
    for probs in policy.outputs(one.inputs)[0, :length].softmax(-1):
        order = probs.argsort(descending=True)[:5]
        rows.append([[_name(env, policy, a), round(float(probs[a]), 5)] for a in order])
    return rows
