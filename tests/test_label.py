"""A person at a real terminal: keys become preferences, and no judgement is lost."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace

import pytest
import torch

from rlhf_pg.cli import main
from rlhf_pg.label import KEYS, Judgements, Pair, judge, make_pairs
from rlhf_pg.language import data, models
from rlhf_pg.language.config import LabelConfig
from support.language import write_rows

PAIRS = [
    Pair("the film", f" is good {i} .", f" is dull {i} .", True, i % 2 == 0, 1.0, 0.0)
    for i in range(5)
]


def typed(keys):
    """A reader of these keys, one at each call."""
    waiting = list(keys)
    return lambda: waiting.pop(0)


def judged(folder, keys, pairs=PAIRS):
    kept = Judgements(folder)
    judge(pairs, kept, typed(keys))
    return kept


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is kept


def test_keys_become_preferences_that_a_reward_model_can_learn_from(tmp_path):
    judged(tmp_path, ["a", "\x1b[C", "t", "s", "1"])
    first, second, third = lines(tmp_path / "preferences.jsonl")
    assert first["chosen"] == " is good 0 ." and first["rejected"] == " is dull 0 ."
    assert second == {
        "prompt": "the film",
        "chosen": " is dull 1 .",
        "rejected": " is good 1 .",
        "chosen_finished": False,
        "rejected_finished": True,
    }
    assert third["chosen"] == " is good 4 ."
    read = data.read(str(tmp_path / "preferences.jsonl"), "preferences")
    assert read["prompt"] == ["the film"] * 3
    made = [row["judgement"] for row in lines(tmp_path / "judgements.jsonl")]
    assert made == ["left", "right", "tie", "skip", "left"]


def test_undo_takes_the_last_judgement_back(tmp_path):
    kept = judged(tmp_path, ["a", "d", "u", "u", "d", "q"])
    assert [row["judgement"] for row in kept.made] == ["right"]
    assert lines(tmp_path / "preferences.jsonl")[0]["chosen"] == " is dull 0 ."
    assert len(lines(tmp_path / "judgements.jsonl")) == 5  # the history stays


def test_undo_with_nothing_judged_does_nothing(tmp_path, capsys):
    assert judged(tmp_path, ["u", "q"]).made == []
    assert "nothing to take back" in capsys.readouterr().out


def test_a_key_without_a_meaning_is_reported_and_changes_nothing(tmp_path, capsys):
    assert judged(tmp_path, ["x", "\x1b[A", "q"]).made == []
    assert "means nothing" in capsys.readouterr().out


def test_a_session_is_continued_and_no_pair_comes_twice(tmp_path):
    judged(tmp_path, ["a", "t", "q"])
    turned = [replace(pair, left=pair.right, right=pair.left) for pair in PAIRS]
    kept = judged(tmp_path, ["a", "a", "a"], turned)
    assert len(kept.made) == 5 and len(lines(tmp_path / "preferences.jsonl")) == 4


def test_undo_reaches_back_into_an_earlier_session(tmp_path):
    judged(tmp_path, ["a", "q"])
    kept = judged(tmp_path, ["u", "d", "q"])
    assert [row["judgement"] for row in kept.made] == ["right"]


def test_every_key_is_on_disk_before_the_next_is_read(tmp_path):
    seen = []

    def read():
        path = tmp_path / "judgements.jsonl"
        seen.append(len(lines(path)) if path.exists() else 0)
        return "a"

    judge(PAIRS, Judgements(tmp_path), read)
    assert seen == [0, 1, 2, 3, 4]


def test_a_line_cut_off_by_a_kill_costs_that_line_alone(tmp_path):
    judged(tmp_path, ["a", "d", "q"])
    path = tmp_path / "judgements.jsonl"
    path.write_text(path.read_text() + '{"prompt": "the fi')
    (tmp_path / "preferences.jsonl").unlink()
    kept = judged(tmp_path, ["a", "q"])
    assert len(kept.made) == 3 and len(lines(tmp_path / "preferences.jsonl")) == 3
    assert len(Judgements(tmp_path).made) == 3


def test_agreement_counts_decided_pairs_that_have_scores(tmp_path, capsys):
    pairs = [*PAIRS[:4], replace(PAIRS[4], left_score=None, right_score=None)]
    kept = judged(tmp_path, ["a", "d", "a", "t", "a"], pairs)
    assert kept.agreement() == (2, 3)
    printed = capsys.readouterr().out
    assert "agrees with 2 of 3 (67%)" in printed and "disagrees" in printed


def test_scores_are_not_shown_before_the_judgement(tmp_path, capsys):
    judged(tmp_path, ["q"], [replace(PAIRS[0], left_score=4.5678, right_score=1.2345)])
    printed = capsys.readouterr().out
    assert "4.5" not in printed and "1.2" not in printed and "the reward model" not in printed


def test_texts_are_no_markup(tmp_path, capsys):
    judged(tmp_path, ["q"], [Pair("[bold]p[/bold]", "[red]l[/red]", "[/oops]")])
    printed = capsys.readouterr().out
    assert "[bold]p[/bold]" in printed and "[red]l[/red]" in printed and "[/oops]" in printed


# Which pairs


@pytest.fixture
def base(tmp_path):
    texts = [
        "the film is good and the plot is clear .",
        "the film is dull but the cast is bright .",
    ]
    tokenizer = models.train_tokenizer(texts, "word")
    torch.manual_seed(0)
    models.save(tmp_path / "base", models.tiny_model(tokenizer, 16, 1, 2, 48), tokenizer)
    prompts = [{"prompt": text} for text in ("the film", "the plot", "the cast")]
    write_rows(tmp_path / "p.jsonl", prompts)
    return tmp_path


def config_of(base, **options):
    data = str(base / "p.jsonl")
    return LabelConfig(
        model=str(base / "base"), data=data, max_new_tokens=8, device="cpu", **options
    )


def words(completions, **_):
    return [float(len(set(text.split()))) for text in completions]


def test_the_pairs_of_least_difference_come_first_and_every_prompt_once(base):
    pairs = make_pairs(config_of(base, count=9, samples_per_prompt=4), words)
    assert len({pair.prompt for pair in pairs[:3]}) == 3
    gaps = [abs(pair.left_score - pair.right_score) for pair in pairs]
    for turn in range(0, 9, 3):
        assert gaps[turn : turn + 3] == sorted(gaps[turn : turn + 3])
    for prompt in {pair.prompt for pair in pairs}:
        own = [gap for pair, gap in zip(pairs, gaps, strict=True) if pair.prompt == prompt]
        assert own == sorted(own)
    for pair in pairs:
        assert pair.left != pair.right
        scores = words([pair.left, pair.right])
        assert scores == [pair.left_score, pair.right_score]


def test_which_side_a_completion_stands_on_is_chance_and_not_its_score(base):
    pairs = make_pairs(config_of(base, count=3, samples_per_prompt=12), words)
    pairs += make_pairs(config_of(base, count=60, samples_per_prompt=12), words)
    better = [p.left_score > p.right_score for p in pairs if p.left_score != p.right_score]
    assert 0.2 < sum(better) / len(better) < 0.8


def test_a_continued_session_draws_others(base):
    first, again, later = (make_pairs(config_of(base, count=3), words, skip=n) for n in (0, 0, 3))
    assert first == again and first != later


def test_without_a_reward_there_are_no_scores(base):
    assert all(pair.left_score is None for pair in make_pairs(config_of(base, count=3), None))


def test_one_sample_makes_no_pair(base):
    with pytest.raises(ValueError, match="samples_per_prompt must be at least 2"):
        make_pairs(config_of(base, samples_per_prompt=1), None)


# The terminal itself


class Terminal:
    """A process on a terminal of its own, and what stands on its screen."""

    def __init__(self, arguments):
        self.side, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.before = termios.tcgetattr(other)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_pg.cli", *arguments],
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.other, self.text = other, ""

    def wait_for(self, pattern, seconds=90):
        """Read until the pattern stands in what was printed since the last match."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end() :]
                return
            if select.select([self.side], [], [], 0.1)[0]:
                raw = os.read(self.side, 65536).decode("utf-8", "replace")
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw)
        raise AssertionError(f"{pattern!r} never came; the screen holds: {self.text[-2000:]}")

    def press(self, keys):
        os.write(self.side, keys.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.side)
        os.close(self.other)


