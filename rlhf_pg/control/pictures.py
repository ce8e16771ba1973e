"""Learning curves as pictures; needs matplotlib, the optional extra `plot`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WITHOUT_MATPLOTLIB = "no picture: matplotlib is missing; pip install 'rlhf-pg[plot]'"

# Okabe and Ito's colours, told apart by all kinds of sight.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def have_matplotlib() -> bool:
    """Whether pictures can be drawn."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    return True


def learning_curve(
    lines: Sequence[Mapping[str, Any]], path: Path, title: str, threshold: float | None = None
) -> None:
    """Draw training and evaluation scores, and the entropy, over steps, into a PNG file."""
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    for key, label, style in (
        ("score", "training", {"color": COLOURS[5], "linewidth": 1}),
        ("eval_score", "evaluation", {"color": COLOURS[0], "marker": "o", "markersize": 3}),
    ):
        points = [(line["steps"], line[key]) for line in lines if key in line]
        if points:
            top.plot(*zip(*points, strict=True), label=label, **style)
    if threshold is not None:
        top.axhline(threshold, color="0.5", linestyle=":", label=f"threshold {threshold:g}")
    top.set(ylabel="score of an episode", title=title)
    top.legend(frameon=False)
    points = [(line["steps"], line["entropy"]) for line in lines if "entropy" in line]
    if points:
        bottom.plot(*zip(*points, strict=True), color=COLOURS[1], linewidth=1)
    bottom.set(xlabel="environment steps", ylabel="entropy, nats")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def compared_curves(
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    path: Path,
    title: str,
    threshold: float | None = None,
) -> None:
    """Draw each algorithm's mean evaluation over its seeds, with a band from least to greatest.

    `curves` holds, by algorithm, (steps, scores) of each seed. A run that stopped at the threshold
    keeps its last score.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for colour, (name, runs) in zip(COLOURS, curves.items(), strict=False):
        grid = np.linspace(0, max(steps[-1] for steps, _ in runs), 200)
        # Before a run's first evaluation nothing is known, and nothing is drawn.
        scores = np.stack([np.interp(grid, steps, score, left=np.nan) for steps, score in runs])
        axes.plot(grid, scores.mean(0), color=colour, label=f"{name} ({len(runs)} seeds)")
        axes.fill_between(grid, scores.min(0), scores.max(0), color=colour, alpha=0.15)
    if threshold is not None:
        axes.axhline(threshold, color="0.5", linestyle=":", label=f"threshold {threshold:g}")
    axes.set(xlabel="environment steps", ylabel="evaluation score", title=title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
