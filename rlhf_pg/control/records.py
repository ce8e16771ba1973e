"""Episodes of a trained policy step by step, with the keys of runs.EPISODE and runs.TOKEN."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch import Tensor

from rlhf_pg.control.collect import Collector, make_environments
from rlhf_pg.control.config import ControlConfig
from rlhf_pg.control.distributions import Categorical
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.control.watch import Agent
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import Baseline, LearnerConfig
from rlhf_pg.core.returns import td_errors
from rlhf_pg.core.rollout import Rollout

DIGITS = 7  # decimal places of a record's numbers
ACTIONS: dict[str, Sequence[str]] = {  # names from the environments' documentation
    "CartPole-v1": ("left", "right"),
    "Acrobot-v1": ("torque −1", "torque 0", "torque +1"),
    "MountainCar-v0": ("left", "coast", "right"),
}


@torch.no_grad()
def episodes(path: Path, count: int, seed: int = 0, trust: bool = False) -> list[dict[str, Any]]:
    """Play `count` whole episodes with a run's policy; one record each.

    Raises ValueError as `read_config` does.
    """
    agent = Agent.load(path, trust=trust)
    config = agent.config
    environments = make_environments(config.env, count, config.env_options)
    rollout = Collector(environments, agent.policy, seed, config.greedy).episodes()
    environments.close()
    return [_record(config, agent.policy, rollout, row, seed) for row in range(count)]


def _record(
    config: ControlConfig, policy: ActorCritic, rollout: Rollout, row: int, seed: int
) -> dict[str, Any]:
    one = replace(rollout[row : row + 1], group_size=1)
    length = int(one.mask.sum())
    learner = _single_episode(config.learner)
    advantages, _ = estimate_advantages(one, learner)
    columns = {
        "logprob": one.logprobs,
        "entropy": policy.evaluate(one).entropies,
        "score": one.rewards,
        "reward": one.rewards,
        "value": one.values,
        "next_value": one.next_values,
        "delta": td_errors(one.rewards, one.values, one.next_values, learner.gamma),
        "advantage": advantages,
    }
    name = config.env.rpartition(":")[2]  # without a module, which has been imported by now
    limit = config.env_options.get("max_episode_steps", gymnasium.spec(name).max_episode_steps)
    terminated = limit is None or length < limit
    names = [_name(config.env, policy, action) for action in one.actions[0, :length]]
    likeliest = _likeliest(config.env, policy, one, length)
    return {
        "iteration": None,
        "prompt": f"{config.env}, seed {seed}, copy {row}",
        "completion": f"{length} steps, {'terminated' if terminated else 'cut by the time limit'}",
        "score": round(float(one.rewards[0, :length].sum()), DIGITS),
        "gold": None,
        "finished": terminated,
        "gamma": learner.gamma,
        "lam": learner.lam,
        "kl_coef": 0.0,
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


def _single_episode(learner: LearnerConfig) -> LearnerConfig:
    """The settings without what compares episodes or whitens."""
    baseline: Baseline = "critic" if learner.baseline == "critic" else "none"
    return replace(learner, baseline=baseline, whiten_advantages=False, whiten_rewards=False)


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
