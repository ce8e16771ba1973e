"""Scripted environments, whose every transition is known beforehand."""

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces


class Counter(gymnasium.Env):
    """Observes (its episode's number, the step's number); the reward is the step's number + 1.

    Episode e of a copy lasts 2 + e % 3 steps; even ones terminate, odd ones are truncated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(3)
    transitions: list[tuple] = []  # all that happened, in all copies

    def __init__(self, render_mode: str | None = None) -> None:
        self.episode, self.step_number = -1, 0
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.step_number = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        before = self._observation()
        self.step_number += 1
        over = self.step_number == 2 + self.episode % 3
        terminated, truncated = over and self.episode % 2 == 0, over and self.episode % 2 == 1
        reward = float(self.step_number)
        transition = (tuple(before), int(action), reward, tuple(self._observation()))
        Counter.transitions.append((id(self), *transition, terminated, truncated))
        return self._observation(), reward, terminated, truncated, {}

    def render(self):
        return np.full((20, 30, 3), 10 * self.step_number, dtype=np.uint8)

    def _observation(self):
        return np.array([self.episode, self.step_number], dtype=np.float32)


class Endless(gymnasium.Env):
    """A constant state with reward 1 per step, truncated by a time limit of 10 steps."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action):
        return np.ones(1, dtype=np.float32), 1.0, False, False, {}


class Target(gymnasium.Env):
    """A contextual bandit, for each kind of action: the state names the best action.

    One step; the reward grows with the action's closeness to it. Any working learner solves it.
    """

    def __init__(self, kind: str = "discrete") -> None:
        self.kind = kind
        self.observation_space = spaces.Discrete(3)
        self.action_space = {
            "discrete": spaces.Discrete(3, start=1),
            "multi": spaces.MultiDiscrete([3, 2]),
            "box": spaces.Box(-2.0, 2.0, (1,), np.float32),
        }[kind]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(3))
        return self.state, {}

    def step(self, action):
        assert self.action_space.contains(action)
        if self.kind == "discrete":
            reward = float(action == self.state + 1)
        elif self.kind == "multi":
            reward = (float(action[0] == self.state) + float(action[1] == self.state % 2)) / 2
        else:
            reward = 1 - abs(float(action[0]) - (self.state - 1))
        return self.state, reward, True, False, {}


@pytest.fixture(scope="session", autouse=True)
def scripted_environments() -> Iterator[None]:
    names = {"Counter-v0": Counter, "Endless-v0": Endless, "Target-v0": Target}
    for name, kind in names.items():
        limit = 10 if kind is Endless else None
        gymnasium.register(name, entry_point=kind, max_episode_steps=limit)
    yield
    for name in names:
        del gymnasium.registry[name]


@pytest.fixture
def counter_log() -> list[tuple]:
    Counter.transitions.clear()
    return Counter.transitions
