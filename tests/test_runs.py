"""A run folder: its name, what is written to it, and that no other run can write there."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from rlhf_pg.runs import METRICS, Run, discarded_if_empty, options_of, read_jsonl


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
    shutil.rmtree("runs/ppo-2")
    assert Run.create(None, "ppo", Config()).path == Path("runs/ppo-2")


def test_the_output_is_taken_where_it_is_free_or_empty():
    assert Run.create("deep/down", "ppo", Config()).path == Path("deep/down")
    Path("empty").mkdir()
    assert Run.create("empty", "ppo", Config()).path == Path("empty")


def test_no_run_overwrites_another():
    Run.create("mine", "ppo", Config()).log(1, {"score": 1.0})
    Path("file").write_text("x")
    Path("theirs").mkdir()
    Path("theirs/thesis.txt").write_text("x")
    for taken, message in (
        ("mine", "already holds something; choose another"),
        ("theirs", "already holds something; choose another"),
        ("file", "is a file; choose another"),
    ):
        with pytest.raises(ValueError, match=f"{taken} {message} --output"):
            Run.create(taken, "ppo", Config())
    assert len(read_jsonl(Path("mine/metrics.jsonl"))) == 1
    assert Path("file").read_text() == "x"
    assert [path.name for path in Path("theirs").iterdir()] == ["thesis.txt"]


def test_a_folder_is_written_by_one_run_at_a_time():
    run = Run.create("mine", "ppo", Config())
    with pytest.raises(ValueError, match="another process is writing to mine; choose another"):
        Run.create("mine", "ppo", Config())
    with pytest.raises(ValueError, match="another process is writing to mine"):
        Run.resume(run.path, run.state_dict())
    state = run.state_dict()
    del run  # and with it the lock
    assert Run.resume(Path("mine"), state).path == Path("mine")


def test_a_folder_that_a_killed_run_left_before_its_first_iteration_is_used_again():
    Run.create("mine", "ppo", Config())
    assert Run.create("mine", "ppo", Config(name="again")).path == Path("mine")
    assert options_of("mine")["name"] == "again"


def test_what_a_killed_run_had_not_finished_to_write_is_removed():
    def kill(*names):
        for name in names:
            Path(f"mine/{name}").mkdir(parents=True)

    state = Run.create("mine", "ppo", Config()).state_dict()
    kill(".initial-a1b2c3d4", "checkpoints/.000002-a1b2c3d4")
    Run.create("mine", "ppo", Config())  # as nothing was logged
    assert {path.name for path in Path("mine").iterdir()} <= {
        ".lock", "config.yaml", "config.signature",
    }  # fmt: skip
    kill(".best-a1b2c3d4", "checkpoints/.000002-a1b2c3d4", "checkpoints/000001", ".git-hooks", "x")
    Run.resume(Path("mine"), state)
    left = {str(path) for path in Path("mine").rglob("*") if path.is_dir()}
    assert left == {
        f"mine/{name}" for name in ("checkpoints", "checkpoints/000001", ".git-hooks", "x")
    }


def test_a_run_that_fails_before_it_logs_leaves_no_folder():
    for logged in (False, True):
        run = Run.create("mine", "ppo", Config())
        with pytest.raises(KeyError):
            with discarded_if_empty(run):
                if logged:
                    run.log(1, {"score": 1.0})
                raise KeyError
        assert Path("mine").exists() is logged


def test_a_resumed_run_drops_the_lines_that_came_after_its_state():
    run = Run.create("mine", "ppo", Config())
    run.log(1, {"score": 1.0})
    state = run.state_dict()
    run.log(2, {"score": 2.0})
    run.samples([{"text": "later"}])
    del run
    again = Run.resume(Path("mine"), state)
    again.log(2, {"score": 3.0})
    lines = read_jsonl(Path("mine/metrics.jsonl"))
    assert [line["score"] for line in lines] == [1.0, 3.0]
    assert lines[1]["seconds"] >= lines[0]["seconds"]
    assert not Path("mine/samples.jsonl").read_text()


def test_a_run_keeps_the_model_it_started_from():
    Path("base").mkdir()
    Path("base/weights").write_text("initial")
    run = Run.create("mine", "ppo", Config())
    run.keep_model("initial", Path("base"))
    shutil.rmtree("base")
    assert Path("mine/initial/weights").read_text() == "initial"


def test_a_folder_of_a_run_is_whole_and_needs_the_run():
    run = Run.create("mine", "ppo", Config())
    with run.saved("policy") as folder:
        (folder / "weights").write_text("new")
        assert not Path("mine/policy").exists()
    assert Path("mine/policy/weights").read_text() == "new"
    shutil.rmtree("mine")
    with pytest.raises(FileNotFoundError, match="the run's folder mine was removed"):
        with run.saved("policy"):
            pass


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


def test_an_incomplete_last_line_is_left_out_and_any_other_is_an_error(capsys):
    Path("a.jsonl").write_text('{"n": 1}\n\n{"n": 2}\n{"n": ')
    assert read_jsonl(Path("a.jsonl")) == [{"n": 1}, {"n": 2}]
    assert "incomplete last line" in capsys.readouterr().out
    for broken in ('{"n": 1}\n{"n": \n{"n": 2}\n', '{"n": 1}\n3\n', '{"n": 1}\n{"n"\n'):
        Path("a.jsonl").write_text(broken)
        with pytest.raises(ValueError, match="a.jsonl, line 2"):
            read_jsonl(Path("a.jsonl"))
