"""Curves of several runs on one page: every point is there, and text of runs stays text."""

import json
import re

import pytest
import yaml

from rlhf_pg.chart import PALETTE
from rlhf_pg.cli import main
from rlhf_pg.study.config import InspectConfig
from rlhf_pg.study.inspect import inspect
from rlhf_pg.study.web import content_policy


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run_of(name, scores, options=None, **more):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        rows = [{"iteration": i + 1, "seconds": 1.0, "score": x} for i, x in enumerate(scores)]
        rows[-1] |= more
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"algorithm": "ppo", "rows": 8, "learner": {"lr": 0.1}} | (options or {})
        (folder / "config.yaml").write_text(yaml.safe_dump(given))
        return name

    return run_of


def lines_of(figure):
    """colour -> number of points of its line."""
    found = re.findall(r'<polyline points="([^"]*)" fill="none" stroke="([^"]*)"', figure)
    return {colour: len(points.split()) for points, colour in found}


def figures(text):
    """title -> figure"""
    parts = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)
    return {re.search(r'class="title"[^>]*>([^<]*)', part)[1]: part for part in parts}


def test_every_run_is_a_line_in_the_chart_of_each_metric(run_of, tmp_path, capsys):
    a = run_of("a", [0.0, 1.0, 2.0])
    b = run_of("b", [1.0, 0.5], {"learner": {"lr": 0.2}}, kl=0.25)
    c = run_of("c", [3.0, 3.0, 3.0, 4.0])
    assert main(["inspect", a, b, c]) == 0
    page = tmp_path / "a" / "curves.html"
    assert "curves.html in a browser" in capsys.readouterr().out
    drawn = figures(page.read_text())
    assert list(drawn) == ["score", "kl"]
    assert lines_of(drawn["score"]) == dict(zip(PALETTE, [3, 2, 4], strict=False))
    assert drawn["kl"].count("<circle") == 1 and PALETTE[1] in drawn["kl"]  # one point, of b
    (row,) = re.findall(r'<tr><th scope="row">.*?</tr>', page.read_text())
    assert re.findall(r">([^<]+)<", row) == ["learner.lr", "0.1", "0.2", "0.1"]


def test_heights_are_on_one_scale(run_of, tmp_path):
    config = InspectConfig(run=run_of("a", [0.0, 1.0]), others=[run_of("b", [1.0, 0.0])])
    text = inspect(config).read_text()
    lines = re.findall(r'<polyline points="([^"]*)"', figures(text)["score"])
    first, second = ([point.split(",")[1] for point in line.split()] for line in lines)
    assert first == second[::-1] and first[0] != first[1]


def test_text_of_a_run_stays_text_and_nothing_is_fetched(run_of):
    bad = '<script src="//x">\x1b'
    config = InspectConfig(
        run=run_of("a", [1.0, 2.0]), others=[run_of("x/a", [1.0, 2.0], {"reward": bad, bad: 1})]
    )
    text = inspect(config).read_text()
    assert "<script" not in text and "\x1b" not in text and "&lt;script" in text
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert content_policy(list(dict.fromkeys(styles))) in text
    assert "x/a" in text  # two folders of one name


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["a", "nowhere"], "nowhere has no metrics: name folders of runs"),
        (["a", "a"], "a is named twice"),
        (["a", "b", "--terminal"], "--terminal shows one run"),
        (["a"] * 8, "at most 7 runs can be told apart, not 8"),
    ],
)
def test_what_cannot_be_shown_is_one_line(run_of, words, error, capsys):
    run_of("a", [1.0]), run_of("b", [1.0])
    assert main(["inspect", *words]) == 2
    assert error in capsys.readouterr().err
