"""Options of the control commands, and the tuned settings of each algorithm and environment.

Imports neither torch nor numpy nor gymnasium, so that `--help` is fast.
"""

import difflib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from rlhf_pg.core.algorithms import LearnerConfig, algorithm
from rlhf_pg.core.options import Options, check_options, made_from, option
from rlhf_pg.runs import options_of
from rlhf_pg.trust import check


@dataclass
class PolicyConfig(Options):
    """The networks and the action distribution."""

    hidden: list[int] = option([64, 64], at_least=1)
    """Units of each hidden layer, usually 32 to 256."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Activation of the hidden layers; tanh is usual for vector observations."""
    shared: bool = False
    """Share the hidden layers between actor and critic: faster, but their gradients compete."""
    orthogonal: bool = True
    """Orthogonal initial weights, with gain sqrt(2), 0.01 (policy head) and 1 (value head)."""
    squash: bool = False
    """Squash real-valued actions into their bounds with tanh instead of clipping them."""
    state_dependent_std: bool = False
    """Let the network output the standard deviation, instead of one parameter per dimension."""
    log_std: float = option(0.0, at_least=-20, at_most=20)
    """Initial log standard deviation of real-valued actions, usually -1 to 0."""
    normalise: bool = False
    """Scale observations by their running mean and standard deviation."""


# Learner settings that all control algorithms share, where they differ from text.
_CONTROL: dict[str, Any] = dict(
    gamma=0.99, value_coef=0.5, value_clip=None, max_grad_norm=0.5, reduction="token"
)


@dataclass
class ControlConfig(Options):
    """One training run on a Gymnasium environment."""

    env: str = "CartPole-v1"
    """Gymnasium id; "module:Id-v0" imports the module first, which may be in the current folder."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as in --env_options.max_episode_steps 1000."""
    algorithm: str = "ppo"
    """reinforce, reinforce-baseline, actor-critic, a2c, ppo, a3c (a2c in worker processes), rloo or
    grpo (which compare the episodes of one rollout)."""
    seed: int = option(0, at_least=0)
    """Random seed; the same seed gives the same run, except with a3c."""
    environments: int = option(16, at_least=1, at_most=100_000)
    """Environments stepped in parallel, usually 1 to 64; with a3c, in each worker."""
    rollout_steps: int | None = option(32, at_least=1)
    """Steps of each environment per update, usually 5 to 2048; null: one whole episode of each."""
    total_steps: int = option(200_000, at_least=1)
    """Environment steps of the run, usually 50,000 to 1,000,000."""
    threshold: float | None = None
    """Score at which a run counts as solved: the mean of an evaluation less two standard errors.
    null: the environment's own, if any."""
    stop_when_solved: bool = True
    """Stop at the threshold, instead of after all steps."""
    eval_episodes: int = option(100, at_least=1, at_most=100_000)
    """Episodes per evaluation, usually 20 to 100, each in its own environment."""
    eval_interval: int = option(10_000, at_least=1)
    """Environment steps between evaluations, usually 1,000 to 50,000."""
    greedy: bool = False
    """Evaluate the most likely action instead of sampling."""
    normalise_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    entropy_temperature: float = option(0.0, at_least=0)
    """Weight of the entropy in the reward (maximum-entropy objective), usually 0 to 0.2."""
    target_entropy: float | None = None
    """Tune the temperature towards this entropy, in nats per action; usually half of log(number of
    actions), or minus the number of real-valued dimensions. Null: the temperature is constant."""
    workers: int = option(2, at_least=1, at_most=1024)
    """Worker processes of a3c, usually one per core."""
    checkpoint_every: int | None = option(None, at_least=0)
    """Iterations between checkpoints, to resume from; 0 writes none. By default as often as takes
    under 5 % of the time, and at most every 10 seconds."""
    output: str | None = None
    """Folder of the run, which must be new or empty; null: runs/ENV-ALGORITHM."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The networks."""
    learner: LearnerConfig = field(default_factory=lambda: algorithm("ppo", **_CONTROL))
    """The algorithm's settings."""

    def check(self) -> None:
        """Raise ValueError if an option is out of range or contradicts another.

        Ranges are checked again, since attributes may have been set after the object was made.
        """
        check_options(self)
        learner_config(self.algorithm)
        for name in ("gamma", "lr"):
            if getattr(self.learner, name) <= 0:
                raise ValueError(
                    f"learner.{name} must be above 0, not {getattr(self.learner, name)}"
                )
        if self.learner.baseline != "critic" and self.rollout_steps is not None:
            raise ValueError(
                f'baseline "{self.learner.baseline}" has no critic to bootstrap a cut episode; '
                "set rollout_steps to null, for whole episodes"
            )
        running = {
            "policy.normalise": self.policy.normalise,
            "normalise_rewards": self.normalise_rewards,
            "target_entropy": self.target_entropy is not None,
        }
        if self.algorithm == "a3c" and any(running.values()):
            name = next(name for name, used in running.items() if used)
            raise ValueError(
                f"a3c shares parameters but no running statistics: unset {name}, or use a2c"
            )


