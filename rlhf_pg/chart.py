"""Line charts as SVG text, without dependencies, readable on a light and on a dark background.

A picture consists of panels; a panel shows a few series, each labelled at its right end.
"""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 280, 52, 40, 24, 116  # of a panel, in pixels
MARGIN = 10  # around a picture
# Distinguishable with any kind of colour vision (after Okabe and Ito), and with a contrast of at
# least 3 on white and on near-black.
BLUE, ORANGE, GREEN, PURPLE, OCHRE, ROSE, GREY = PALETTE = (
    "#1a7fc4", "#d55e00", "#009e73", "#c566a3", "#a08000", "#b04a5a", "#7a8590",
)  # fmt: skip
# A page that embeds a picture may define --ink, --quiet, --line and --ground.
STYLE = """
svg { --text: var(--ink, #1b1f24); --muted: var(--quiet, #5c6670); --grid: var(--line, #e3e7eb);
  background: var(--ground, #ffffff); }
@media (prefers-color-scheme: dark) { svg { --text: var(--ink, #e6e9ed);
  --muted: var(--quiet, #9aa5b1); --grid: var(--line, #2c333b);
  background: var(--ground, #14171b); } }
svg text { font: 12px system-ui, sans-serif; fill: var(--muted); }
svg .title { font-weight: 600; fill: var(--text); font-size: 13px; }
svg .axis { stroke: var(--grid); stroke-width: 1; }
"""
Range = tuple[float, float]
Point = tuple[float, float]


@dataclass
class Series:
    """Points (x, y) of one colour, in rising order of x.

    `name` is written beside the last point, with `note` below it; without a name there is no label.
    """

    points: Sequence[Point]
    colour: str
    name: str = ""
    note: str = ""
    kind: str = "line"  # or "thin", "dots", "dashed"
    band: Sequence[tuple[float, float, float]] = field(default=())  # shaded from low to high at x


class Panel(NamedTuple):
    """One drawn panel."""

    svg: str
    width: int
    height: int


def picture(panels: Sequence[Panel], description: str, stacked: bool = False) -> str:
    """An SVG of panels side by side, or below each other; `description` is its alternative text."""
    placed, x, y, width, height = [], 0, 0, 0, 0
    for one in panels:
        placed.append(f'<g transform="translate({x} {y})">{one.svg}</g>')
        width, height = max(width, x + one.width), max(height, y + one.height)
        x, y = (x, height) if stacked else (width, y)
    width, height = width + 2 * MARGIN, height + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-MARGIN} {width} {height}" '
        f'width="{width}" role="img" aria-label="{html.escape(description)}">'
        f"<style>{STYLE}</style>{''.join(placed)}</svg>"
    )


def panel(
    title: str,
    series: Sequence[Series],
    x_label: str = "",
    xs: Range | None = None,
    ys: Range | None = None,
    x_ticks: Sequence[float] | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    right: int = RIGHT,
    y_label: str = "",
) -> Panel:
    """Draw the series over the ranges `xs` and `ys`, with ticks at `x_ticks`.

    By default, the ranges hold all points, `ys` with round ends, and ticks are round. `right` is
    the margin for the labels, in pixels; `y_label` is written along the y axis.
    """
    points = [point for one in series for point in one.points]
    first, last = xs or (min(x for x, _ in points), max(x for x, _ in points))
    edges = [y for one in series for _, *both in one.band for y in both]
    low, high = ys or _round_range([*edges, *(y for _, y in points)])

    def x(value: float) -> float:
        return LEFT + (value - first) / ((last - first) or 1) * (width - LEFT - right)

    def y(value: float) -> float:
        return TOP + (high - value) / ((high - low) or 1) * (height - TOP - BOTTOM)

    parts = [f'<text class="title" x="{LEFT}" y="13">{html.escape(title)}</text>']
    marks = ticks(low, high)
    for mark, text in zip(marks, _tick_labels(marks), strict=True):
        parts.append(
            f'<line class="axis" x1="{LEFT}" x2="{width - right}" y1="{y(mark):.1f}" '
            f'y2="{y(mark):.1f}"/><text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" '
            f'text-anchor="end">{text}</text>'
        )
    for mark in ticks(first, last) if x_ticks is None else x_ticks:
        parts.append(
            f'<text x="{x(mark):.1f}" y="{height - BOTTOM + 18}" text-anchor="middle">'
            f"{mark:,.10g}</text>"
        )
    parts.append(
        f'<text x="{(LEFT + width - right) / 2:.1f}" y="{height - 5}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    if y_label:
        parts.append(
            f'<text transform="translate(10 {(TOP + height - BOTTOM) / 2:.1f}) rotate(-90)" '
            f'text-anchor="middle">{html.escape(y_label)}</text>'
        )
    parts += [_band(one, x, y) for one in series if one.band]
    parts += [_marks(one, [(x(a), y(b)) for a, b in one.points]) for one in series if one.points]
    parts += _labels(series, width - right, height - BOTTOM, y)
    return Panel("".join(parts), width, height)


def ticks(low: float, high: float) -> list[float]:
    """Round values within [low, high]: about five, 1, 2 or 5 times a power of ten apart."""
    if high <= low:
        return [low]
    step = _step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = 10 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, last + 1)]


