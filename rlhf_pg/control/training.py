"""The control loop: iterate, evaluate, stop at the threshold; and the run folder it leaves."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rlhf_pg.control.entropy import CollapseWatch
from rlhf_pg.control.evaluation import Evaluator, surely_reaches
from rlhf_pg.control.pictures import WITHOUT_MATPLOTLIB, have_matplotlib, learning_curve
from rlhf_pg.control.policies import ActorCritic, save_policy
from rlhf_pg.control.presets import ControlConfig, preset
from rlhf_pg.control.synchronous import Synchronous
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, saved_whole

__all__ = ["ControlConfig", "ControlResult", "Outcome", "learn", "preset", "train"]


class Learning(Protocol):
    """What `learn` drives: `Synchronous`, or the processes of a3c."""

    policy: ActorCritic
    steps: int
    seconds: float

    def iterate(self) -> dict[str, float]: ...
    def paused(self) -> AbstractContextManager[None]: ...
    def close(self) -> None: ...


@dataclass
class Outcome:
    """What came of a run."""

    score: float  # mean of the last evaluation, on episodes that decided nothing
    score_std: float  # of an episode
    steps: int
    seconds: float  # of training, evaluation left out
    solved: bool  # whether it stopped at the threshold
    lines: list[dict[str, float]]  # what was logged


def learn(
    training: Learning, config: ControlConfig, report: Callable[[dict[str, float]], None]
) -> Outcome:
    """Iterate and evaluate, to the threshold or the end of the steps, then evaluate once more."""
    evaluate = Evaluator(config, training.policy)
    lines: list[dict[str, float]] = []
    solved, due = False, config.eval_interval
    try:
        while training.steps < config.total_steps and not solved:
            line = training.iterate()
            line["training_seconds"] = round(training.seconds, 4)
            if training.steps >= due:
                due = training.steps + config.eval_interval
                with training.paused():
                    scores = evaluate()
                line["eval_score"], line["eval_score_std"] = scores.mean(), scores.std()
                solved = surely_reaches(scores, config.threshold)
            report(line)
            lines.append(line)
        with training.paused():
            scores = evaluate()
    finally:
        evaluate.close()
        training.close()
    mean, std = float(scores.mean()), float(scores.std())
    return Outcome(mean, std, training.steps, training.seconds, solved, lines)


def start(config: ControlConfig) -> Learning:
    """The training that a configuration asks for: in this process, or in those of a3c."""
    if config.algorithm == "a3c":
        from rlhf_pg.control.a3c import Asynchronous

        return Asynchronous(config)
    return Synchronous(config)


@dataclass
class ControlResult:
    """A finished run."""

    path: str  # its folder
    outcome: Outcome


def train(config: ControlConfig) -> ControlResult:
    """Train with live progress into a run folder: metrics, policy and a picture of the curve.

    Raises ValueError for what cannot be run, before anything is written, and FloatingPointError
    where training broke down.
    """
    training = start(config)
    name = f"{config.env}-{config.algorithm}".replace("/", "-").replace(":", "-")
    run = Run.create(config.output, name, config)
    watch = CollapseWatch(getattr(training.policy.distribution, "dimensions", None))
    with Progress(config.total_steps, f"{config.algorithm} on {config.env}") as progress:
        count = itertools.count(1)

        def report(line: dict[str, float]) -> None:
            warning = watch.look(line["entropy"], line["steps"] / config.total_steps)
            if warning:
                line["entropy_collapsed"] = 1.0
                progress.say(f"warning: {warning}")
            run.log(next(count), line)
            shown = {key: line[key] for key in ("score", "entropy", "eval_score") if key in line}
            progress.update(min(int(line["steps"]), config.total_steps), **shown)

        outcome = learn(training, config, report)
    about = {"env": config.env, "env_options": config.env_options, "algorithm": config.algorithm}
    with saved_whole(run.path / "policy") as folder:
        save_policy(training.policy, folder, {**about, "score": outcome.score})
    if have_matplotlib():
        title = f"{config.algorithm} on {config.env}"
        learning_curve(outcome.lines, run.path / "curve.png", title, config.threshold)
    else:
        console.print(WITHOUT_MATPLOTLIB)
    _say_what_came(run, config, outcome)
    return ControlResult(str(run.path), outcome)


def _say_what_came(run: Run, config: ControlConfig, outcome: Outcome) -> None:
    error = outcome.score_std / config.eval_episodes**0.5
    acting = "greedy" if config.greedy else "sampled"
    console.print(
        f"{config.algorithm} on {config.env}: {outcome.score:.1f} ± {error:.1f} over "
        f"{config.eval_episodes} new {acting} episodes, after {outcome.steps:,} steps and "
        f"{outcome.seconds:.1f} s of training"
    )
    if config.threshold is not None and not outcome.solved:
        console.print(f"the threshold of {config.threshold:g} was not reached")
    console.print(
        f"saved in {run.path}; look at it with: rlhf-pg inspect {run.path}", soft_wrap=True
    )
