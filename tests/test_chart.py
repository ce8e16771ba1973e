"""Charts: what is drawn is where it should be, and text is only text."""

import re
import xml.etree.ElementTree as xml

import pytest

from rlhf_pg.chart import (
    BLUE,
    BOTTOM,
    HEIGHT,
    LEFT,
    MARGIN,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    panel,
    picture,
    signed,
    ticks,
)

DIAGONAL = Series([(0, 0), (1, 1)], "#000", "name")


def elements(text):
    """The elements of a picture, by tag."""
    found = {}
    for node in xml.fromstring(text).iter():
        found.setdefault(node.tag.split("}")[-1], []).append(node)
    return found


def drawn(*series, title="t", xs=(0, 1), ys=(0, 1)):
    return elements(picture([panel(title, series, "x", xs, ys, xs)], "what it shows"))


def corners(node):
    return [tuple(map(float, p.split(","))) for p in node.get("points").split()]


def texts(found):
    return [node.text for node in found["text"]]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.2, 4.1, [-2, 0, 2, 4]),
        (2, 2, [2]),
        (0, 60, [0, 20, 40, 60]),
    ],
)
def test_ticks_are_round_and_inside(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_line_goes_from_corner_to_corner():
    (line,) = drawn(DIAGONAL)["polyline"]
    assert corners(line) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, TOP)]


def test_ranges_hold_all_points_and_end_on_ticks():
    """By default: x exactly, y rounded outwards, bands included."""
    band = [(2, -130, 0), (4, 20, 470)]
    found = elements(
        picture([panel("t", [Series([(2, 10), (4, 30)], "#000", band=band)])], "shown")
    )
    (line,) = found["polyline"]
    assert [x for x, _ in corners(line)] == [LEFT, WIDTH - RIGHT]
    assert [t for t in texts(found) if t and t[0] in "+−"] == ["−200", "+200", "+400", "+600"]
    # From -200 to 600, a fifth of the range to each tick.
    heights = sorted({float(node.get("y1")) for node in found["line"]})
    assert heights[0] == TOP and heights[-1] == HEIGHT - BOTTOM
    flat = elements(picture([panel("t", [Series([(0, 3), (1, 3)], "#000")])], "shown"))
    assert corners(flat["polyline"][0])[0][1] == pytest.approx((TOP + HEIGHT - BOTTOM) / 2)


@pytest.mark.parametrize(
    ("ys", "expected"),
    [
        ((0, 500), ["0", "100", "200", "300", "400", "500"]),
        ((-1600, -100), ["−1,500", "−1,000", "−500"]),
        ((0.5, 0.6), ["0.50", "0.52", "0.54", "0.56", "0.58", "0.60"]),
        ((-1, 1), ["−1.0", "−0.5", "0.0", "+0.5", "+1.0"]),
    ],
)
def test_tick_labels_have_the_digits_they_need_and_signs_where_zero_is_crossed(ys, expected):
    shown = texts(drawn(DIAGONAL, ys=ys))
    assert shown[1 : 1 + len(expected)] == expected


def test_large_x_ticks_are_written_out():
    found = elements(picture([panel("t", [Series([(0, 0), (2e6, 1)], "#000")])], "shown"))
    assert "1,000,000" in texts(found)


def test_a_band_lies_between_its_edges_and_under_the_line():
    line = Series([(0, 0), (1, 1)], "#000", band=[(0, 0.25, 0.5), (1, 0.5, 1)])
    text = picture([panel("t", [line], "x", (0, 1), (0, 1))], "what it shows")
    (area,) = elements(text)["polygon"]
    left, right, height = LEFT, WIDTH - RIGHT, HEIGHT - TOP - BOTTOM
    middle, lower = TOP + height / 2, TOP + height * 0.75
    assert corners(area) == [(left, middle), (right, TOP), (right, middle), (left, lower)]
    assert text.index("<polygon") < text.index("<polyline")


def test_dots_thin_and_dashed_lines():
    points = [(0, 0), (1, 1)]
    found = drawn(
        *[Series(points, "#000", kind=kind) for kind in ("dots", "dashed", "thin", "line")]
    )
    dashed, thin, line = found["polyline"]
    assert len(found["circle"]) == 2 and dashed.get("stroke-dasharray")
    assert float(thin.get("stroke-width")) < float(line.get("stroke-width"))


def test_a_series_without_points_is_left_out():
    found = drawn(DIAGONAL, Series([], "#000", "empty"))
    assert len(found["polyline"]) == 1 and "empty" not in texts(found)


@pytest.mark.parametrize("stacked", [False, True])
def test_panels_stand_side_by_side_or_below_each_other(stacked):
    panels = [panel("a", [DIAGONAL], width=300, height=200), panel("b", [DIAGONAL])]
    root = xml.fromstring(picture(panels, "two <panels>", stacked))
    size = (WIDTH, 200 + HEIGHT) if stacked else (300 + WIDTH, HEIGHT)
    assert (
        root.get("viewBox") == f"-{MARGIN} -{MARGIN} {size[0] + 2 * MARGIN} {size[1] + 2 * MARGIN}"
    )
    moved = [node.get("transform") for node in root if node.tag.endswith("}g")]
    assert moved == ["translate(0 0)", "translate(0 200)" if stacked else "translate(300 0)"]
    assert root.get("aria-label") == "two <panels>"


def test_labels_of_lines_that_end_together_do_not_overlap():
    lines = [Series([(0, 0), (1, 0.01 * i)], "#000", f"n{i}", "1") for i in range(4)]
    labels = [n for n in drawn(*lines)["text"] if "".join(n.itertext()).startswith("n")]
    heights = sorted(float(label.get("y")) for label in labels)
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 30
    assert heights[-1] <= HEIGHT - BOTTOM


def test_names_are_text_and_no_markup():
    found = drawn(Series([(0, 0), (1, 1)], "#000", "<script>"), title="a & b")
    assert "script" not in found and "a & b" in texts(found)


def test_signs():
    assert [signed(x) for x in (1.25, -1.0, -0.01, 1234)] == ["+1.2", "−1.0", "0.0", "+1,234.0"]


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 3e-8, 1e9])
def test_very_small_and_large_numbers_have_ticks_apart(scale):
    marks = ticks(0.0, 4 * scale)
    assert len(marks) > 2 and all(b > a for a, b in zip(marks, marks[1:], strict=False))
    svg = panel("x", [Series([(0, 0.0), (1, 4 * scale)], BLUE)]).svg
    labels = re.findall(r'text-anchor="end">([^<]*)<', svg)
    assert len(set(labels)) == len(labels) > 2 and max(map(len, labels)) < 16
