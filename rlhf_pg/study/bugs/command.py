"""`rlhf-pg study bugs`: measure one bug or all, print a table, save bugs.json."""

import difflib
import json
import time
from statistics import mean
from textwrap import wrap
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from reward_models.files import saved_text
from rlhf_pg.progress import Progress, command, console
from rlhf_pg.runs import Run
from rlhf_pg.study.bugs import BUGS
from rlhf_pg.study.bugs.bug import measure
from rlhf_pg.study.config import BugsConfig

BLOCKS = "▁▂▃▄▅▆▇█"
STYLES = {"right": "green", "wrong": "magenta"}
Measured = dict[str, Any]  # as `measure` returns it, or a part of it
# A label, a gradient, a curve, a learning test.
Row = tuple[Text, Measured | None, Measured | None, Measured | None]


def main(config: BugsConfig) -> Run:
    """Measure, print and save; returns the run. Raises ValueError for an unknown name."""
    if config.bug not in ("all", *BUGS):
        near = difflib.get_close_matches(config.bug, BUGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no bug {config.bug!r}{hint}: choose among {', '.join(BUGS)}, or all")
    bugs = [bug for bug in BUGS.values() if config.bug in ("all", bug.name)]
    torch.set_num_threads(1)  # the tensors are small
    run = Run.create(config.output, "bugs", config)
    began, measured = time.perf_counter(), {}
    with Progress(len(bugs), "bugs", shown=len(bugs) > 1) as progress:
        for bug in bugs:
            measured[bug.name] = measure(bug, config.cartpole)
            progress.update(len(measured))
    if config.bug == "all":
        show_all(measured)
        seconds = f"{time.perf_counter() - began:.0f} s"
        console.print(f"{command('study', 'bugs', 'NAME')} shows code and all numbers; {seconds}")
    else:
        show_one(config.bug, measured[config.bug])
    saved_text(run.path / "bugs.json", json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    console.print(f"saved in {run.path}: bugs.json", markup=False)
    return run


def show_all(measured: dict[str, Measured]) -> None:
    """Every bug in its first setting."""
    rows: list[Row] = []
    for name, m in measured.items():
        label = Text.assemble((name, "bold"), "\n", m["effect"])
        rows.append((label, m["gradients"][0], m["curves"][0], m["cartpole"]))
    show_table("bug, and its effect", ["cosine", "bias"], rows, digits=2)
    lines = ["Cosine and bias: the expected gradient beside the true one. J is exact."]
    tests = [m["cartpole"] for m in measured.values() if m["cartpole"]]
    if tests:
        noticed = sum(test["notices"] for test in tests) or "none"
        lines.append(
            "CartPole: runs in which PPO reached 475. "
            f"{len(tests)} bugs can occur there; it notices {noticed}."
        )
    console.print("\n".join(lines))


def show_one(name: str, m: Measured) -> None:
    """A bug's code, and its numbers in every setting."""
    console.print(Text("\n".join([name, *wrap(m["what"], 96), ""])))
    for side, place in (("right", f"  {m['right_in']}"), ("wrong", "")):
        console.print(Text.assemble((side, STYLES[side]), place))
        console.print(Text("\n".join(f"    {line}" for line in m[side]), "bold"))
    rows: list[Row] = [(Text(g["setting"]), g, None, None) for g in m["gradients"]]
    rows += [(Text(f"learning: {c['setting']}"), None, c, None) for c in m["curves"]]
    show_table("setting", ["cosine", "bias", "length", "noise"], rows, digits=3)
    lines = ["bias |E[g] - ∇J| / |∇J|, length |E[g]| / |∇J|, noise: deviation of one g / |E[g]|"]
    for label, x in m["numbers"].items():
        lines.append(f"{label}: right {x['right']:.3f}, wrong {x['wrong']:.3f}")
    if m["cartpole"]:
        right, wrong = (m["cartpole"][side] for side in STYLES)
        notices = "notices" if m["cartpole"]["notices"] else "does not notice"
        lines += [
            f"A learning test on CartPole {notices} it: PPO reached 475 in {right['solved']} of "
            f"{right['runs']} runs with the right code",
            f"and in {wrong['solved']} with the wrong, after {mean(right['steps']) / 1000:.0f}k "
            f"and {mean(wrong['steps']) / 1000:.0f}k steps.",
        ]
    console.print(Text("\n".join([*lines, "", *wrap(m["lesson"], 96), ""])))


def show_table(head: str, numbers: list[str], rows: list[Row], digits: int) -> None:
    """Two lines a row: right and wrong."""
    columns = ["code", *numbers, "J at end", "J, learning"]
    if any(row[3] for row in rows):
        columns.append("CartPole")
    table = Table(head, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        numeric = column in (*numbers, "J at end")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for label, *parts in rows:
        right, wrong = (cells(side, digits, *parts) for side in STYLES)
        table.add_row(label, *(_both(right.get(c, ""), wrong.get(c, "")) for c in columns))
    console.print(table, soft_wrap=False)


def _both(right: str, wrong: str) -> Text:
    return Text.assemble((right, STYLES["right"]), "\n", (wrong, STYLES["wrong"]))


def cells(
    side: str, digits: int, gradient: Measured | None, curve: Measured | None, test: Measured | None
) -> dict[str, str]:
    """One line of a row, by column."""
    line = {"code": side}
    if gradient:
        line |= {name: f"{x:.{digits}f}" for name, x in gradient[side].items()}
    if curve:
        means = {s: [mean(values) for values in zip(*curve[s], strict=True)] for s in STYLES}
        both = [*means["right"], *means["wrong"]]
        line["J at end"] = f"{means[side][-1]:.{digits}f}"
        line["J, learning"] = sparkline(means[side], min(both), max(both), 12)
    if test:
        line["CartPole"] = f"{test[side]['solved']} of {test[side]['runs']}"
    return line


def sparkline(values: list[float], low: float, high: float, width: int) -> str:
    """At most `width` of the values as blocks, between `low` and `high`."""
    count = min(width, len(values))
    chosen = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((x - low) * scale)] for x in chosen)
