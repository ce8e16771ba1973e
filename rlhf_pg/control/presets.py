"""What to ask of a control run, and the settings that work for each algorithm and environment."""

import difflib
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rlhf_pg.control.policies import PolicyConfig
from rlhf_pg.core.algorithms import LearnerConfig, algorithm


@dataclass
class ControlConfig:
    """One training run on a Gymnasium environment."""

    env: str = "CartPole-v1"
    """Gymnasium id; "module:Id-v0" imports the module first."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Given to the environment when it is made."""
    algorithm: str = "ppo"
    """reinforce, reinforce-baseline, actor-critic, a2c, ppo, a3c (a2c in worker processes); rloo
    and grpo compare the episodes that side by side begin alike."""
    seed: int = 0
    """Of everything random; the same seed gives the same run (a3c excepted)."""
    environments: int = 16
    """Copies side by side, usually 1 to 64; for a3c, in each worker."""
    rollout_steps: int | None = 32
    """Steps of each environment per update, usually 5 to 2048; none: one whole episode of each."""
    total_steps: int = 200_000
    """Environment steps in all, resets not counted."""
    threshold: float | None = None
    """Stop once an evaluation's mean is above this by two standard errors; none: never."""
    eval_episodes: int = 100
    """Episodes in an evaluation, usually 20 to 100; each in an environment of its own."""
    eval_interval: int = 10_000
    """Environment steps between evaluations."""
    greedy: bool = False
    """Evaluate the most likely action, in place of sampling as in training."""
    normalise_rewards: bool = False
    """Divide rewards by the running deviation of the discounted return."""
    entropy_temperature: float = 0.0
    """Weight of the entropy in the reward (maximum-entropy objective), usually 0 to 0.2."""
    target_entropy: float | None = None
    """Tune the temperature toward this many nats per action, usually half of log(number of
    actions), or minus the number of real-valued dimensions; none: it stays."""
    workers: int = 2
    """Processes of a3c, usually one per core."""
    output: str | None = None
    """Folder of the run, which must be new; none: runs/ENV-ALGORITHM."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The networks."""
    learner: LearnerConfig = field(default_factory=lambda: algorithm("ppo", **_CONTROL))
    """How a rollout becomes a gradient step."""

    def check(self) -> None:
        """Raise ValueError, with the field named, for what cannot be run."""
        learner_algorithm(self.algorithm)  # which names an unknown one
        for item in ("environments", "total_steps", "eval_episodes", "eval_interval", "workers"):
            if getattr(self, item) < 1:
                raise ValueError(f"{item} must be at least 1, not {getattr(self, item)}")
        if self.rollout_steps is not None and self.rollout_steps < 1:
            raise ValueError(f"rollout_steps must be at least 1, not {self.rollout_steps}")
        if self.learner.baseline != "critic" and self.rollout_steps is not None:
            raise ValueError(
                f'baseline "{self.learner.baseline}" has no critic to continue a cut episode; '
                "set rollout_steps to null, for whole episodes"
            )
        if not 0 < self.learner.gamma <= 1:
            raise ValueError(
                f"learner.gamma must be above 0 and at most 1, not {self.learner.gamma}"
            )
        if self.learner.lr <= 0:
            raise ValueError(f"learner.lr must be above 0, not {self.learner.lr}")


# What every algorithm shares here, unlike in text.
_CONTROL: dict[str, Any] = dict(
    gamma=0.99, value_coef=0.5, value_clip=None, max_grad_norm=0.5, reduction="token"
)

# By algorithm, where nothing better is known of the environment; and by both. Fields of the learner
# and the policy are told from those of the run by their names, which clash in `seed` alone.
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


def learner_algorithm(name: str) -> LearnerConfig:
    """The learner of a control algorithm, with what control asks of it.

    Raises ValueError for an unknown name, with the nearest known one.
    """
    if name not in CONTROL_ALGORITHMS:
        near = difflib.get_close_matches(name, CONTROL_ALGORITHMS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(CONTROL_ALGORITHMS)
        raise ValueError(f"unknown algorithm {name!r}: use one of {known}{hint}")
    return algorithm("a2c" if name == "a3c" else name, **_CONTROL)


def preset(name: str, env: str = "CartPole-v1") -> ControlConfig:
    """The settings that work for an algorithm on an environment.

    Raises ValueError for an unknown algorithm. An unknown environment gets general settings.
    """
    config = ControlConfig(env=env, algorithm=name, learner=learner_algorithm(name))
    return tuned(config, **{**_GENERAL[name], **_TUNED.get((env, name), {})})


def tuned(config: ControlConfig, **values: Any) -> ControlConfig:
    """The configuration with values replaced, each in the part that has a field of that name."""
    for part in ("learner", "policy"):
        names = {item.name for item in fields(getattr(config, part))} - {"seed"}
        mine = {name: values.pop(name) for name in list(values) if name in names}
        config = replace(config, **{part: replace(getattr(config, part), **mine)})
    return replace(config, **values)