@dataclass
class CompareConfig(Options):
    """Several algorithms on one environment, each with its preset, over several seeds."""

    env: str = "CartPole-v1"
    """Gymnasium id, as in `rlhf-pg control`."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, as in --env_options.max_episode_steps 1000."""
    algorithms: list[str] = field(
        default_factory=lambda: ["reinforce", "reinforce-baseline", "actor-critic", "a2c", "ppo"]
    )
    """Names as for `rlhf-pg control`."""
    seeds: int = option(5, at_least=1)
    """Runs of each algorithm, usually 3 to 10."""
    total_steps: int = option(200_000, at_least=1)
    """Environment steps of each run, at most; usually 50,000 to 1,000,000."""
    threshold: float | None = None
    """Score at which a run counts as solved and stops; null: the environment's own, if any."""
    eval_episodes: int = option(100, at_least=1, at_most=100_000)
    """Episodes per evaluation, usually 20 to 100."""
    eval_interval: int = option(5_000, at_least=1)
    """Environment steps between evaluations, usually 1,000 to 50,000."""
    gradient_batches: int = option(100, at_least=0)
    """Gradient estimates, each from 16 whole episodes, usually 50 to 500; 0: not measured."""
    probe_steps: int = option(10_000, at_least=1)
    """Environment steps for which a2c trains the policy and critic at which the gradient is
    measured, usually 5,000 to 50,000."""
    output: str | None = None
    """Folder of the results, which must be new or empty; null: runs/compare-ENV."""


@dataclass
class WatchConfig(Options):
    """Record a trained agent as an animated GIF."""

    run: str = "runs/CartPole-v1-ppo"
    """Folder of a control run, or best/ in one."""
    episodes: int = option(1, at_least=1)
    """Episodes, usually 1 to 5."""
    seed: int = option(0, at_least=0)
    """Random seed of the environment and the actions."""
    greedy: bool = False
    """Take the most likely action instead of sampling."""
    max_frames: int = option(500, at_least=1, at_most=20_000)
    """Frames at most, usually 200 to 2,000; all of them are held in memory."""
    output: str | None = None
    """A .gif file; null: watch.gif in the run's folder."""
    trust: bool = False
    """Load the code, hub names and outside paths that the config.yaml of somebody else's run
    names."""


