"""A run in the terminal: its numbers, signs that need no colour, text that is never markup."""

import io
import re

import pytest
from rich.console import Console

from rlhf_pg.progress import number
from rlhf_pg.study.report import terminal

ESCAPE = "\x1b"


def printed(data, channel="advantage", colour=None, width=100):
    out = io.StringIO()
    console = Console(
        file=out, width=width, color_system=colour, force_terminal=bool(colour), highlight=False
    )
    terminal.show(data, channel, console)
    return out.getvalue()


def with_advantages(data, advantages):
    """The data with the tokens of its last completion given these advantages, in turn."""
    for t, token in enumerate(data["episodes"][-1]["tokens"]):
        token["advantage"] = advantages[t % len(advantages)]
    return [token["token"].strip() for token in data["episodes"][-1]["tokens"]]


def test_the_headline_and_the_metrics_are_printed(language):
    text = printed(language)
    first, last = language["metrics"][0]["score"], language["metrics"][-1]["score"]
    assert f"{first:+.2f}".replace("-", "−") in text and f"{last:+.2f}" in text
    row = next(line for line in text.splitlines() if line.startswith("score "))
    assert number(first) in row and number(last) in row and "▁" in row and "█" in row


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [([0, 1, 2, 3, 4, 5, 6, 7], 20, terminal.BLOCKS), ([7, 7], 20, "▁▁"),
     ([0, 0, 7, 7], 2, "▁█"), (list(range(1000)), 8, terminal.BLOCKS)],
)  # fmt: skip
def test_a_sparkline_rises_with_its_values(values, width, expected):
    assert terminal.sparkline(values, width) == expected


def test_signs_say_without_colour_what_colour_says(made):
    data = made.language_run(iterations=10, final_rows=1)
    words = with_advantages(data, [1.0, -1.0, 0.0, 0.3])
    text = printed(data)
    assert ESCAPE not in text
    assert f"{words[0]}⁺⁺ {words[1]}⁻⁻ {words[2]} {words[3]}⁺ {words[4]}⁺⁺" in text


def test_blue_is_above_the_centre_and_orange_below(made):
    data = made.language_run(iterations=10, final_rows=1)
    with_advantages(data, [1.0, -1.0])
    text = printed(data, colour="truecolor")
    background = {
        sign: re.search(rf"{ESCAPE}\[([\d;]+)m[^{ESCAPE}]+{sign}{sign}", text)[1] for sign in "⁺⁻"
    }
    assert "48;2;0;114;178" in background["⁺"] and "48;2;184;79;0" in background["⁻"]


@pytest.mark.parametrize("channel", terminal.CHANNELS)
def test_every_channel_names_its_range(language, channel):
    final = [e for e in language["episodes"] if e["iteration"] is None][: terminal.COMPLETIONS]
    values = [t[channel] for e in final for t in e["tokens"] if t[channel] is not None]
    last = printed(language, channel).splitlines()[-1]
    assert last.startswith(f"{channel}: from {number(min(values))} (orange")
    assert f"to {number(max(values))} (blue" in last


def test_a_ratio_of_one_has_no_colour(made):
    data = made.language_run(iterations=10, final_rows=1)
    for t, token in enumerate(data["episodes"][-1]["tokens"]):
        token["ratio"] = 1.5 if t == 0 else 1.0
    assert printed(data, "ratio").count("⁺⁺") == 1


def test_wrong_channels_are_named(language, control):
    with pytest.raises(ValueError, match="no channel 'colour': choose among advantage, true_"):
        printed(language, "colour")
    with pytest.raises(ValueError, match="true_advantage was not measured"):
        printed(control, "true_advantage")


def test_a_channel_that_only_earlier_completions_have_shows_those(made):
    data = made.language_run(iterations=10)
    for record in data["episodes"]:
        record["prompt"] = str(record["iteration"])
        for token in record["tokens"]:
            token["ratio"] = None if record["iteration"] is None else token["ratio"]
    text = printed(data, "ratio")
    assert "\n10  score" in text and "None" not in text and "\n1  score" not in text


def test_a_long_episode_is_cut_and_its_actions_are_apart(control):
    lines = printed(control).splitlines()
    assert len(lines) < 80 and any(line.startswith("CartPole-v1, seed 1") for line in lines)
    assert not [line for line in lines if re.search("leftright|rightleft", line)]


def test_text_is_neither_markup_nor_a_terminal_code(made):
    data = made.language_run(iterations=10, final_rows=2)
    data["title"] = "[bold]title[/bold]"
    for record in data["episodes"]:
        record["prompt"] = f"[red]{ESCAPE}[2Jprompt\r\n"
        for token in record["tokens"]:
            token["token"] = f"[link=x]{ESCAPE}]0;owned\x07\u202e"
    text = printed(data)
    assert "[bold]title[/bold]" in text and "[red]�[2Jprompt�⏎" in text
    assert "[link=x]�]0;owned��" in text.replace("\n", "")
    assert not set(text) & {ESCAPE, "\x07", "\r", "\u202e"}


@pytest.mark.parametrize("part", ["metrics", "episodes"])
def test_a_run_without_a_part_prints_the_rest(made, part):
    text = printed({**made.language_run(iterations=11), part: [], "agreement": None})
    assert "ppo on film-notes" in text and "0 iterations" not in text
    assert ("explained_variance" in text) == (part == "episodes")
    assert ("advantage: from" in text) == (part == "metrics")


def test_it_fits_eighty_columns(language, control):
    for data in (language, control):
        lines = printed(data, width=80).splitlines()
        assert max(map(len, lines)) <= 80
        score = next(line for line in lines if line.startswith("score "))
        assert "…" not in score and score.count("█") >= 1  # no curve is cut
