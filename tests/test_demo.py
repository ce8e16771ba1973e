"""The demo in its short form: every step and file, and texts that stay texts."""

import io
import json
import re

import pytest
import torch
from rich.console import Console

from rlhf_pg import demo
from rlhf_pg.cli import main
from rlhf_pg.language import data, models
from rlhf_pg.language.config import demo_preset
from rlhf_pg.runs import read_jsonl


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    """The folder of one short demo."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert main(["demo", "--preset", "smoke", "--output", str(folder)]) == 0
    return folder


def test_every_file_is_there(demo_run):
    for name in (
        "config.yaml", "preferences.jsonl", "result.json", "report.html", "report.svg",
        "base/policy/model.safetensors", "reward/reward_model/reward_model.json",
        "with-kl/policy/model.safetensors", "without-kl/policy/model.safetensors",
        "with-kl/report.html", "without-kl/report.html",
        "with-kl/metrics.jsonl", "with-kl/samples.jsonl", "without-kl/metrics.jsonl",
    ):  # fmt: skip
        assert (demo_run / name).is_file(), name
    assert not [path for path in demo_run.rglob(".*") if path.name != ".lock"]


def test_the_two_policies_differ_by_the_kl_term_alone(demo_run):
    near, free = (
        read_jsonl(demo_run / name / "metrics.jsonl") for name in ("with-kl", "without-kl")
    )
    assert near[0]["kl_coef"] > 0 == free[0]["kl_coef"]
    assert near[0]["score"] == free[0]["score"] and near[0]["gold"] == free[0]["gold"]
    assert abs(near[0]["kl"]) < 1e-4 and near[1]["kl"] != free[1]["kl"]


def test_preferences_are_pairs_of_samples_of_one_prompt(demo_run):
    rows = data.read(str(demo_run / "preferences.jsonl"), "preferences")
    assert len(rows["prompt"]) == 64
    assert set(rows["prompt"]) <= set(data.read("film-notes", "prompts")["prompt"])
    assert all(isinstance(f, bool) for f in rows["chosen_finished"])


def test_the_kl_of_the_base_to_itself_is_0(demo_run):
    table = json.loads((demo_run / "result.json").read_text())["table"]
    assert tuple(table) == demo.POLICIES and abs(table["base"]["kl"]) < 1e-3
    assert all(set(demo.ROWS) <= set(metrics) for metrics in table.values())


def test_a_run_inside_can_be_used_like_any_other(demo_run):
    models.load(str(demo_run / "with-kl"))
    words = [
        "sample",
        str(demo_run / "base"),
        "--count",
        "1",
        "--reward",
        str(demo_run / "reward"),
    ]
    assert main(words) == 0


def is_self_contained(page):
    return not re.search(r"""<(script|link|img|iframe)|src\s*=|@import|url\(""", page)


def test_the_page_loads_nothing_from_outside(demo_run):
    page = (demo_run / "report.html").read_text()
    assert is_self_contained(page) and len(page) < 200_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)


@pytest.fixture
def shown():
    """A table and samples as the demo makes them, with texts that look like markup."""
    metrics = dict.fromkeys(demo.ROWS, 0.5)
    texts = ["<script>alert(1)</script>", "[bold]loud[/bold] [/x]", "&amp; \\[red]a\\"]
    samples = [
        {"policy": name, "prompt": "a <b>film</b> [i]", "completion": text, "score": 1.0,
         "gold": -1.0, "finished": True, "kl": 0.0, "length": 3}
        for name, text in zip(demo.POLICIES, texts, strict=True)
    ]  # fmt: skip
    return {name: dict(metrics) for name in demo.POLICIES}, samples


def test_brackets_in_a_completion_are_shown_on_the_terminal(shown, monkeypatch):
    file = io.StringIO()
    console = Console(file=file, width=160, highlight=False)
    monkeypatch.setattr(demo, "console", console)
    demo._show(*shown)
    printed = file.getvalue()
    for text in ("a <b>film</b> [i]", "[bold]loud[/bold] [/x]", "<script>alert(1)</script>"):
        assert text in printed


def test_a_backslash_before_a_bracket_is_shown_on_the_terminal(shown, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(demo, "console", Console(file=file, width=160, highlight=False))
    demo._show(*shown)
    assert "&amp; \\[red]a\\" in file.getvalue()


def test_an_unknown_preset_is_an_error():
    with pytest.raises(ValueError, match="unknown preset 'huge': use 'full' or 'smoke'"):
        demo_preset("huge")
