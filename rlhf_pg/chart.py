"""Small line charts as SVG text: no dependency, readable on white and on black.

A picture is a row of panels; a panel is a few named series, labelled where they end.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 280, 44, 36, 18, 116
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"  # for every kind of sight
STYLE = """
svg text { font: 12px system-ui, sans-serif; fill: var(--quiet, #7a8590); }
svg .title { font-weight: 600; fill: var(--ink, #7a8590); font-size: 13px; }
svg .axis { stroke: var(--line, #d5dae0); stroke-width: 1; }
"""
Range = tuple[float, float]


@dataclass
class Series:
    """Points (x, y) of one colour, in rising order of x: a line, dots, or a dashed line.

    `name` stands where the last point is, with `note` below it; without a name there is no label.
    """

    points: Sequence[tuple[float, float]]
    colour: str
    name: str = ""
    note: str = ""
    kind: str = "line"  # or "dots", "dashed"


def picture(panels: Sequence[str], description: str) -> str:
    """An SVG of panels side by side, which says `description` to who cannot see it."""
    placed = [f'<g transform="translate({i * WIDTH} 0)">{p}</g>' for i, p in enumerate(panels)]
    width = WIDTH * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" '
        f'width="{width}" role="img" aria-label="{html.escape(description)}">'
        f"<style>{STYLE}</style>{''.join(placed)}</svg>"
    )


def panel(
    title: str,
    series: Sequence[Series],
    x_label: str,
    xs: Range,
    ys: Range,
    x_ticks: Sequence[float],
) -> str:
    """One panel: the series over the ranges `xs` and `ys`, ticks at `x_ticks` and round values."""
    (left, right), (low, high) = xs, ys

    def x(value: float) -> float:
        return LEFT + (value - left) / ((right - left) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text class="title" x="{LEFT}" y="12">{html.escape(title)}</text>']
    marks = ticks(low, high)
    digits = 0 if all(float(mark).is_integer() for mark in marks) else 1
    for mark in marks:
        parts.append(
            f'<line class="axis" x1="{LEFT}" x2="{x(right):.1f}" y1="{y(mark):.1f}" '
            f'y2="{y(mark):.1f}"/><text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" '
            f'text-anchor="end">{signed(mark, digits)}</text>'
        )
    for mark in x_ticks:
        parts.append(
            f'<text x="{x(mark):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{mark:g}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + x(right)) / 2:.1f}" y="{HEIGHT - 1}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    parts += [_drawn(one, [(x(a), y(b)) for a, b in one.points]) for one in series]
    return "".join([*parts, *_labels(series, x(right), y)])


def ticks(low: float, high: float) -> list[float]:
    """Round values within [low, high]: about five, 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        return [low]
    rough = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, and none where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _drawn(series: Series, points: Sequence[tuple[float, float]]) -> str:
    if series.kind == "dots":
        return "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{series.colour}"/>' for a, b in points
        )
    dashes = ' stroke-dasharray="5 4"' if series.kind == "dashed" else ""
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{series.colour}" stroke-width="2" '
        f'stroke-linejoin="round"{dashes}/>'
    )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The heights moved so that no two labels lie on each other, nor below the panel."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in zip(order, order[1:], strict=False):
        placed[below] = max(placed[below], placed[above] + gap)
    floor = HEIGHT - BOTTOM - gap / 2
    for i in reversed(order):
        placed[i] = min(placed[i], floor)
        floor = placed[i] - gap
    return placed


def _labels(series: Sequence[Series], x: float, y: Callable[[float], float]) -> list[str]:
    """The names of the series beside the right edge, at the height of their last points."""
    named = [one for one in series if one.name and one.points]
    gap = 30 if any(one.note for one in named) else 16
    heights = _apart([y(one.points[-1][1]) for one in named], gap)
    return [_label(one, x, height) for one, height in zip(named, heights, strict=True)]


def _label(series: Series, x: float, y: float) -> str:
    note = (
        f'<tspan x="{x + 8:.1f}" dy="14">{html.escape(series.note)}</tspan>' if series.note else ""
    )
    return (
        f'<text x="{x + 8:.1f}" y="{y:.1f}" style="fill:{series.colour};font-weight:600">'
        f"{html.escape(series.name)}{note}</text>"
    )
