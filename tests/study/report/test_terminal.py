"""The terminal twin: its numbers are the run's, signs are text, and text is never markup."""

import io
import re

import pytest
from rich.console import Console

from rlhf_pg.study.report import terminal

ESCAPE = "\x1b"


def printed(data, channel="advantage", colour=None, width=100):
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=colour, force_terminal=bool(colour))
    terminal.show(data, console, channel)
    return out.getvalue()


def test_it_says_what_the_run_did(language):
    text = printed(language)
    first, last = language["metrics"][0]["score"], language["metrics"][-1]["score"]
    assert f"{first:+.2f}".replace("-", "−") in text and f"{last:+.2f}" in text
    row = next(line for line in text.splitlines() if line.startswith("score"))
    assert f"{first:.3g}".replace("-", "−") in row and "▁" in row and "█" in row


def test_a_sparkline_rises_with_its_values():
    assert terminal.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20) == terminal.BLOCKS
    assert terminal.sparkline([7, 7], 20) == "▁▁"
    assert len(terminal.sparkline(range(1000), 36)) == 36


def test_without_colour_signs_say_what_colour_says(made):
    data = made.language_run(iterations=10, final_rows=1)
    tokens = data["episodes"][-1]["tokens"]
    for t, token in enumerate(tokens):
        token["advantage"] = [1.0, -1.0, 0.0][t % 3]
    text = printed(data)
    assert ESCAPE not in text
    words = [token["token"].strip() for token in tokens]
    assert f"{words[0]}⁺⁺ {words[1]}⁻⁻ {words[2]} {words[3]}⁺⁺" in text


def test_colour_is_blue_above_and_orange_below(language):
    text = printed(language, colour="truecolor")
    strong = {sign: re.search(rf"{ESCAPE}\[([\d;]+)m[^{ESCAPE}]+{sign}{sign}", text)[1]
              for sign in "⁺⁻"}  # fmt: skip
    assert "48;2;0;114;178" in strong["⁺"] or "48;2;90;165;214" in strong["⁺"]
    assert "48;2;184;79;0" in strong["⁻"] or "48;2;229;139;72" in strong["⁻"]


@pytest.mark.parametrize("channel", list(terminal.CHANNELS))
def test_every_channel_prints_its_extremes(language, channel):
    text = printed(language, channel)
    final = [e for e in language["episodes"] if e["iteration"] is None][: terminal.SHOWN]
    values = [t[channel] for e in final for t in e["tokens"] if t[channel] is not None]
    for value in (max(values), min(values)):
        assert f"{value:+.2f}".replace("-", "−").replace("+0.00", "0.00") in text


def test_an_unknown_channel_is_named_with_the_known(language):
    with pytest.raises(ValueError, match="no channel 'colour': choose among advantage, true_"):
        printed(language, "colour")


def test_a_channel_that_was_not_measured_is_said(control):
    with pytest.raises(ValueError, match="true_advantage was not measured"):
        printed(control, "true_advantage")


def test_a_channel_that_only_earlier_completions_have_shows_those(made):
    data = made.language_run(iterations=10)
    for record in data["episodes"]:
        for token in record["tokens"]:
            token["ratio"] = None if record["iteration"] is None else token["ratio"]
    assert "iteration 10" in printed(data, "ratio") and "after training" not in printed(
        data, "ratio"
    )


def test_a_long_episode_is_a_line_and_not_hundreds_of_words(control):
    text = printed(control)
    assert "CartPole-v1, seed 1" in text and len(text.splitlines()) < 60
    lines = [line for line in text.splitlines() if line.startswith("±")]
    assert len(lines) == 2 and all(set(line[3:].strip()) <= set("+−·") for line in lines)


def test_text_is_neither_markup_nor_a_terminal_code(made):
    data = made.language_run(iterations=10, final_rows=2)
    data["title"] = "[bold]title[/bold]"
    for record in data["episodes"]:
        record["prompt"] = f"[red]{ESCAPE}[2Jprompt\r\n"
        for token in record["tokens"]:
            token["token"] = f"[link=x]{ESCAPE}]0;owned\x07"
    text = printed(data)
    assert "[bold]title[/bold]" in text and "[red]�[2Jprompt�⏎" in text
    assert "[link=x]�]0;owned�" in text.replace("\n", "")
    assert ESCAPE not in text and "\x07" not in text and "\r" not in text


@pytest.mark.parametrize("part", ["metrics", "episodes"])
def test_a_run_without_a_part_prints_the_rest(made, part):
    text = printed({**made.language_run(iterations=10), part: [], "agreement": None})
    assert "ppo on film-notes" in text


def test_it_fits_eighty_columns(language, control):
    for data in (language, control):
        lines = printed(data, width=80).splitlines()
        assert max(map(len, lines)) <= 80
        table = lines[lines.index(next(line for line in lines if "The highest" in line)) :]
        assert not [cell for line in table for cell in line.split() if re.search("[+−].*…", cell)]
        score = next(line for line in lines if line.startswith("score"))
        assert "…" not in score and score.count("█") >= 1  # no curve is cut
