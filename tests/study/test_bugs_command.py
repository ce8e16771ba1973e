"""A visit to the museum: what is printed, what is saved, and what is refused."""

import json

import pytest
from rich.console import Console

from rlhf_pg.study import bugs_command
from rlhf_pg.study.bugs import display, museum
from rlhf_pg.study.bugs.exhibit import Comparison, Curves, Direction, Findings, LearningTest
from rlhf_pg.study.bugs_command import BugsConfig, main


@pytest.fixture
def said(monkeypatch):
    """What is printed, as one text of 100 columns."""
    console = Console(width=100, record=True, highlight=False, soft_wrap=True)
    for place in (bugs_command, display):
        monkeypatch.setattr(place, "console", console)
    return lambda: console.export_text(clear=False)


def few(monkeypatch, *names):
    """A museum of these rooms alone."""
    rooms = {name: museum.EXHIBITS[name] for name in names}
    monkeypatch.setattr(bugs_command, "EXHIBITS", rooms)


def widest(text):
    return max(len(line) for line in text.splitlines() if not line.startswith("saved in"))


def test_a_room_shows_its_code_and_its_numbers_and_saves_them(tmp_path, said):
    run = main(BugsConfig("truncation-as-end", cartpole=False, output=str(tmp_path / "run")))
    (room,) = json.loads((run.path / "bugs.json").read_text()).values()
    text = said()
    assert "rollout.next_values = following * ~torch.from_numpy(terminated)" in text
    assert "return following * ~(terminated | truncated)" in text
    assert room["gradients"][0]["wrong"]["cosine"] == pytest.approx(-1)
    assert f"{room['gradients'][0]['wrong']['bias']:.3f}" in text
    assert room["curves"][0]["best"] == pytest.approx(12.6)
    assert len(room["curves"][0]["right"][0]) == len(room["curves"][0]["updates"])
    right, wrong = (next(line for line in text.splitlines() if f"{name} │" in line)
                    for name in ("right", "wrong"))  # fmt: skip
    assert " 1.000 " in right and "-1.000" in wrong
    assert "12.364 → 12.599" in text and "CleanRL" in text
    assert room["cartpole"] is None and "CartPole" not in text
    assert widest(text) <= 100


def test_all_rooms_are_a_line_each(tmp_path, said, monkeypatch):
    few(monkeypatch, "truncation-as-end", "reset-step")
    run = main(BugsConfig(cartpole=False, output=str(tmp_path / "run")))
    assert list(json.loads((run.path / "bugs.json").read_text())) == list(bugs_command.EXHIBITS)
    text = said()
    assert "truncation-as-end" in text and "spoils the critic" in text
    assert "10.03" in text and "-1.00" in text
    assert widest(text) <= 100


def test_the_learning_test_is_reported(tmp_path, said, monkeypatch):
    few(monkeypatch, "reset-step")
    exhibit = bugs_command.EXHIBITS["reset-step"]
    seen = LearningTest(3, 3, 1, [20_000, 30_000, 40_000], [100_000, 90_000, 100_000])
    monkeypatch.setattr(exhibit, "cartpole", lambda: seen)
    run = main(BugsConfig("reset-step", output=str(tmp_path / "one")))
    assert json.loads((run.path / "bugs.json").read_text())["reset-step"]["cartpole"]["notices"]
    assert "A learning test on CartPole notices" in said() and "30k and 97k" in said()
    main(BugsConfig(output=str(tmp_path / "all")))
    assert "it notices 1" in said() and "1 of 3" in said()


def test_curves_are_drawn_on_one_scale():
    assert display.sparkline([0.0, 0.5, 1.0], 0.0, 1.0, 3) == "▁▅█"
    assert display.sparkline([0.0] * 9, 0.0, 0.0, 4) == "▁▁▁▁"
    assert display.sparkline([float(i) for i in range(80)], 0.0, 79.0, 8) == "▁▂▃▄▅▆▇█"
    curves = Curves("", [0, 1], [[0.0, 2.0], [2.0, 4.0]], [[-1.0, 1.0]])
    assert display.averaged(curves.right) == [1.0, 3.0] and display.span(curves) == (-1.0, 3.0)


def test_text_in_brackets_is_no_markup(said, monkeypatch):
    found = Findings([Comparison("[b]", Direction(0, 1, 1), Direction(1, 0, 1))], [])
    display.show_room(museum.EXHIBITS["score-on-pad"], found)
    assert "[b]" in said() and "scores[:, None]" in said() and "|E[g] - ∇J|" in said()


def test_an_unknown_bug_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="no bug 'kl-sing'; did you mean 'kl-sign'.*reset-step"):
        main(BugsConfig("kl-sing", output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
