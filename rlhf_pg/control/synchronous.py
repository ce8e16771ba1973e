"""One process that collects, then learns: what a run of any algorithm but a3c remembers.

Collector -> Rollout -> reward scale, entropy -> Learner.update -> moments, temperature
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from rlhf_pg.control.entropy import Temperature
from rlhf_pg.control.environments import make_environments
from rlhf_pg.control.normalisation import RewardScale
from rlhf_pg.control.policies import ActorCritic
from rlhf_pg.control.presets import ControlConfig
from rlhf_pg.control.rollout import Collector
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.rollout import Rollout


class Synchronous:
    """Everything that one run remembers: environments, policy, learner, moments, temperature."""

    def __init__(
        self,
        config: ControlConfig,
        rank: int = 0,
        optimizer: Callable[[ActorCritic], Any] | None = None,
    ) -> None:
        config.check()
        self.config = config
        # Far apart, so that no two processes share a stream.
        seed = config.seed + 1_000_003 * rank
        environments = make_environments(config.env, config.environments, config.env_options)
        self.policy = make_policy(config, environments)
        learner = replace(config.learner, seed=config.learner.seed + seed)
        own = optimizer(self.policy) if optimizer else None
        self.learner = Learner(self.policy, learner, optimizer=own)
        self.collector = Collector(environments, self.policy, seed)
        self.reward_scale = RewardScale(config.environments, config.learner.gamma)
        self.temperature = Temperature(config.entropy_temperature, config.target_entropy)
        self.steps = 0  # transitions learned from
        self.seconds = 0.0  # spent collecting and learning

    def iterate(self) -> dict[str, float]:
        """One rollout and one update. Returns what to log."""
        began = time.perf_counter()
        rollout = self.collect()
        metrics = self.learner.update(self.shape(rollout))
        self.remember(rollout, metrics)
        self.seconds += time.perf_counter() - began
        return {**self._episode_metrics(), **metrics}

    def collect(self) -> Rollout:
        """The next rollout, as the environments rewarded it."""
        steps = self.config.rollout_steps
        rollout = self.collector.episodes() if steps is None else self.collector.segment(steps)
        self.steps += int(rollout.mask.sum())
        return rollout

    def shape(self, rollout: Rollout) -> Rollout:
        """The rewards that are learned from: scaled, and with the entropy's share."""
        if self.config.normalise_rewards:
            self.reward_scale.update(rollout.rewards, rollout.ends, rollout.mask)
            rollout = replace(rollout, rewards=self.reward_scale(rollout.rewards))
        return self.temperature.shape(rollout)

    def remember(self, rollout: Rollout, metrics: dict[str, float]) -> None:
        """Move what moves between rollouts: observation moments and the temperature."""
        if self.policy.normaliser is not None:
            self.policy.normaliser.update(rollout.inputs[rollout.mask])
        if self.config.entropy_temperature:
            self.temperature.update(metrics["entropy"])
            metrics["entropy_temperature"] = self.temperature.value

    def _episode_metrics(self) -> dict[str, float]:
        finished, self.collector.finished = self.collector.finished, []
        metrics: dict[str, float] = {"steps": self.steps}
        if finished:
            metrics["score"] = float(np.mean([episode.score for episode in finished]))
            metrics["length"] = float(np.mean([episode.length for episode in finished]))
        return metrics

    def paused(self) -> AbstractContextManager[None]:
        """Between two iterations nothing happens anyway."""
        return nullcontext()

    def close(self) -> None:
        """Release the environments."""
        self.collector.environments.close()


def make_policy(config: ControlConfig, environments: VectorEnv) -> ActorCritic:
    """A new policy for these environments, with a critic where the baseline is one."""
    return ActorCritic(
        environments.single_observation_space,
        environments.single_action_space,
        config.policy,
        critic=config.learner.baseline == "critic",
        seed=config.seed,
    )