@pytest.fixture
def terminal(base):
    """The command on a terminal, judging into base/label, with the reward `length`."""
    arguments = ["label", "--model", str(base / "base"), "--data", str(base / "p.jsonl")]
    arguments += ["--reward", "length:target=3", "--count", "6", "--max_new_tokens", "8"]
    opened = Terminal([*arguments, "--device", "cpu", "--output", str(base / "label")])
    yield opened
    opened.close()


def test_a_person_at_a_terminal(base, terminal):
    """Arrows, letters, undo, and an interrupt; then the reward model learns from it."""
    terminal.wait_for("pair 1 of 6")
    terminal.press("\x1b[D")
    terminal.wait_for("left; the reward model (dis)?agrees")
    terminal.wait_for("1 judged, 1 decided; the reward model agrees with . of 1")
    terminal.wait_for("pair 2 of 6")
    terminal.press("t")
    terminal.wait_for("2 judged, 1 decided")
    terminal.press("u")
    terminal.wait_for("taken back")
    terminal.wait_for("1 judged, 1 decided")
    terminal.press("d")
    terminal.wait_for("2 judged, 2 decided")
    terminal.press("\x1bOCa")  # faster than they are read
    terminal.wait_for("4 judged, 4 decided")
    terminal.press("\x03")
    assert terminal.process.wait(30) == 130
    terminal.wait_for("stopped; the run folder keeps what was written so far")
    assert termios.tcgetattr(terminal.other) == terminal.before  # echo is back
    decided = base / "label" / "preferences.jsonl"
    assert len(lines(decided)) == 4
    again = ["reward", "--data", str(decided), "--test", str(decided), "--model"]
    assert main([*again, str(base / "base"), "--output", str(base / "reward")]) == 0
    assert (base / "reward" / "reward_model" / "reward_model.json").is_file()


def test_without_a_terminal_it_is_an_error_that_leaves_nothing(base, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["label", "--model", str(base / "base"), "--output", str(base / "label")]) == 2
    assert "needs a terminal" in capsys.readouterr().err
    assert not (base / "label").exists()


def test_the_help_line_names_keys_that_work():
    assert {KEYS[key] for key in ("a", "d", "t", "s", "u", "q")} == set(KEYS.values())
