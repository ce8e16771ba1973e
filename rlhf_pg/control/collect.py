"""Environments in parallel, and the hot loop that turns their steps into a `Rollout`.

Vector environments reset on the step after an episode's end. So the observation after any step is
the true next state, also where an episode ended, and V(s_{t+1}) is simply the next column's value.
The step that only resets is not a transition: it is masked out.
"""

import difflib
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from reward_models.loading import code_file, current_folder_importable
from rlhf_pg.control.action_log import ActionLog
from rlhf_pg.control.policy import ActorCritic, encode
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.progress import console, plain

LIMIT_OPTION = "--env_options.max_episode_steps 1000"


def own_threshold(env: str) -> float | None:
    """The score at which an environment that was made before counts as solved, if it says one."""
    return gymnasium.spec(env.rpartition(":")[2]).reward_threshold


def time_limit(env: str, options: Mapping[str, Any]) -> int | None:
    """Steps after which an environment that was made before truncates an episode; None: never."""
    own = gymnasium.spec(env.rpartition(":")[2]).max_episode_steps
    limit: int | None = options.get("max_episode_steps") or own
    return limit if limit and limit > 0 else None  # -1 takes the limit away


def introduce(env: str, options: Mapping[str, Any]) -> None:
    """Make an environment for the first time. Print which file its code is loaded from, and that it
    has no time limit if it has none. Raises ValueError as `make_environments`."""
    file = Path(code_file(env)) if ":" in env else None
    if file and file.is_file():
        console.print(plain(f"loading code: {env} from {file}"), markup=False)
    make_environments(env, 1, options).close()
    if time_limit(env, options) is None:
        text = f"{env} has no time limit; if an episode may never end, set one: {LIMIT_OPTION}"
        console.print(f"note: {text}", markup=False)


def make_environments(name: str, count: int, options: Mapping[str, Any] | None = None) -> VectorEnv:
    """`count` copies of a Gymnasium id, by its own vector version if it has one.

    `options` are the environment's keyword arguments. All copies reset on the step after an end,
    which ignores its action: the one mode that every Gymnasium vector environment supports. Raises
    ValueError as `making`, or for an environment that resets otherwise.
    """
    if count < 1:
        raise ValueError(f"environments must be at least 1, not {count}")
    with making(name, options):
        environments = gymnasium.make_vec(name, num_envs=count, **(options or {}))
    mode = environments.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(f"environment {name} resets by {mode}; only NEXT_STEP is supported")
    return environments


@contextmanager
def making(name: str, options: Mapping[str, Any] | None) -> Iterator[None]:
    """Make an environment within the block: "module:Id" is also found in the current folder.

    Raises ValueError for an unknown id (naming the nearest one), an option that the environment
    does not take, or an environment whose module or constructor raises.
    """
    try:
        with current_folder_importable(), warnings.catch_warnings():
            # Gymnasium warns that an id is out of date; which one to use is the caller's choice.
            warnings.simplefilter("ignore")
            yield
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"environment {name}: {error}") from error
    except gymnasium.error.Error as error:
        module, colon, own = name.rpartition(":")
        near = difflib.get_close_matches(own, gymnasium.registry, n=1)
        hint = f"; did you mean {module + colon + near[0]!r}?" if near else ""
        raise ValueError(f"no Gymnasium environment {name!r}{hint} ({error})") from error
    except (Exception, SystemExit) as error:  # of the environment's own code
        if isinstance(error, TypeError) and options:
            raise ValueError(f"environment {name} does not take {options}: {error}") from error
        raise failed(name, error) from error


