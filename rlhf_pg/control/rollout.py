"""The hot loop: a policy acts in environments, and what happened becomes a `Rollout`.

Vector environments reset on the step after an end. So the observation after any step is the true
next state, terminal and truncated ones too, V(s_{t+1}) is simply the next column's value, and the
step that only resets is no transition: it is masked out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from rlhf_pg.control.environments import encode
from rlhf_pg.control.policies import ActorCritic
from rlhf_pg.core.rollout import Rollout


class Step(NamedTuple):
    """One step of N environments."""

    observations: np.ndarray  # (N, size)
    actions: np.ndarray  # (N, ...)
    rewards: np.ndarray  # (N,)
    terminated: np.ndarray  # (N,)
    ended: np.ndarray  # (N,) terminated or truncated
    real: np.ndarray  # (N,) False where the environment only reset


@dataclass
class Episode:
    """A finished episode, as the environment scored it."""

    score: float  # undiscounted sum of rewards
    length: int


class Collector:
    """Environments in the middle of things, and the policy that acts in them."""

    LONGEST = 100_000  # steps after which an episode is taken to have no end

    def __init__(
        self,
        environments: VectorEnv,
        policy: ActorCritic,
        seed: int = 0,
        greedy: bool = False,
    ) -> None:
        self.environments, self.policy, self.greedy = environments, policy, greedy
        self.rng = np.random.default_rng(seed)
        self.scores = np.zeros(environments.num_envs)  # of the open episodes, so far
        self.lengths = np.zeros(environments.num_envs, dtype=int)
        self.finished: list[Episode] = []  # since somebody last emptied it
        self.restart(seed)

    def restart(self, seed: int | None = None) -> None:
        """Begin a new episode everywhere."""
        observations, _ = self.environments.reset(seed=seed)
        self.observations = self._encode(observations)  # (N, size)
        self.resetting = np.zeros(self.environments.num_envs, dtype=bool)
        self.scores[:], self.lengths[:] = 0, 0

    def segment(self, steps: int) -> Rollout:
        """The next `steps` steps of every environment, from wherever it stands: (N, steps)."""
        return self._rollout(list(self._walk(self._noise(steps))))

    def episodes(self) -> Rollout:
        """One whole episode of every environment, (N, longest).

        Exactly one each: taking whichever ends first would favour short episodes.
        """
        rollout = self._rollout(self._whole_episodes())
        rollout.group_size = len(rollout)  # all began alike, so each may be compared to the others
        return rollout

    def play(self) -> list[Episode]:
        """One whole episode of every environment, for its scores alone."""
        self.finished.clear()
        self._note_episodes(*self._outcome(self._whole_episodes())[:3])
        return self.finished

    def _whole_episodes(self) -> list[Step]:
        self.restart()
        steps: list[Step] = []
        over = np.zeros(self.environments.num_envs, dtype=bool)
        while not over.all():
            for step in self._walk(self._noise(32)):
                steps.append(step._replace(real=~over))
                over = over | step.ended
                if over.all():
                    break
            if len(steps) >= self.LONGEST:
                raise ValueError(
                    f"an episode had no end within {self.LONGEST} steps; give the environment "
                    "a time limit, or set --rollout_steps to learn from segments"
                )
        return steps

    def _walk(self, noise: np.ndarray) -> Iterator[Step]:
        """Act once for every row of noise (T, N, ...)."""
        act, tell = self.policy.acting(), self.policy.distribution.to_environment
        for z in noise:
            actions = act(self.observations, z)
            observations, rewards, terminated, truncated, _ = self.environments.step(tell(actions))
            ended = terminated | truncated
            before, real = self.observations, ~self.resetting
            self.observations, self.resetting = self._encode(observations), ended
            yield Step(before, actions, rewards, terminated, ended, real)

    def _rollout(self, steps: list[Step]) -> Rollout:
        rewards, ends, mask, terminated = self._outcome(steps)
        self._note_episodes(rewards, ends, mask)
        rollout = Rollout(
            inputs=torch.from_numpy(np.stack([step.observations for step in steps], 1)),
            actions=torch.from_numpy(np.stack([step.actions for step in steps], 1)),
            logprobs=torch.empty(0),
            values=torch.empty(0),
            next_values=torch.empty(0),
            rewards=torch.from_numpy(rewards),
            ends=torch.from_numpy(ends),
            mask=torch.from_numpy(mask),
        )
        with torch.no_grad():
            now = self.policy.evaluate(rollout)
            last = self.policy.values(torch.from_numpy(self.observations)).unsqueeze(1)
        rollout.logprobs = now.logprobs
        rollout.values = torch.zeros_like(now.logprobs) if now.values is None else now.values
        following = torch.cat([rollout.values[:, 1:], last], 1)
        rollout.next_values = following * ~torch.from_numpy(terminated)
        return rollout

    def _outcome(self, steps: list[Step]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rewards, ends, mask and terminations of the steps, each (N, T)."""
        mask = np.stack([step.real for step in steps], 1)
        rewards = np.stack([step.rewards for step in steps], 1).astype(np.float32) * mask
        ends = np.stack([step.ended for step in steps], 1) & mask
        terminated = np.stack([step.terminated for step in steps], 1) & mask
        return rewards, ends.astype(np.float32), mask, terminated

    def _note_episodes(self, rewards: np.ndarray, ends: np.ndarray, mask: np.ndarray) -> None:
        """Add up the episodes that ended, and keep the open ones' sums for the next rollout."""
        start = np.zeros(len(rewards), dtype=int)
        for row, t in zip(*np.nonzero(ends), strict=True):
            span = slice(start[row], t + 1)
            score = self.scores[row] + rewards[row, span].sum(dtype=float)
            length = self.lengths[row] + mask[row, span].sum()
            self.finished.append(Episode(float(score), int(length)))
            self.scores[row], self.lengths[row], start[row] = 0.0, 0, t + 1
        later = np.arange(rewards.shape[1]) >= start[:, None]
        self.scores += (rewards * later).sum(1, dtype=float)
        self.lengths += (mask & later).sum(1)

    def _noise(self, steps: int) -> np.ndarray:
        shape = (steps, self.environments.num_envs)
        noise = self.policy.distribution.noise(shape, self.rng)
        return np.zeros_like(noise) if self.greedy else noise

    def _encode(self, observations: np.ndarray) -> np.ndarray:
        return encode(self.environments.single_observation_space, observations)
