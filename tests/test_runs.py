"""A run folder: what it is called, what it holds, and that nothing in it is half-written."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from rlhf_pg.runs import METRICS, Run, read_jsonl, saved_whole


@dataclass
class Inner:
    lr: float = 3e-5
    clip: float | None = None


@dataclass
class Config:
    name: str = "é : [x]"
    output: str | None = None
    inner: Inner = field(default_factory=Inner)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_takes_the_first_free_name():
    paths = [Run.create(None, "ppo", Config()).path for _ in range(3)]
    assert paths == [Path("runs/ppo"), Path("runs/ppo-2"), Path("runs/ppo-3")]
    Path("runs/ppo-2/config.yaml").unlink()
    Path("runs/ppo-2").rmdir()
    assert Run.create(None, "ppo", Config()).path == Path("runs/ppo-2")


def test_the_output_is_taken_where_it_is_free_or_empty():
    assert Run.create("deep/down", "ppo", Config()).path == Path("deep/down")
    Path("empty").mkdir()
    assert Run.create("empty", "ppo", Config()).path == Path("empty")


def test_no_run_overwrites_another():
    run = Run.create("mine", "ppo", Config())
    run.log(1, {"score": 1.0})
    Path("file").write_text("x")
    for taken in ("mine", "file"):
        with pytest.raises(ValueError, match=f"{taken} already holds something; choose another"):
            Run.create(taken, "ppo", Config())
    assert len(read_jsonl(run.path / "metrics.jsonl")) == 1
    assert Path("file").read_text() == "x"


def test_a_file_called_runs_is_an_error_and_no_endless_search():
    Path("runs").write_text("x")
    with pytest.raises(OSError):
        Run.create(None, "ppo", Config())


def test_the_configuration_is_written_without_the_output():
    run = Run.create("out", "ppo", Config(output="out"))
    values = yaml.safe_load((run.path / "config.yaml").read_text())
    assert values == {"name": "é : [x]", "inner": {"lr": 3e-5, "clip": None}}
    run = Run.create("plain", "reward", {"a": 1})
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == {"a": 1}


def test_metrics_are_appended_a_line_each():
    run = Run.create("out", "ppo", Config())
    line = run.log(1, {"score": 0.5})
    run.log(2, {"score": 0.7})
    assert set(line) == {"iteration", "seconds", "score"} and line["seconds"] >= 0
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text)["score"] for text in lines] == [0.5, 0.7]
    assert read_jsonl(run.path / "metrics.jsonl")[0] == line


def test_samples_are_a_history():
    run = Run.create("out", "ppo", Config())
    run.samples({"text": text} for text in ("a\nb", "雪"))
    run.samples([{"text": "later"}])
    texts = [row["text"] for row in read_jsonl(run.path / "samples.jsonl")]
    assert texts == ["a\nb", "雪", "later"]


def test_every_metric_is_explained_in_a_few_words():
    assert all(len(words.split()) >= 2 and not words.endswith(".") for words in METRICS.values())


def test_a_folder_appears_when_it_is_whole():
    with saved_whole(Path("policy")) as folder:
        (folder / "weights").write_text("new")
        assert not Path("policy").exists()
    assert Path("policy/weights").read_text() == "new"
    assert [p.name for p in Path().iterdir()] == ["policy"]


def test_an_error_leaves_nothing_behind_and_the_old_folder_as_it_was():
    for old in (False, True):
        if old:
            Path("policy").mkdir()
            Path("policy/weights").write_text("old")
        with pytest.raises(KeyboardInterrupt):
            with saved_whole(Path("policy")) as folder:
                (folder / "weights").write_text("half")
                raise KeyboardInterrupt
        assert [p.name for p in Path().iterdir()] == (["policy"] if old else [])
    assert Path("policy/weights").read_text() == "old"


def test_a_whole_folder_replaces_the_old_one_entirely():
    Path("policy").mkdir()
    Path("policy/stale").write_text("old")
    with saved_whole(Path("policy")) as folder:
        (folder / "weights").write_text("new")
    assert [p.name for p in Path("policy").iterdir()] == ["weights"]
    assert Path("policy").stat().st_mode & 0o777 == 0o755
