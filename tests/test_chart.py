"""Charts: what is drawn is where it should be, and text is only text."""

import xml.etree.ElementTree as xml

import pytest

from rlhf_pg.chart import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, panel, picture, signed, ticks


def drawn(*series, title="t", xs=(0, 1), ys=(0, 1)):
    """The elements of a picture of one panel, by tag."""
    text = picture([panel(title, series, "x", xs, ys, xs)], "what it shows")
    found = {}
    for node in xml.fromstring(text).iter():
        found.setdefault(node.tag.split("}")[-1], []).append(node)
    return found


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
    (line,) = drawn(Series([(0, 0), (1, 1)], "#000", "name"))["polyline"]
    first, last = (tuple(map(float, p.split(","))) for p in line.get("points").split())
    assert first == (LEFT, HEIGHT - 36) and last == (WIDTH - RIGHT, TOP)


def test_dots_and_dashes():
    found = drawn(Series([(0, 0), (1, 1)], "#000", kind="dots"),
                  Series([(0, 0), (1, 1)], "#000", kind="dashed"))  # fmt: skip
    assert len(found["circle"]) == 2 and found["polyline"][0].get("stroke-dasharray")


def test_labels_of_lines_that_end_together_do_not_lie_on_each_other():
    lines = [Series([(0, 0), (1, 0.01 * i)], "#000", f"n{i}", "1") for i in range(4)]
    labels = [n for n in drawn(*lines)["text"] if (n.text or "").startswith("n")]
    heights = sorted(float(label.get("y")) for label in labels)
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 30
    assert heights[-1] <= HEIGHT - 36


def test_names_are_text_and_no_markup():
    found = drawn(Series([(0, 0), (1, 1)], "#000", "<script>"), title="a & b")
    assert "script" not in found and "a & b" in [n.text for n in found["text"]]


def test_signs():
    assert [signed(x) for x in (1.25, -1.0, -0.01)] == ["+1.2", "−1.0", "0.0"]
