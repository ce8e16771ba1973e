"""How the museum looks in a terminal."""

from statistics import mean
from textwrap import wrap

from rich import box
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rlhf_pg.progress import console
from rlhf_pg.study.bugs.exhibit import (
    Curves,
    Direction,
    Exhibit,
    Findings,
    right_lines,
    wrong_lines,
)

BLOCKS = "▁▂▃▄▅▆▇█"


def show_room(exhibit: Exhibit, findings: Findings) -> None:
    """One bug: its sentence, its code, and every number."""
    console.print(Rule(Text(exhibit.name, "bold"), align="left"))
    console.print(Text("\n".join(wrap(f"{exhibit.what} {exhibit.origin}", 96)) + "\n"))
    place = exhibit.right[0]
    for name, style, lines, where in (
        ("right", "green", right_lines(exhibit), f"{place.__module__}.{place.__qualname__}"),
        ("wrong", "magenta", wrong_lines(exhibit), ""),
    ):
        for i, line in enumerate(lines):
            console.print(Text.assemble((f"{name if i == 0 else '':7}", style), (line, "bold")))
        if where:
            console.print(Text(f"{'':7}in {where}", "dim"))
    console.print()
    _show_gradients(findings)
    for name, (right, wrong) in findings.others.items():
        console.print(Text(f"{name}: right {number(right)}, wrong {number(wrong)}"))
    for curves in findings.curves:
        _show_curves(curves)
    test = findings.cartpole
    if test is not None:
        word = "notices" if test.notices else "does not notice"
        console.print(
            f"\nA learning test on CartPole {word}: PPO reached 475 in {test.right_solved} of "
            f"{test.runs} runs with the right code\nand in {test.wrong_solved} with the wrong, "
            f"after {steps(test.right_steps)} and {steps(test.wrong_steps)} steps."
        )
    console.print(Text("\n" + "\n".join(wrap(exhibit.lesson, 96)) + "\n", "italic"))


def _show_gradients(findings: Findings) -> None:
    noisy = any(row.right.noise is not None for row in findings.gradients)
    heads = ["bias", "cosine", "length", *(["noise"] if noisy else [])]
    table = Table("expected gradient", "code", show_edge=True)
    for head in heads:
        table.add_column(head, justify="right")
    for row in findings.gradients:
        for i, (name, style, found) in enumerate(
            (("right", "green", row.right), ("wrong", "magenta", row.wrong))
        ):
            table.add_row(
                Text(row.setting if i == 0 else ""),
                Text(name, style),
                *_numbers(found, noisy),
                end_section=i == 1,
            )
    console.print(table)
    explained = f"bias |E[g] - ∇J| / |∇J|, length |E[g]| / |∇J|\n{findings.truth}"
    explained += "\nnoise: deviation of one episode's g / |E[g]|" if noisy else ""
    console.print(Text(explained + "\n", "dim"))


def _numbers(found: Direction, noisy: bool) -> list[str]:
    shown = [number(found.bias), f"{found.cosine:.3f}", number(found.length)]
    if noisy:
        shown.append("" if found.noise is None else number(found.noise))
    return shown


def _show_curves(curves: Curves) -> None:
    last, seeds = curves.updates[-1], len(curves.right)
    how = f"mean of {seeds} seeds" if seeds > 1 else "expected updates"
    best = "" if curves.best is None else f"; J* = {curves.best:.3f}"
    console.print(Text(f"\nJ over {last} updates, {how}: {curves.setting}{best}"))
    for name, style, line in (
        ("right", "green", curves.right),
        ("wrong", "magenta", curves.wrong),
    ):
        means = averaged(line)
        console.print(
            Text.assemble(
                (f"{name:7}", style),
                (sparkline(means, *span(curves), 48), style),
                f"  {means[0]:.3f} → {means[-1]:.3f}",
            )
        )


def show_museum(found: dict[str, tuple[Exhibit, Findings]]) -> None:
    """Two lines for each bug, by the first setting of its room: right above, wrong below."""
    table = Table(
        title="The museum of silent bugs",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    tests = [findings.cartpole for _, findings in found.values() if findings.cartpole]
    table.add_column("bug, and what it does")
    table.add_column("code", no_wrap=True)
    for head in ("cosine", "bias", "J at end"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("J, learning", no_wrap=True)
    if tests:
        table.add_column("CartPole", no_wrap=True)
    for exhibit, findings in found.values():
        first, curves = findings.gradients[0], findings.curves[0]
        low, high = span(curves)
        right, wrong = averaged(curves.right), averaged(curves.wrong)
        cells = [
            Text.assemble((exhibit.name, "bold"), "\n", exhibit.effect),
            _two("right", "wrong"),
            _two(f"{first.right.cosine:.2f}", f"{first.wrong.cosine:.2f}"),
            _two(f"{first.right.bias:.2f}", f"{first.wrong.bias:.2f}"),
            _two(f"{right[-1]:.2f}", f"{wrong[-1]:.2f}"),
            _two(sparkline(right, low, high, 12), sparkline(wrong, low, high, 12)),
        ]
        test = findings.cartpole
        if test is not None:
            cells.append(
                _two(f"{test.right_solved} of {test.runs}", f"{test.wrong_solved} of {test.runs}")
            )
        table.add_row(*cells)
    console.print(table, soft_wrap=False)
    console.print("Cosine and bias: the expected gradient beside the true one. J is exact.")
    if tests:
        noticed = sum(test.notices for test in tests)
        console.print(
            "CartPole: runs in which PPO reached 475. "
            f"Of the {len(tests)} bugs that can occur there, it notices {noticed or 'none'}."
        )


def _two(right: str, wrong: str) -> Text:
    return Text.assemble((right, "green"), "\n", (wrong, "magenta"))


def sparkline(values: list[float], low: float, high: float, width: int) -> str:
    """Values as blocks between `low` and `high`, at most `width` of them."""
    count = min(width, len(values))
    chosen = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((min(max(x, low), high) - low) * scale)] for x in chosen)


def averaged(lines: list[list[float]]) -> list[float]:
    """The mean curve over the seeds."""
    return [mean(values) for values in zip(*lines, strict=True)]


def span(curves: Curves) -> tuple[float, float]:
    """The least and the largest of both mean curves."""
    values = averaged(curves.right) + averaged(curves.wrong)
    return min(values), max(values)


def number(x: float) -> str:
    """Three digits, and 0 for what is rounding error."""
    return "0" if abs(x) < 1e-5 else f"{x:.3f}" if abs(x) < 100 else f"{x:.0f}"


def steps(counts: list[int]) -> str:
    """The mean, in thousands."""
    return f"{mean(counts) / 1000:.0f}k"
