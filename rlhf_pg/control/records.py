"""Episodes of a trained policy step by step, in the words of runs.EPISODE and runs.TOKEN."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch import Tensor

from rlhf_pg.control.distributions import Categorical
from rlhf_pg.control.environments import make_environments
from rlhf_pg.control.policies import ActorCritic, PolicyConfig, load_policy
from rlhf_pg.control.presets import ControlConfig
from rlhf_pg.control.rollout import Collector
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import Baseline, LearnerConfig
from rlhf_pg.core.returns import td_errors
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.runs import options_of

DIGITS = 7  # of a record's numbers after the point
ACTIONS: dict[str, Sequence[str]] = {  # what the environments' own pages call them
    "CartPole-v1": ("left", "right"),
    "Acrobot-v1": ("torque −1", "torque 0", "torque +1"),
    "MountainCar-v0": ("left", "coast", "right"),
}


def run_config(path: Path) -> ControlConfig:
    """What a control run was asked for; ValueError where `path` holds none that is understood."""
    options = dict(options_of(path))
    learner, policy = options.pop("learner", {}), options.pop("policy", {})
    for given, known in (
        (options, ControlConfig),
        (learner, LearnerConfig),
        (policy, PolicyConfig),
    ):
        strange = set(given) - {field.name for field in fields(known)}
        if strange or "env" not in options:
            raise ValueError(f"{path} holds no control run that this version knows: "
                             f"{', '.join(sorted(strange)) or 'no config.yaml'}")  # fmt: skip
    return ControlConfig(**options, learner=LearnerConfig(**learner), policy=PolicyConfig(**policy))


@torch.no_grad()
def episodes(path: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` whole episodes of a run's policy, played now; each a record."""
    config = run_config(path)
    environments = make_environments(config.env, count, config.env_options)
    try:
        space = environments.single_observation_space
        policy = load_policy(path / "policy", space, environments.single_action_space)
        collector = Collector(environments, policy, seed, config.greedy)
        rollout = collector.episodes()
    finally:
        environments.close()
    return [_record(config, policy, rollout, row, seed) for row in range(count)]


def _record(
    config: ControlConfig, policy: ActorCritic, rollout: Rollout, row: int, seed: int
) -> dict[str, Any]:
    one = replace(rollout[row : row + 1], group_size=1)
    length = int(one.mask.sum())
    learner, alone = config.learner, _alone(config.learner)
    advantages, _ = estimate_advantages(one, alone)
    delta = td_errors(one.rewards, one.values, one.next_values, learner.gamma)
    columns = {
        "logprob": one.logprobs,
        "entropy": policy.evaluate(one).entropies,
        "score": one.rewards,
        "reward": one.rewards,
        "value": one.values,
        "next_value": one.next_values,
        "delta": delta,
        "advantage": advantages,
    }
    limit = config.env_options.get(
        "max_episode_steps", gymnasium.spec(config.env).max_episode_steps
    )
    terminated = limit is None or length < limit
    score = float(one.rewards[0, :length].sum())
    names = [_name(config.env, policy, action) for action in one.actions[0, :length]]
    chances = _chances(config.env, policy, one, length)
    return {
        "iteration": None,
        "prompt": f"{config.env}, seed {seed}, copy {row}",
        "completion": f"{length} steps, {'terminated' if terminated else 'cut by the time limit'}",
        "score": round(score, DIGITS),
        "gold": None,
        "finished": terminated,
        "gamma": learner.gamma,
        "lam": learner.lam,
        "kl_coef": 0.0,
        "kl_in": "reward",
        "baseline": alone.baseline,
        "clip": learner.clip,
        "tokens": [
            {
                "token": names[t],
                "state": [round(x, 4) for x in one.inputs[0, t].tolist()],
                **{key: round(float(x[0, t]), DIGITS) + 0.0 for key, x in columns.items()},
                "top": chances[t],
            }
            for t in range(length)
        ],
    }


def _alone(learner: LearnerConfig) -> LearnerConfig:
    """The same estimate without what compares episodes or whitens."""
    baseline: Baseline = "critic" if learner.baseline == "critic" else "none"
    return replace(learner, baseline=baseline, whiten_advantages=False, whiten_rewards=False)


def _name(env: str, policy: ActorCritic, action: Tensor) -> str:
    if isinstance(policy.distribution, Categorical):
        known = ACTIONS.get(env)
        return known[int(action)] if known else str(int(action) + policy.distribution.start)
    return " ".join(f"{x:+.2f}" for x in action.flatten().tolist())


def _chances(env: str, policy: ActorCritic, one: Rollout, length: int) -> list[list[list[Any]]]:
    """The probability of each action at each step, likeliest first; none for real-valued ones."""
    if not isinstance(policy.distribution, Categorical):
        return [[] for _ in range(length)]
    outputs = policy.outputs(one.inputs)[0, :length]
    rows = []
    for probs in outputs.softmax(-1):
        order = probs.argsort(descending=True)[:5]
        rows.append([[_name(env, policy, a), round(float(probs[a]), 5)] for a in order])
    return rows