def failed(name: str, error: BaseException) -> ValueError:
    """An error of an environment's own code as one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and f.filename[0] != "<"]
    message = " ".join(str(error).split())
    place = f" (at {own[-1].filename}:{own[-1].lineno})" if own[-1].filename != __file__ else ""
    return ValueError(f"environment {name} failed: {type(error).__name__}: {message}{place}")


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
    """A finished episode."""

    score: float  # undiscounted sum of rewards
    length: int  # in steps


class Collector:
    """Environments in parallel and the policy that acts in them; keeps its place between calls."""

    LONGEST = 100_000  # steps of an episode, after which it counts as endless

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
        self.finished: list[Episode] = []  # since `episode_metrics`
        self.log: ActionLog | None = None  # of a run that may be resumed
        self.restart(seed)

    def restart(self, seed: int | None = None) -> None:
        """Begin a new episode in every environment."""
        if self.log:
            self.log.restart()
        try:
            observations, _ = self.environments.reset(seed=seed)
        except (Exception, SystemExit) as error:
            raise failed(self._name(), error) from error
        self.observations = self._encode(observations)  # (N, size)
        self.resetting = np.zeros(self.environments.num_envs, dtype=bool)
        self.scores[:], self.lengths[:] = 0, 0

    def collect(self, steps: int | None) -> Rollout:
        """The next `steps` steps of every environment; None: one whole episode of each."""
        return self.episodes() if steps is None else self.segment(steps)

    def segment(self, steps: int) -> Rollout:
        """The next `steps` steps of every environment, (N, steps); an episode may go on later."""
        return self._rollout(list(self._walk(self._noise(steps))))

    def episodes(self) -> Rollout:
        """One whole new episode of every environment, (N, longest).

        Exactly one each: taking the first N to end would favour short episodes.
        """
        rollout = self._rollout(self._whole_episodes())
        # All episodes begin alike, so that each may be compared to the others.
        rollout.group_size = len(rollout)
        return rollout

    def play(self) -> np.ndarray:
        """Scores (N,) of one whole new episode of every environment."""
        self.finished.clear()
        self._count_episodes(*self._outcome(self._whole_episodes())[:3])
        return np.array([episode.score for episode in self.finished])

    def episode_metrics(self) -> dict[str, float]:
        """Mean score and length of the episodes that ended since the last call, if any did."""
        finished, self.finished = self.finished, []
        if not finished:
            return {}
        return {
            "score": float(np.mean([episode.score for episode in finished])),
            "length": float(np.mean([episode.length for episode in finished])),
        }

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
                    f"an episode of {self._name()} did not end within {self.LONGEST:,} steps: set "
                    f"a time limit, {LIMIT_OPTION}"
                )
        return steps

    def _walk(self, noise: np.ndarray) -> Iterator[Step]:
        """Act once for every row of noise (T, N, ...)."""
        act, to_environment = self.policy.acting(), self.policy.distribution.to_environment
        for row in noise:
            actions = act(self.observations, row)
            performed = to_environment(actions)
            if self.log:
                self.log.step(actions)
            try:
                observations, rewards, terminated, truncated, _ = self.environments.step(performed)
            except (Exception, SystemExit) as error:
                raise failed(self._name(), error) from error
            ended = terminated | truncated
            before, real = self.observations, ~self.resetting
            self.observations, self.resetting = self._encode(observations), ended
            yield Step(before, actions, rewards, terminated, ended, real)

    def _rollout(self, steps: list[Step]) -> Rollout:
        rewards, ends, mask, terminated = self._outcome(steps)
        self._count_episodes(rewards, ends, mask)
        inputs = torch.from_numpy(np.stack([step.observations for step in steps], 1))
        actions = torch.from_numpy(np.stack([step.actions for step in steps], 1))
        # Log-probabilities and values of all steps, in one forward after the steps are done.
        with torch.no_grad():
            now = self.policy.evaluate_actions(inputs, actions)
            last = self.policy.values(torch.from_numpy(self.observations)).unsqueeze(1)
        values = torch.zeros_like(now.logprobs) if now.values is None else now.values
        # V(s_{t+1}) is 0 after a termination, and bootstraps after a truncation or a segment's end.
        following = torch.cat([values[:, 1:], last], 1)
        return Rollout(
            inputs=inputs,
            actions=actions,
            logprobs=now.logprobs,
            values=values,
            next_values=following * ~torch.from_numpy(terminated),
            rewards=torch.from_numpy(rewards),
            ends=torch.from_numpy(ends),
            mask=torch.from_numpy(mask),
        )

    def _outcome(self, steps: list[Step]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rewards, ends, mask and terminations of the steps, each (N, T)."""
        mask = np.stack([step.real for step in steps], 1)
        rewards = np.stack([step.rewards for step in steps], 1).astype(np.float32) * mask
        ends = np.stack([step.ended for step in steps], 1) & mask
        terminated = np.stack([step.terminated for step in steps], 1) & mask
        return rewards, ends.astype(np.float32), mask, terminated

    def _count_episodes(self, rewards: np.ndarray, ends: np.ndarray, mask: np.ndarray) -> None:
        """Sum up the episodes that ended, and carry the open ones' sums to the next rollout."""
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

    def keep_log(self, path: Path) -> None:
        """Write everything that is done to the environments from now on to a file."""
        self.log = ActionLog(path, self.policy.distribution.stored, self.environments.num_envs)

    def close(self) -> None:
        """Release the environments and the log."""
        self.environments.close()
        if self.log:
            self.log.close()

    def state_dict(self) -> dict[str, Any]:
        """What reproduces the collector and, together with the log, its environments."""
        assert self.log is not None
        return {
            "log": self.log.flush(),
            "observations": torch.from_numpy(self.observations),
            "resetting": torch.from_numpy(self.resetting),
            "scores": torch.from_numpy(self.scores),
            "lengths": torch.from_numpy(self.lengths),
            "finished": [[episode.score, episode.length] for episode in self.finished],
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Repeat what the log holds, in environments that only had their first reset.

        Raises ValueError if the environments do not end in the same state: then they are not
        deterministic, and a run cannot be resumed.
        """
        assert self.log is not None
        last = self.observations
        for actions in self.log.read(state.get("log", -1)):
            if actions is None:
                observations, _ = self.environments.reset()
            else:
                whole = actions.astype(np.int64) if actions.dtype == np.uint8 else actions
                performed = self.policy.distribution.to_environment(whole)
                observations = self.environments.step(performed)[0]
            last = self._encode(observations)
        if not np.array_equal(last, state["observations"].numpy()):
            raise ValueError(
                "the environments did not repeat their steps: they are not deterministic given "
                "their seed, so the run cannot be resumed"
            )
        self.observations = state["observations"].numpy().copy()
        self.resetting = state["resetting"].numpy().copy()
        self.scores = state["scores"].numpy().copy()
        self.lengths = state["lengths"].numpy().copy()
        self.finished = [Episode(score, int(length)) for score, length in state["finished"]]
        self.rng.bit_generator.state = state["rng"]

    def _noise(self, steps: int) -> np.ndarray:
        shape = (steps, self.environments.num_envs)
        noise = self.policy.distribution.noise(shape, self.rng)
        return np.zeros_like(noise) if self.greedy else noise

    def _name(self) -> str:
        spec = self.environments.spec
        return spec.id if spec else type(self.environments).__name__

    def _encode(self, observations: Any) -> np.ndarray:
        return encode(self.environments.single_observation_space, observations)
