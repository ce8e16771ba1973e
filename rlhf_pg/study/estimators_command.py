"""`rlhf-pg study estimators`: bias and variance of every gradient estimator at one policy."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_pg.language.rollout import Reward
from rlhf_pg.progress import console
from rlhf_pg.runs import Run, options_of, saved_text
from rlhf_pg.study.estimators.laboratory import laboratory
from rlhf_pg.study.estimators.measure import BLOCKS
from rlhf_pg.study.estimators.sources import Sizes, Source
from rlhf_pg.study.estimators.table import show

RESULT = "estimators.json"


@dataclass
class EstimatorsConfig:
    """Measure every gradient estimator at one policy.

    Without --model or --env it is a small task whose true gradient is known.
    """

    model: str | None = None
    """A run of `rlhf-pg train` or `rlhf-pg control`, measured where it ended."""
    env: str | None = None
    """A Gymnasium id, in place of a run: a2c learns there for `probe_steps` first."""
    reward: str | None = None
    """What pays, as `rlhf-pg train` takes it; None is the run's own."""
    rows: int = 16
    """Episodes in a batch, which gives one estimate; usually 8 to 64."""
    samples_per_prompt: int = 4
    """How many of these answer the same prompt, for the baselines that compare them; usually 2 to
    8."""
    estimates: int = 200
    """Batches; a multiple of 20. Standard errors fall with their root."""
    truth_rows: int = 8192
    """Episodes that give the true gradient where they cannot all be written down, usually 2,000 to
    50,000; they are drawn anew."""
    lambdas: list[float] = field(default_factory=lambda: [0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0])
    """GAE's lambdas."""
    ppo_steps: list[int] = field(default_factory=lambda: [0, 1, 2, 4, 8])
    """PPO's gradient is measured at the policies that so many of its steps lead to; each takes a
    truth of its own."""
    critic_batches: int = 32
    """Batches to fit a critic on, where there is none."""
    probe_steps: int = 10_000
    """Environment steps that a2c learns for with --env."""
    seed: int = 0
    """Of the draws."""
    output: str | None = None
    """Folder of estimators.json, which must be new; None is the run's own, or runs/estimators."""

    def check(self) -> None:
        """Raise ValueError, with the option named, for what cannot be measured."""
        if self.model and self.env:
            raise ValueError("give --model or --env, not both")
        if self.samples_per_prompt < 2 or self.rows % self.samples_per_prompt:
            raise ValueError(
                f"rows ({self.rows}) must be a multiple of samples_per_prompt "
                f"({self.samples_per_prompt}), and that at least 2"
            )
        if self.estimates < 2 * BLOCKS or self.estimates % BLOCKS:
            raise ValueError(
                f"estimates must be a multiple of {BLOCKS}, at least {2 * BLOCKS}, "
                f"not {self.estimates}"
            )
        for name in ("rows", "truth_rows", "critic_batches", "probe_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lambdas or not all(0 <= lam <= 1 for lam in self.lambdas):
            raise ValueError(f"lambdas must be from 0 to 1, not {self.lambdas}")
        if any(steps < 0 for steps in self.ppo_steps):
            raise ValueError(f"ppo_steps must not be below 0, but are {self.ppo_steps}")


def main(config: EstimatorsConfig, load_reward: Callable[[str], Reward]) -> dict[str, Any]:
    """Measure, print the table and what it shows, and save them."""
    config.check()
    source = open_source(config, load_reward)
    result = laboratory(source, config.estimates, config.lambdas, config.ppo_steps)
    if config.model and config.output is None and options_of(config.model):
        folder = Path(config.model)
    else:
        folder = Run.create(config.output, "estimators", config).path
    saved_text(folder / RESULT, json.dumps(result, ensure_ascii=False, allow_nan=False))
    show(result)
    console.print(f"saved in {folder / RESULT}", markup=False)
    return result


def open_source(config: EstimatorsConfig, load_reward: Callable[[str], Reward]) -> Source:
    """The small task, the run or the environment that is asked for."""
    sizes = Sizes(
        config.rows,
        config.samples_per_prompt,
        config.truth_rows,
        config.critic_batches,
        config.seed,
    )
    if config.env or (config.model and "env" in options_of(config.model)):
        from rlhf_pg.study.estimators import control

        if config.env:
            return control.learned(config.env, config.probe_steps, sizes)
        return control.from_run(str(config.model), sizes)
    from rlhf_pg.study.estimators import text

    if config.model:
        return text.Text(config.model, load_reward, sizes, config.reward)
    from rlhf_pg.study.tasks import small_task

    return text.Enumerated(small_task(), sizes)