# Settings of an algorithm on any environment, and on one environment. A name belongs to the part
# of the configuration (run, learner, policy) that has such a field.
_GENERAL: dict[str, dict[str, Any]] = {
    "reinforce": dict(rollout_steps=None, lr=5e-3),
    "reinforce-baseline": dict(rollout_steps=None, lr=5e-3),
    "actor-critic": dict(environments=32, rollout_steps=1, lr=5e-4),
    "a2c": dict(rollout_steps=16, lr=2e-3, normalise=True, entropy_coef=0.01),
    "a3c": dict(environments=8, rollout_steps=16, lr=2e-3, entropy_coef=0.01),
    "ppo": dict(rollout_steps=128, lr=1e-3, minibatches=8),
    "rloo": dict(rollout_steps=None, lr=5e-3),
    "grpo": dict(rollout_steps=None, lr=5e-3),
}
_TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("CartPole-v1", "reinforce-baseline"): dict(lr=0.02),
    ("CartPole-v1", "a2c"): dict(
        environments=32, rollout_steps=32, lr=0.01, gamma=0.98, lam=0.97, normalise=False,
        entropy_coef=0.0,
    ),
    ("CartPole-v1", "a3c"): dict(
        rollout_steps=32, lr=5e-3, gamma=0.98, lam=0.97, entropy_coef=0.0
    ),
    ("CartPole-v1", "actor-critic"): dict(lr=1e-3, gamma=0.98),
    ("CartPole-v1", "ppo"): dict(
        environments=32, rollout_steps=32, lr=5e-3, gamma=0.98, lam=0.97, minibatches=2
    ),
    ("Pendulum-v1", "ppo"): dict(
        rollout_steps=64, total_steps=200_000, lr=1e-3, lr_decay_updates=196, gamma=0.95, lam=0.9,
        epochs=10, minibatches=8, normalise=True, normalise_rewards=True, squash=True,
        log_std=-0.5,
    ),
}  # fmt: skip
CONTROL_ALGORITHMS = tuple(_GENERAL)


def learner_config(name: str) -> LearnerConfig:
    """Learner settings of a control algorithm; ValueError, with the nearest name, if unknown."""
    if name not in CONTROL_ALGORITHMS:
        near = difflib.get_close_matches(name, CONTROL_ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(CONTROL_ALGORITHMS)
        raise ValueError(f"unknown algorithm {name!r}: use one of {known}{hint}")
    return algorithm("a2c" if name == "a3c" else name, **_CONTROL)


def preset(name: str, env: str = "CartPole-v1") -> ControlConfig:
    """Settings of an algorithm on an environment: tuned ones, or general ones if there are none.

    Raises ValueError for an unknown algorithm.
    """
    config = ControlConfig(env=env, algorithm=name, learner=learner_config(name))
    return tuned(config, **{**_GENERAL[name], **_TUNED.get((env, name), {})})


def tuned(config: ControlConfig, **values: Any) -> ControlConfig:
    """The configuration with values replaced, each in the part that has a field of that name.

    `seed` is the run's seed. Raises TypeError for an unknown name.
    """
    for part in ("learner", "policy"):
        names = {item.name for item in fields(getattr(config, part))} - {"seed"}
        own = {name: values.pop(name) for name in list(values) if name in names}
        config = replace(config, **{part: replace(getattr(config, part), **own)})
    return replace(config, **values)


def control_run(path: str | Path) -> Path | None:
    """The control run that a folder is or is inside of (RUN/best); None if there is none."""
    here = Path(path)
    found = (run for run in (here, *here.parents[:3]) if {"env", "greedy"} <= set(options_of(run)))
    return next(found, None)


def read_config(run: Path, trust: bool = False) -> ControlConfig:
    """The configuration of a run, from its config.yaml.

    Raises ValueError if the folder holds no control run, one with unknown or wrong options or,
    without `trust`, one of unknown origin whose environment is code of its own (rlhf_pg.trust).
    """
    options = options_of(run)
    if "env" not in options:
        raise ValueError(f"{run} holds no control run: its config.yaml names no env")
    config: ControlConfig = made_from(ControlConfig, options, str(run / "config.yaml"))
    check(run, {"env": config.env, "env_options": config.env_options}, trust)
    return config
