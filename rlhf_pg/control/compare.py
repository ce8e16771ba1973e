"""Algorithms side by side on one environment: curves, time to the threshold, gradient noise."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, median, stdev

import gymnasium
import numpy as np
import torch

from rlhf_pg.control.environments import make_environments
from rlhf_pg.control.gradients import gradient_noise
from rlhf_pg.control.pictures import WITHOUT_MATPLOTLIB, compared_curves, have_matplotlib
from rlhf_pg.control.presets import preset, tuned
from rlhf_pg.control.synchronous import Synchronous
from rlhf_pg.control.training import Outcome, learn, start
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run


@dataclass
class CompareConfig:
    """Several algorithms on one environment, each with its preset, over several seeds."""

    env: str = "CartPole-v1"
    """Gymnasium id."""
    algorithms: list[str] = field(
        default_factory=lambda: ["reinforce", "reinforce-baseline", "actor-critic", "a2c", "ppo"]
    )
    """Names as for `rlhf-pg control`."""
    seeds: int = 5
    """Runs of each, usually at least 3."""
    total_steps: int = 200_000
    """Environment steps at most in each run."""
    threshold: float | None = None
    """Where a run counts as solved, and stops; none: what the environment declares, if it does."""
    eval_episodes: int = 100
    """Episodes in an evaluation."""
    eval_interval: int = 5_000
    """Environment steps between evaluations."""
    gradient_batches: int = 100
    """Estimates of the gradient, each from 16 whole episodes; 0 leaves the measurement out."""
    probe_steps: int = 10_000
    """Steps that a2c learns for, to make the policy and critic at which they are measured."""
    output: str | None = None
    """Folder of the results, which must be new; none: runs/compare-ENV."""


@dataclass
class Row:
    """One algorithm's results."""

    algorithm: str
    solved: int  # runs that reached the threshold
    runs: int
    steps: float  # median to the end of the run: the threshold, or all
    seconds: float  # median of training
    score: float  # mean over seeds of the last evaluation
    score_std: float  # over seeds
    gradient_variance: float | None = None
    gradient_noise: float | None = None  # variance per squared length of the mean
    gradient_cosine: float | None = None  # of its mean with that of reinforce-baseline


EPISODES_PER_GRADIENT = 16


def compare(config: CompareConfig) -> list[Row]:
    """Run them all; write curves.png, table.md and results.json, and print the table.

    Raises ValueError for an unknown environment or algorithm, before anything is run.
    """
    if config.seeds < 1 or not config.algorithms:
        raise ValueError("compare needs at least one algorithm and one seed")
    make_environments(config.env, 1).close()
    if config.threshold is None:
        config = replace(config, threshold=gymnasium.spec(config.env).reward_threshold)
    for name in config.algorithms:
        preset(name, config.env).check()
    run = Run.create(config.output, f"compare-{config.env}".replace("/", "-"), config)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in config.algorithms}
    with Progress(len(config.algorithms) * config.seeds, f"compare on {config.env}") as progress:
        for done, (name, outcome) in enumerate(_outcomes(config), 1):
            outcomes[name].append(outcome)
            progress.update(done, score=outcome.score)
            end = "solved" if outcome.solved else "not solved"
            progress.say(
                f"{name}: {outcome.score:.1f} after {outcome.steps:,} steps, "
                f"{outcome.seconds:.2f} s, {end}"
            )
    rows = [_row(name, of) for name, of in outcomes.items()]
    if config.gradient_batches:
        measure_gradients(config, rows)
    text = table(rows)
    (run.path / "table.md").write_text(text)
    results = {
        "rows": [asdict(r) for r in rows],
        "runs": {n: _curves(o) for n, o in outcomes.items()},
    }
    (run.path / "results.json").write_text(json.dumps(results))
    _draw(config, outcomes, run)
    console.print(text)
    console.print(f"saved in {run.path}", soft_wrap=True)
    return rows


def _outcomes(config: CompareConfig) -> Iterator[tuple[str, Outcome]]:
    for seed in range(config.seeds):
        for name in config.algorithms:
            asked = tuned(
                preset(name, config.env),
                seed=seed,
                total_steps=config.total_steps,
                threshold=config.threshold,
                eval_episodes=config.eval_episodes,
                eval_interval=config.eval_interval,
            )
            yield name, learn(start(asked), asked, lambda line: None)


def _row(name: str, outcomes: list[Outcome]) -> Row:
    scores = [outcome.score for outcome in outcomes]
    return Row(
        algorithm=name,
        solved=sum(outcome.solved for outcome in outcomes),
        runs=len(outcomes),
        steps=median(outcome.steps for outcome in outcomes),
        seconds=median(outcome.seconds for outcome in outcomes),
        score=mean(scores),
        score_std=stdev(scores) if len(scores) > 1 else 0.0,
    )


def measure_gradients(config: CompareConfig, rows: list[Row]) -> None:
    """Fill in each row's gradient noise, all at one policy, from the same whole episodes."""
    asked = tuned(preset("a2c", config.env), environments=EPISODES_PER_GRADIENT)
    probe = Synchronous(asked)
    while probe.steps < config.probe_steps:
        probe.iterate()
    rollouts = [probe.collector.episodes() for _ in range(config.gradient_batches)]
    gamma = asked.learner.gamma

    def noise(name: str):  # type: ignore[no-untyped-def]
        learner = replace(preset(name, config.env).learner, gamma=gamma)
        return gradient_noise(probe.policy, rollouts, learner)

    unbiased = noise("reinforce-baseline").mean
    for row in rows:
        measured = noise(row.algorithm)
        row.gradient_variance, row.gradient_noise = measured.variance, measured.ratio
        cosine = torch.nn.functional.cosine_similarity(measured.mean, unbiased, dim=0)
        row.gradient_cosine = float(cosine)
    probe.close()


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| algorithm | solved | steps | seconds | final score | gradient variance | "
        "variance / signal | cosine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        measured = (row.gradient_variance, row.gradient_noise, row.gradient_cosine)
        shown = ["-" if value is None else f"{value:.3g}" for value in measured]
        lines.append(
            f"| {row.algorithm} | {row.solved}/{row.runs} | {row.steps:,.0f} | {row.seconds:.2f} | "
            f"{row.score:.1f} ± {row.score_std:.1f} | {' | '.join(shown)} |"
        )
    return "\n".join(lines) + "\n"


def _curves(outcomes: list[Outcome]) -> list[dict[str, list[float]]]:
    """Steps and evaluation scores of each run, its last evaluation included."""
    curves = []
    for outcome in outcomes:
        points = [
            (line["steps"], line["eval_score"]) for line in outcome.lines if "eval_score" in line
        ]
        points.append((outcome.steps, outcome.score))
        steps, scores = zip(*points, strict=True)
        curves.append({"steps": list(map(float, steps)), "scores": list(map(float, scores))})
    return curves


def _draw(config: CompareConfig, outcomes: dict[str, list[Outcome]], run: Run) -> None:
    if not have_matplotlib():
        console.print(WITHOUT_MATPLOTLIB)
        return
    curves = {
        name: [(np.array(c["steps"]), np.array(c["scores"])) for c in _curves(of)]
        for name, of in outcomes.items()
    }
    compared_curves(curves, run.path / "curves.png", config.env, config.threshold)
