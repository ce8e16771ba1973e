"""Gymnasium environments, many side by side, and their observations as flat vectors."""

import difflib
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv


def make_environments(name: str, count: int, options: dict[str, Any] | None = None) -> VectorEnv:
    """`count` copies of a Gymnasium id, by its own vector version where it has one.

    `options` go to the environment. All of them reset on the step after an end, whose action is
    ignored: the mode that every Gymnasium vector environment shares. Raises ValueError for an
    unknown id (with the nearest one), an option it does not take, or an environment that resets
    otherwise.
    """
    if count < 1:
        raise ValueError(f"environments must be at least 1, not {count}")
    try:
        with warnings.catch_warnings():
            # "out of date" and the like: the id is the caller's choice.
            warnings.simplefilter("ignore")
            environments = gymnasium.make_vec(name, num_envs=count, **(options or {}))
    except gymnasium.error.Error as error:
        if isinstance(error, gymnasium.error.DependencyNotInstalled):
            raise ValueError(f"environment {name}: {error}") from error
        near = difflib.get_close_matches(name, gymnasium.registry, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no Gymnasium environment {name!r}{hint} ({error})") from error
    except TypeError as error:
        raise ValueError(f"environment {name} does not take {options}: {error}") from error
    mode = environments.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(f"environment {name} resets by {mode}; only NEXT_STEP is supported")
    return environments


def observation_size(space: spaces.Space) -> int:
    """Length of the vector that an observation becomes; ValueError where it is neither kind."""
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ValueError(
        f"observation space {space} is not supported; wrap the environment so that it gives "
        "Box or Discrete observations"
    )


def encode(space: spaces.Space, observations: np.ndarray) -> np.ndarray:
    """Observations of N environments as float32 vectors (N, size); a Discrete one is one-hot."""
    if isinstance(space, spaces.Discrete):
        return np.eye(int(space.n), dtype=np.float32)[observations - space.start]
    return observations.reshape(len(observations), -1).astype(np.float32, copy=False)
