"""`study bugs`: what is printed, what is saved, and what is refused."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from rlhf_pg.study.bugs import BUGS, bug, command
from rlhf_pg.study.bugs.command import main, sparkline
from rlhf_pg.study.bugs.functions import RIGHT
from rlhf_pg.study.bugs.time_limit import TimeLimit
from rlhf_pg.study.config import BugsConfig
from rlhf_pg.study.mdp import two_state

TEST = {
    "right": {"runs": 3, "solved": 3, "steps": [20_000, 30_000, 40_000]},
    "wrong": {"runs": 3, "solved": 1, "steps": [100_000, 90_000, 100_000]},
}


@pytest.fixture
def printed(monkeypatch):
    """What is printed, as one text of 100 columns."""
    console = Console(width=100, record=True, highlight=False, soft_wrap=True)
    monkeypatch.setattr(command, "console", console)
    return lambda: console.export_text(clear=False)


def few(monkeypatch, *names):
    """These bugs alone."""
    monkeypatch.setattr(command, "BUGS", {name: BUGS[name] for name in names})


def widest(text):
    return max(len(line) for line in text.splitlines() if not line.startswith("saved in"))


def numbers(text, side):
    """The numbers of the table's lines with the right or the wrong code, top to bottom."""
    lines = [line.split(f" {side} ", 1)[1] for line in text.splitlines() if f" {side}  " in line]
    return [[x for x in line.split() if x.lstrip("-")[:1].isdigit()] for line in lines]


def test_a_bug_shows_its_code_and_its_numbers_and_saves_them(tmp_path, printed):
    run = main(BugsConfig("truncation-as-end", cartpole=False, output=str(tmp_path / "run")))
    (saved,) = json.loads((run.path / "bugs.json").read_text()).values()
    text = printed()
    assert "return following * ~terminated\n" in text and "functions.next_values" in text
    assert "return following * ~(terminated | truncated)" in text
    assert saved["wrong"] == ["return following * ~(terminated | truncated)"]
    first, second = saved["gradients"]
    assert first["wrong"]["cosine"] == pytest.approx(-1) and first["right"]["bias"] < 1e-8
    (curve,) = saved["curves"]
    assert curve["best"] == pytest.approx(12.6) and len(curve["right"][0]) == 101
    assert numbers(text, "right") == [["1.000", "0.000", "1.000"]] * 2 + [["12.599"]]
    assert numbers(text, "wrong") == [
        [f"{row['wrong'][key]:.3f}" for key in ("cosine", "bias", "length")]
        for row in (first, second)
    ] + [["10.031"]]
    assert "CleanRL" in text and "14 is true: right 14.000, wrong 1.913" in text
    assert saved["cartpole"] is None and "CartPole" not in text
    assert widest(text) <= 100


def test_all_bugs_have_two_lines_each(tmp_path, printed, monkeypatch):
    few(monkeypatch, "truncation-as-end", "kl-sign")
    run = main(BugsConfig(cartpole=False, output=str(tmp_path / "run")))
    saved = json.loads((run.path / "bugs.json").read_text())
    assert list(saved) == ["truncation-as-end", "kl-sign"]
    text = printed()
    assert numbers(text, "right") == [["1.00", "0.00", "12.60"], ["1.00", "0.00", "0.55"]]
    assert numbers(text, "wrong") == [["-1.00", "1.31", "10.03"], ["0.45", "1.43", "-0.15"]]
    assert "truncation-as-end" in text and "rewards leaving the reference" in text
    assert "CartPole" not in text and widest(text) <= 80
    # The curves of both sides are drawn on one scale, as means over the seeds.
    assert " ▁▄▆▇▇▇▆▆▅▅▅▄" in text and " ▇▅▃▁▁▁▁▁▁▁▁▁" in text
    assert [len(saved["kl-sign"]["curves"][0]["wrong"]), saved["kl-sign"]["cartpole"]] == [3, None]


@pytest.mark.parametrize("solved, notices", [(1, True), (3, False)])
def test_the_learning_test_is_reported(tmp_path, printed, monkeypatch, solved, notices):
    cheap = {"at once": TimeLimit(two_state(), fitted=False)}
    reset = replace(BUGS["reset-step"], gradients=cheap, curves=cheap, numbers={})
    monkeypatch.setattr(command, "BUGS", {"reset-step": reset})
    wrong = {**TEST["wrong"], "solved": solved}
    results = {RIGHT: TEST["right"], reset.functions: wrong}
    monkeypatch.setattr(bug, "learning_test", results.get)
    run = main(BugsConfig("reset-step", output=str(tmp_path / "one")))
    saved = json.loads((run.path / "bugs.json").read_text())["reset-step"]["cartpole"]
    assert saved == {"right": TEST["right"], "wrong": wrong, "notices": notices}
    text = " ".join(printed().split())
    assert ("CartPole notices" if notices else "CartPole does not notice") in text
    assert f"in 3 of 3 runs with the right code and in {solved} with the wrong" in text
    assert "after 30k and 97k steps" in text
    main(BugsConfig(output=str(tmp_path / "all")))
    text = printed()
    assert f"it notices {1 if notices else 'none'}." in text
    assert "3 of 3" in text and f"{solved} of 3" in text


def test_only_bugs_that_can_occur_in_control_are_tested_there(monkeypatch):
    called = []
    monkeypatch.setattr(bug, "learning_test", lambda f: called.append(f) or TEST["right"])
    empty = {"gradients": {}, "curves": {}, "numbers": {}}
    for item in BUGS.values():
        bug.measure(replace(item, **empty))
    tested = [name for name, item in BUGS.items() if item.functions in called]
    assert tested == ["unmasked-whitening", "inverted-whitening", "lambda-ignored", "mask-dropped",
                      "truncation-as-end", "reset-step", "actor-sign", "action-baseline",
                      "gradients-not-zeroed"]  # fmt: skip


def test_curves_are_blocks_on_the_given_scale():
    assert sparkline([0.0, 0.5, 1.0], 0.0, 1.0, 3) == "▁▅█"
    assert sparkline([0.0] * 9, 0.0, 0.0, 4) == "▁▁▁▁"
    assert sparkline([float(i) for i in range(80)], 0.0, 79.0, 8) == "▁▂▃▄▅▆▇█"


def test_text_in_brackets_is_no_markup(printed):
    pair = {"right": {"bias": 0.0}, "wrong": {"bias": 1.0}}
    found = bug.measure(replace(BUGS["score-on-pad"], gradients={}, curves={}))
    command.show_one("score-on-pad", {**found, "gradients": [{"setting": "[b]", **pair}]})
    text = printed()
    assert "[b]" in text and "scores[:, None]" in text and "|E[g] - ∇J|" in text
    assert "rewards[rows, mask.sum(1).clamp(max=mask.shape[1] - 1)] = scores" in text


def test_an_unknown_bug_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="no bug 'kl-sing'; did you mean 'kl-sign'.*reset-step"):
        main(BugsConfig("kl-sing", output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
