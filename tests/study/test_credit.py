"""`rlhf-pg study credit` and what `rlhf-pg inspect` gathers, on runs made here."""

import json

import pytest
import torch
from rlhf_pg.language.settings import preset
from rlhf_pg.language.training import train

from rlhf_pg.language import models
from rlhf_pg.runs import EPISODE, TOKEN, read_jsonl
from rlhf_pg.study import credit, inspection, tasks
from rlhf_pg.study.agreement import agreement

REWARDS = {"opinion": tasks.opinion, "film-notes-gold": lambda completions, **_: [0.0]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the small task, whose completions can all be written down."""
    folder = tmp_path_factory.mktemp("small")
    small = tasks.small_task()
    models.save(folder / "base", small.reference.model, small.tokenizer)
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": p}) + "\n" for p in ("film", "not", "very film"))
    )
    config = preset("a2c")
    config.model, config.data = str(folder / "base"), str(folder / "prompts.jsonl")
    config.reward, config.output = "opinion", str(folder / "run")
    config.iterations, config.rows, config.max_new_tokens = 20, 32, 3
    config.samples_every, config.learner.lr, config.device = 10, 3e-3, "cpu"
    return train(config, tasks.opinion).path


def test_exact_records_of_a_run_are_saved_and_a_perfect_critic_would_agree(run, capsys):
    found = credit.main(credit.CreditConfig(str(run), completions=12), REWARDS.__getitem__)
    assert found["exact"] and found["continuations"] == 0
    records = read_jsonl(run / "credit.jsonl")
    assert json.loads((run / "credit.json").read_text()) == found
    assert {r["prompt"] for r in records} == {"film", "not", "very film"}
    for record in records:
        assert set(record) == set(EPISODE) and set(record["tokens"][0]) <= set(TOKEN)
        assert record["iteration"] is None
        assert all(token["true_value_se"] == 0 for token in record["tokens"])
    # delta of the true values is the true advantage: a critic that knew them would be right.
    for record in records:
        tokens = record["tokens"]
        for token, after in zip(tokens, [*tokens[1:], {"true_value": 0.0}], strict=True):
            token["value"], token["next_value"] = token["true_value"], after["true_value"]
    perfect = agreement(records, 0.95)["gae"][0]
    assert perfect["lam"] == 0 and perfect["correlation"] == pytest.approx(1, abs=1e-6)
    assert perfect["rmse"] < 1e-5 and perfect["sign_agreement"] == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "exact values" in said and "correlation" in said


def test_too_many_completions_to_enumerate_are_continued(run, tmp_path):
    asked = credit.CreditConfig(
        str(run), completions=6, continuations=4, max_new_tokens=9, output=str(tmp_path / "out")
    )
    found = credit.main(asked, REWARDS.__getitem__)
    assert not found["exact"] and found["continuations"] == 4
    records = read_jsonl(tmp_path / "out" / "credit.jsonl")
    errors = [token["true_advantage_se"] for r in records for token in r["tokens"]]
    assert all(e >= 0 for e in errors) and max(errors) > 0


def test_a_model_inside_the_run_will_do_and_no_model_will_not(run, tmp_path):
    credit.main(credit.CreditConfig(str(run / "policy"), completions=3), REWARDS.__getitem__)
    with pytest.raises(ValueError, match="give --reward"):
        credit.main(credit.CreditConfig(str(tmp_path)), REWARDS.__getitem__)
    with pytest.raises(ValueError, match="completions must be at least 1"):
        credit.main(credit.CreditConfig(str(run), completions=0), REWARDS.__getitem__)


def test_the_page_gets_the_run_and_the_missing_truth(run, monkeypatch):
    (run / "credit.jsonl").unlink(missing_ok=True)
    (run / "estimators.json").write_text('{"task": "t"}')
    data = inspection.gather(inspection.InspectConfig(str(run), 6), REWARDS.__getitem__)
    assert data["kind"] == "language" and data["title"] == "a2c toward opinion"
    assert [line["iteration"] for line in data["metrics"]] == list(range(1, 21))
    assert sorted({r["iteration"] or 99 for r in data["episodes"]}) == [1, 10, 20, 99]
    assert data["agreement"]["exact"] and data["estimators"] == [{"task": "t"}]
    # It is measured once: without --again, what stands there is read.
    monkeypatch.setattr(credit, "measure", None)
    again = inspection.gather(inspection.InspectConfig(str(run), 6), REWARDS.__getitem__)
    assert json.dumps(again) == json.dumps(data)


def test_without_continuations_nothing_is_loaded(run):
    (run / "credit.jsonl").unlink(missing_ok=True)
    (run / "credit.json").unlink(missing_ok=True)
    data = inspection.gather(inspection.InspectConfig(str(run), continuations=0), None)
    assert data["agreement"] is None and {r["iteration"] for r in data["episodes"]} == {1, 10, 20}


def test_a_control_run_has_steps_for_tokens(tmp_path):
    from rlhf_pg.control.config import preset as control_preset
    from rlhf_pg.control.train import train as control

    config = control_preset("ppo")
    config.total_steps, config.eval_episodes, config.output = 1000, 2, str(tmp_path / "run")
    control(config)
    data = inspection.gather(inspection.InspectConfig(config.output, completions=12), None)
    assert data["kind"] == "control" and data["title"] == "ppo on CartPole-v1"
    assert len(data["episodes"]) == 2 and data["metrics"]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no run of `rlhf-pg train` or `rlhf-pg control`"):
        inspection.gather(inspection.InspectConfig(str(tmp_path)), None)
    with pytest.raises(ValueError, match="no run at nowhere; `rlhf-pg train`"):
        inspection.gather(inspection.InspectConfig("nowhere"), None)


def test_estimators_alone_make_a_page_too(tmp_path):
    (tmp_path / "estimators.json").write_text('{"task": "t", "methods": []}')
    data = inspection.gather(inspection.InspectConfig(str(tmp_path)), None)
    assert data["estimators"] == [{"task": "t", "methods": []}] and data["episodes"] == []


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
