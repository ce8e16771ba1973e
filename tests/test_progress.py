"""A live bar on a terminal, plain lines elsewhere, and nothing read as markup."""

import io

import pytest
from rich.console import Console

from rlhf_pg import progress
from rlhf_pg.progress import Progress


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