def _round_range(values: Sequence[float]) -> Range:
    """The range of the values, widened to the next ticks on both sides."""
    low, high = min(values), max(values)
    if high <= low:
        return low - 0.5, high + 0.5
    step = _step(low, high)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _step(low: float, high: float) -> float:
    rough = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(m * scale for m in (1, 2, 5, 10) if m * scale >= rough * 0.999)


def _tick_labels(marks: Sequence[float]) -> list[str]:
    """Tick values as text, with a plus sign only on an axis that crosses zero."""
    step = min((b - a for a, b in zip(marks, marks[1:], strict=False)), default=1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if digits > 5:
        return [f"{mark:.2g}".replace("-", "−") for mark in marks]
    if min(marks) < 0 < max(marks):
        return [signed(mark, digits) for mark in marks]
    return [f"{mark:,.{digits}f}".replace("-", "−") for mark in marks]


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, and none where it rounds to zero."""
    text = f"{value:+,.{digits}f}"
    return text[1:] if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _band(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The area between the band's lower and upper edge."""
    upper = [(a, high) for a, _, high in series.band]
    lower = [(a, low) for a, low, _ in reversed(series.band)]
    outline = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in [*upper, *lower])
    return f'<polygon points="{outline}" fill="{series.colour}" fill-opacity="0.14"/>'


def _marks(series: Series, points: Sequence[Point]) -> str:
    """The series itself: a line, or a circle at each point."""
    if series.kind == "dots":
        return "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{series.colour}"/>' for a, b in points
        )
    dashes = ' stroke-dasharray="5 4"' if series.kind == "dashed" else ""
    thickness = {"thin": 1, "dashed": 1.5}.get(series.kind, 2)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{series.colour}" '
        f'stroke-width="{thickness}" stroke-linejoin="round"{dashes}/>'
    )


def _labels(
    series: Sequence[Series], x: float, floor: float, y: Callable[[float], float]
) -> list[str]:
    """The names beside the right edge `x`, at the height of the series' last points."""
    named = [one for one in series if one.name and one.points]
    gap = 30 if any(one.note for one in named) else 16
    heights = _apart([y(one.points[-1][1]) for one in named], gap, floor)
    return [_label(one, x, height) for one, height in zip(named, heights, strict=True)]


def _apart(heights: Sequence[float], gap: float, floor: float) -> list[float]:
    """The heights moved so that no two labels overlap, and none is below the floor."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = list(heights)
    for above, below in zip(order, order[1:], strict=False):
        placed[below] = max(placed[below], placed[above] + gap)
    floor -= gap / 2
    for i in reversed(order):
        placed[i] = min(placed[i], floor)
        floor = placed[i] - gap
    return placed


def _label(series: Series, x: float, y: float) -> str:
    # Attributes of spans: STYLE would override those of a text, and the content policies of pages
    # refuse style attributes.
    note = (
        f'<tspan x="{x + 8:.1f}" dy="14">{html.escape(series.note)}</tspan>' if series.note else ""
    )
    return (
        f'<text x="{x + 8:.1f}" y="{y:.1f}"><tspan fill="{series.colour}" font-weight="600">'
        f"{html.escape(series.name)}</tspan>{note}</text>"
    )
