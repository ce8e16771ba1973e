"""The command: what is saved is what the page reads, and what is printed fits and says so."""

import json
import math

import pytest

from rlhf_pg.language import models
from rlhf_pg.language.config import preset
from rlhf_pg.language.train import train
from rlhf_pg.progress import console
from rlhf_pg.runs import read_jsonl
from rlhf_pg.study import tasks
from rlhf_pg.study.config import EstimatorsConfig
from rlhf_pg.study.estimators import measure
from rlhf_pg.study.estimators.command import main, show
from rlhf_pg.study.tasks import small_task

FEW = {"estimates": 40, "critic_batches": 4, "ppo_steps": [0, 2], "lambdas": [0.0, 0.95, 1.0]}
SCHEMA = {
    "name": str, "family": str, "lam": float | None, "critic": str | None, "bias": float,
    "bias_se": float, "variance": float, "mse": float, "cosine": float | None,
    "cosine_single": float, "snr": float, "expected_exactly": bool, "projections": list,
}  # fmt: skip


@pytest.fixture
def printed():
    """What is shown, at the width of a terminal of 100 columns."""

    def of(action):
        with console.capture() as capture:
            action()
        return capture.get()

    return of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimators") / "out"
    with pytest.MonkeyPatch.context() as patch, console.capture() as capture:
        patch.setattr(tasks, "small_task", lambda: small_task(max_new_tokens=3))
        returned = main(EstimatorsConfig(**FEW, output=str(folder)))
    read = json.loads((folder / "estimators.json").read_text())
    assert read == json.loads(json.dumps(returned))
    assert (folder / "config.yaml").is_file()
    return read, capture.get()


def test_what_is_saved_keeps_to_the_schema(saved):
    result, _ = saved
    assert result["truth"] == {
        "how": "enumeration", "episodes": 400, "norm": pytest.approx(result["truth"]["norm"]),
        "relative_error": 0.0,
    }  # fmt: skip
    assert result["batch"] == 16 and result["estimates"] == 40 and "fitted" in result["critic"]
    names = [entry["name"] for entry in result["methods"]]
    assert len(names) == len(set(names))
    for entry in result["methods"]:
        for name, kind in SCHEMA.items():
            assert isinstance(entry[name], kind), (entry["name"], name)
        assert len(entry["projections"]) == 40
        assert all(math.isfinite(x) for x in entry["projections"])


def test_what_is_printed_fits_into_a_hundred_columns_and_names_every_estimator(saved):
    result, text = saved
    lines = [line for line in text.splitlines() if "saved in" not in line]
    assert max(map(len, lines)) <= 100
    for entry in result["methods"]:
        assert f" {entry['name']}" in text
    assert "…" not in text
    assert "exact, summed over all 400 episodes" in text
    assert "saved in" in text


def entries_of(result, **changes):
    """The result with some entries' numbers changed, by name."""
    methods = [{**entry, **changes.get(entry["name"], {})} for entry in result["methods"]]
    return {**result, "methods": methods}


def test_noise_is_shown_as_noise(saved, printed):
    result, _ = saved
    name = "leave-one-out"
    within = {"bias": 0.1, "bias_se": 0.15, "bias_squared": 0.01, "bias_squared_se": 0.08}
    beyond = {"bias": 0.6, "bias_se": 0.02, "bias_squared": 0.36, "bias_squared_se": 0.024}

    def row(change):
        text = printed(lambda: show(entries_of(result, **{name: change})))
        return next(line for line in text.splitlines() if line.startswith(f" {' '}{name}"))

    assert "< 0.4" in row(within)
    assert "0.6 ±.04" in row(beyond)
    assert "–" in row({**beyond, "cosine": None, "cosine_se": None})


def test_text_of_a_task_is_data(saved, printed):
    result, _ = saved
    text = printed(lambda: show({**result, "task": "[red]a run[/red]"}))
    assert "[red]a run[/red]" in text


def test_a_run_gets_its_result_into_its_folder(tmp_path, printed):
    task = small_task()
    models.save(tmp_path / "base", task.reference.model, task.tokenizer)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "film"}) + "\n")
    config = preset("a2c")
    config.model, config.data = str(tmp_path / "base"), str(tmp_path / "prompts.jsonl")
    config.iterations, config.rows, config.max_new_tokens, config.device = 2, 8, 3, "cpu"
    config.reward, config.output = "rlhf_pg.study.tasks:opinion", str(tmp_path / "run")
    run = train(config)
    before = (run.path / "config.yaml").read_text()
    config = EstimatorsConfig(model=str(run.path), truth_rows=400, rows=8, **FEW)
    text = printed(lambda: main(config))
    result = json.loads((run.path / "estimators.json").read_text())
    assert result["truth"]["how"] == "large sample" and result["truth"]["episodes"] >= 400
    assert 0 < result["truth"]["relative_error"] < 0.5
    assert not any(entry["expected_exactly"] for entry in result["methods"])
    assert "the mean over 400 other episodes" in text
    assert (run.path / "config.yaml").read_text() == before
    assert len(read_jsonl(run.path / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"model": "a", "env": "b"}, "not both"),
        ({"rows": 10}, "multiple of samples_per_prompt"),
        ({"samples_per_prompt": 1}, "at least 2"),
        ({"estimates": 50}, "multiple of 20"),
        ({"estimates": 20}, "at least 40"),
        ({"truth_rows": 0}, "truth_rows"),
        ({"lambdas": [0.5, 1.5]}, "lambdas"),
        ({"lambdas": []}, "lambdas"),
        ({"ppo_steps": [-1]}, "ppo_steps"),
        ({"env": "CartPol-v1"}, "did you mean"),
        ({"model": "runs/nothing"}, "no run"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        main(EstimatorsConfig(**options, output=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_truth_that_stays_in_the_noise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "TOO_NOISY", 0.01)
    config = EstimatorsConfig(env="CartPole-v1", truth_rows=40, probe_steps=500, **FEW)
    config.output = str(tmp_path / "out")
    with pytest.raises(ValueError, match="raise --truth_rows"):
        main(config)
    assert not (tmp_path / "out").exists()
