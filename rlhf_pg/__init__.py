"""Exact policy gradients from REINFORCE to PPO, for tiny language models and for Gymnasium.

Importing this module is cheap; each name below is imported on first use.

load                  open a run or a model: sample, logprobs, advantages; act for control runs
train, TrainConfig    fine-tune a language model toward a reward
load_reward           a reward from its spelling: a rule, a file's function, a folder, a sum
Learner               updates a policy from a Rollout
LearnerConfig         the learner's options; `algorithm(name)` gives those of a named algorithm
Rollout, Evaluation   what the learner reads, and what a policy says of it
estimate_advantages   a Rollout to advantages and value targets, each (B, T)
"""

import importlib
from typing import TYPE_CHECKING, Any

import reward_models  # noqa: F401 (turns off telemetry before other libraries are imported)

if TYPE_CHECKING:
    from reward_models.loading import load_reward
    from rlhf_pg.core.advantages import estimate_advantages
    from rlhf_pg.core.algorithms import LearnerConfig, algorithm
    from rlhf_pg.core.learner import Learner
    from rlhf_pg.core.rollout import Evaluation, Rollout
    from rlhf_pg.language.config import TrainConfig
    from rlhf_pg.language.train import train

__all__ = [
    "Evaluation",
    "Learner",
    "LearnerConfig",
    "Rollout",
    "TrainConfig",
    "algorithm",
    "estimate_advantages",
    "load",
    "load_reward",
    "train",
]

_MODULES = {
    "Evaluation": "rlhf_pg.core.rollout",
    "Learner": "rlhf_pg.core.learner",
    "LearnerConfig": "rlhf_pg.core.algorithms",
    "Rollout": "rlhf_pg.core.rollout",
    "TrainConfig": "rlhf_pg.language.config",
    "algorithm": "rlhf_pg.core.algorithms",
    "estimate_advantages": "rlhf_pg.core.advantages",
    "load_reward": "reward_models.loading",
    "train": "rlhf_pg.language.train",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rlhf_pg' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(name: Any, trust: bool = False) -> Any:
    """Open a run's folder, a model's folder or a hub name.

    Returns a `language.loaded.LoadedRun` with `sample`, `logprobs` and `advantages`; for a run of
    `rlhf-pg control`, a `control.watch.Agent` with `act(observation)`. `trust` lets a run that
    somebody else made load the reward, data and models that its config.yaml names. Raises
    ValueError if there is no model.
    """
    from rlhf_pg.control.config import control_run

    name = str(name)  # a run's `path` is a Path
    if control_run(name):
        from rlhf_pg.control.watch import Agent

        return Agent.load(name, trust=trust)
    from rlhf_pg.language.loaded import open_model

    return open_model(name, trust)
