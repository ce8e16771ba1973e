"""A live bar on a terminal, plain lines elsewhere; numbers in tables, and the next command."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlhf_pg import progress
from rlhf_pg.progress import Progress, command, number


@pytest.fixture
def screen(monkeypatch):
    def use(terminal):
        file = io.StringIO()
        console = Console(file=file, force_terminal=terminal, width=120, highlight=False)
        monkeypatch.setattr(progress, "console", console)
        return file

    return use


def test_plain_lines_come_now_and_then_and_at_the_end(screen):
    file = screen(terminal=False)
    with Progress(3, "ppo", every_seconds=1000) as bar:
        for done in (1, 2, 3):
            bar.update(done, score=done / 3, kl=0.25, held_out_loss=12.3456)
    assert file.getvalue() == "ppo  3/3  score 1  kl 0.25  held out loss 12.3\n"


def test_plain_lines_come_as_often_as_asked(screen):
    file = screen(terminal=False)
    with Progress(3, "ppo", every_seconds=0) as bar:
        for done in (1, 2, 3):
            bar.update(done)
    assert file.getvalue().split("\n") == ["ppo  1/3", "ppo  2/3", "ppo  3/3", ""]


def test_a_terminal_shows_a_bar_with_the_numbers_and_the_time_left(screen):
    file = screen(terminal=True)
    with Progress(3, "ppo") as bar:
        bar.update(1, score=0.5, kl=2.0)
        bar.update(3, score=0.75, kl=1.0)
    shown = file.getvalue()
    assert "ppo" in shown and "3/3" in shown and "left" in shown and "score 0.75  kl 1" in shown


def test_titles_and_lines_are_no_markup(screen):
    file = screen(terminal=False)
    with Progress(1, "[/b] [bold]x", every_seconds=0) as bar:
        bar.say("[/x] warning")
        bar.update(1)
    assert file.getvalue() == "[/x] warning\n[/b] [bold]x  1/1\n"


def test_what_is_not_shown_is_silent(screen):
    file = screen(terminal=False)
    with Progress(1, "ppo", shown=False) as bar:
        bar.say("hello")
        bar.update(1, score=1.0)
    assert file.getvalue() == ""


def test_an_error_inside_is_passed_on_and_the_bar_is_stopped(screen):
    screen(terminal=True)
    with pytest.raises(RuntimeError):
        with Progress(3, "ppo") as bar:
            raise RuntimeError
    assert bar.bar.finished or not bar.bar.live.is_started


# Numbers


@pytest.mark.parametrize(
    ("x", "digits", "text"),
    [
        (None, 3, "–"),
        (0, 3, "0"),
        (0.0, 3, "0"),
        (-0.0, 3, "0"),
        (1, 3, "1"),
        (0.5, 3, "0.5"),
        (1.23456, 3, "1.23"),
        (-1.23456, 3, "−1.23"),
        (1.23456, 2, "1.2"),
        (-0.12, 3, "−0.12"),
        (0.001, 3, "0.001"),
        (0.00012345, 3, "1.2e−04"),
        (-0.00012345, 2, "−1e−04"),
        (123.4, 3, "123"),
        (999.4, 3, "999"),
        (999.6, 3, "1,000"),  # no exponent where the rounding adds a digit
        (12345.6, 3, "12,346"),
        (-12345.6, 3, "−12,346"),
        (99.7, 2, "100"),
        (1e-300, 3, "1.0e−300"),
    ],
)
def test_a_number_has_its_digits_a_proper_minus_and_no_minus_zero(x, digits, text):
    assert number(x, digits) == text


# The next command


@pytest.fixture
def started_as(tmp_path, monkeypatch):
    """Pretends that this process was started by a script, with or without it on the PATH."""

    def started_as(script, on_path=False):
        script = tmp_path / script
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(script)])
        monkeypatch.setenv("PATH", str(script.parent) if on_path else str(tmp_path / "empty"))
        return script

    return started_as


def test_a_script_on_the_path_is_named_alone(started_as):
    started_as("bin/rlhf-pg", on_path=True)
    assert command("sample", Path("runs/ppo")) == "rlhf-pg sample runs/ppo"


def test_a_script_that_is_not_on_the_path_is_named_by_its_path(started_as, tmp_path, monkeypatch):
    script = started_as(".venv/bin/rlhf-pg")
    assert command("inspect", "runs/ppo") == ".venv/bin/rlhf-pg inspect runs/ppo"
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert command("inspect", "a") == f"{script} inspect a"


def test_another_program_that_calls_the_package_names_the_script(started_as):
    started_as("bin/pytest")
    assert command("sample", "runs/ppo") == "rlhf-pg sample runs/ppo"


def test_words_are_quoted_for_the_shell(started_as):
    started_as("my env/bin/rlhf-pg")
    words = ["reward", "--data", "it's mine/a b.jsonl"]
    text = command(*words)
    script = 'for word in "$@"; do printf \'%s|\' "$word"; done'
    shell = ["/bin/sh", "-c", f"show() {{ {script}; }}; show {text}"]
    shown = subprocess.run(shell, capture_output=True, text=True, env=dict(os.environ))
    assert shown.stdout == "|".join(["my env/bin/rlhf-pg", *words, ""])
