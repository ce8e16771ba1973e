"""Several algorithms on one environment: curves, steps to the threshold, gradient noise."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from statistics import mean, median, stdev

import numpy as np
import torch
from rich.table import Table

from rlhf_pg import chart
from rlhf_pg.control.collect import introduce, own_threshold
from rlhf_pg.control.config import CompareConfig, preset, tuned
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.control.train import Outcome, RunState, Trainer, learn, run_name
from rlhf_pg.core import gradients
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.progress import Progress, console, number
from rlhf_pg.runs import Run, discarded_if_empty

EPISODES_PER_GRADIENT = 16


@dataclass
class Row:
    """One algorithm's results."""

    algorithm: str
    solved: int  # runs that reached the threshold
    runs: int
    steps: float  # median to the end of the run: the threshold, or all steps
    seconds: float  # median of training
    score: float  # mean over seeds of the last evaluation
    score_std: float | None  # over seeds; None for one seed
    gradient_variance: float | None = None
    # Variance per squared length of the mean; None if that cannot be told from 0.
    gradient_noise: float | None = None
    gradient_cosine: float | None = None  # of its mean with that of reinforce-baseline


def compare(config: CompareConfig) -> list[Row]:
    """Run all algorithms; write curves.svg, table.md and results.json, and print the table.

    Raises ValueError for an unknown environment or algorithm, before anything is run.
    """
    if not config.algorithms:
        raise ValueError("algorithms: compare needs at least one")
    if config.gradient_batches == 1:
        raise ValueError("gradient_batches must be at least 2, or 0 to measure no gradients")
    introduce(config.env, config.env_options)
    if config.threshold is None:
        config = replace(config, threshold=own_threshold(config.env))
    for name in config.algorithms:
        preset(name, config.env).check()
    run = Run.create(config.output, run_name("compare", config.env), config)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in config.algorithms}
    runs = len(config.algorithms) * config.seeds
    with discarded_if_empty(run), Progress(runs, f"compare on {config.env}") as progress:
        for done, (name, outcome) in enumerate(_outcomes(config), 1):
            outcomes[name].append(outcome)
            progress.update(done, score=outcome.score)
            progress.say(
                f"{name}: {outcome.score:.1f} after {outcome.steps:,} steps, "
                f"{outcome.seconds:.2f} s, {'solved' if outcome.solved else 'not solved'}"
            )
    rows = [_row(name, of) for name, of in outcomes.items()]
    if config.gradient_batches:
        measure_gradients(config, rows)
    curves = {name: [outcome.evaluations() for outcome in of] for name, of in outcomes.items()}
    (run.path / "table.md").write_text(markdown(rows))
    (run.path / "results.json").write_text(
        json.dumps({"rows": [asdict(row) for row in rows], "runs": curves})
    )
    (run.path / "curves.svg").write_text(draw(config, curves))
    show(config, rows)
    console.print(f"saved in {run.path}: curves.svg, table.md, results.json", soft_wrap=True)
    return rows


def _outcomes(config: CompareConfig) -> Iterator[tuple[str, Outcome]]:
    for seed in range(config.seeds):
        for name in config.algorithms:
            one = tuned(
                preset(name, config.env),
                env_options=config.env_options,
                seed=seed,
                total_steps=config.total_steps,
                threshold=config.threshold,
                eval_episodes=config.eval_episodes,
                eval_interval=config.eval_interval,
            )
            yield name, learn(RunState(one))


def _row(name: str, outcomes: list[Outcome]) -> Row:
    scores = [outcome.score for outcome in outcomes]
    return Row(
        algorithm=name,
        solved=sum(outcome.solved for outcome in outcomes),
        runs=len(outcomes),
        steps=median(outcome.steps for outcome in outcomes),
        seconds=median(outcome.seconds for outcome in outcomes),
        score=mean(scores),
        score_std=stdev(scores) if len(scores) > 1 else None,
    )


def gradient_noise(
    policy: ActorCritic, rollouts: Sequence[Rollout], config: LearnerConfig
) -> gradients.GradientNoise:
    """Mean and variance of an algorithm's gradient by the actor's parameters, summed over episodes.

    Needs at least two rollouts of equal size. The advantages are those of `config`; the loss is
    the plain policy gradient's, which is also PPO's at its first step.
    """
    plain = replace(config, clip=None, reduction="episode")
    return gradients.gradient_noise(policy, rollouts, plain, policy.actor_parameters())


def measure_gradients(config: CompareConfig, rows: list[Row]) -> None:
    """Fill in each row's gradient noise, all at one policy, from the same whole episodes."""
    probe_config = tuned(
        preset("a2c", config.env),
        env_options=config.env_options,
        environments=EPISODES_PER_GRADIENT,
    )
    probe = Trainer(probe_config)
    while probe.steps < config.probe_steps:
        probe.step()
    rollouts = [probe.collector.episodes() for _ in range(config.gradient_batches)]
    probe.close()

    def noise(name: str) -> gradients.GradientNoise:
        learner = preset(name, config.env).learner
        same_discount = replace(learner, gamma=probe_config.learner.gamma)
        return gradient_noise(probe.policy, rollouts, same_discount)

    # Rewards-to-go minus V: no critic can bias it.
    unbiased = noise("reinforce-baseline").mean
    for row in rows:
        measured = noise(row.algorithm)
        row.gradient_variance = measured.variance
        row.gradient_noise = measured.ratio if isfinite(measured.ratio) else None
        cosine = torch.nn.functional.cosine_similarity(measured.mean, unbiased, dim=0)
        row.gradient_cosine = float(cosine)


COLUMNS = (
    "algorithm", "solved", "steps", "seconds", "final score", "gradient variance",
    "variance / signal", "cosine",
)  # fmt: skip
GRADIENT_COLUMNS = 3  # the last ones


def _cells(row: Row) -> list[str]:
    """A row of the table, as text."""
    spread = "" if row.score_std is None else f" ± {row.score_std:.1f}"
    measured = (row.gradient_variance, row.gradient_noise, row.gradient_cosine)
    return [
        row.algorithm,
        f"{row.solved}/{row.runs}",
        f"{row.steps:,.0f}",
        f"{row.seconds:.2f}",
        f"{row.score:.1f}{spread}",
        *map(number, measured),
    ]


def markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *map(_cells, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def show(config: CompareConfig, rows: list[Row]) -> None:
    """Print the rows as a table, and their gradients as another one."""
    title = f"{config.env}, {config.seeds} seed{'s'[: config.seeds - 1]}"
    if config.threshold is not None:
        title += f", solved at {config.threshold:g}"
    caption = (
        f"gradients: {config.gradient_batches} estimates from {EPISODES_PER_GRADIENT} episodes "
        f"each, all at one policy (a2c after {config.probe_steps:,} steps); "
        "signal: squared length of their mean; cosine: with reinforce-baseline's mean, which is "
        "unbiased"
    )
    print_columns(title, rows, COLUMNS[:-GRADIENT_COLUMNS])
    if config.gradient_batches:
        print_columns("Gradients", rows, (COLUMNS[0], *COLUMNS[-GRADIENT_COLUMNS:]))
        console.print(caption)


def print_columns(title: str, rows: list[Row], names: Sequence[str]) -> None:
    """Print some columns of the rows; all of them would not fit into 80 characters."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name == "algorithm" else "right", no_wrap=True)
    for row in rows:
        cells = dict(zip(COLUMNS, _cells(row), strict=True))
        table.add_row(*(cells[name] for name in names))
    console.print(table)


def draw(config: CompareConfig, curves: dict[str, list[dict[str, list[float]]]]) -> str:
    """Each algorithm's mean evaluation over its seeds, with a band from least to greatest (SVG).

    A run that stopped at the threshold keeps its last score. A line begins where all seeds had
    their first evaluation, and a dot marks its end.
    """
    series: list[chart.Series] = []
    for colour, (name, runs) in zip(itertools.cycle(chart.PALETTE), curves.items(), strict=False):
        first = max(run["steps"][0] for run in runs)
        grid = sorted({step for run in runs for step in run["steps"] if step >= first})
        scores = np.stack([np.interp(grid, run["steps"], run["scores"]) for run in runs])
        points = list(zip(grid, scores.mean(0), strict=True))
        band = list(zip(grid, scores.min(0), scores.max(0), strict=True)) if len(runs) > 1 else ()
        series.append(chart.Series(points, colour, name, f"{grid[-1]:,.0f} steps", band=band))
        series.append(chart.Series(points[-1:], colour, kind="dots"))
    ends = (0.0, max(one.points[-1][0] for one in series))
    if config.threshold is not None:
        level = [(x, config.threshold) for x in ends]
        name = f"threshold {config.threshold:g}"
        series.append(chart.Series(level, chart.GREY, name, kind="dashed"))
    title = f"{config.env}: evaluation score"
    if config.seeds > 1:
        title += f", mean and range of {config.seeds} seeds"
    plot = chart.panel(title, series, "environment steps", ends, width=780, height=420, right=150)
    return chart.picture([plot], f"{title}, of {len(curves)} algorithms over steps")
