"""Agreement with true advantages by hand and under known noise; `rlhf-pg study credit` on a run."""

import json

import pytest
import torch

from rlhf_pg.language import models
from rlhf_pg.language.config import preset
from rlhf_pg.language.loaded import open_run
from rlhf_pg.language.train import train
from rlhf_pg.runs import EPISODE, TOKEN, read_jsonl
from rlhf_pg.study import credit, tasks
from rlhf_pg.study.config import CreditConfig, InspectConfig
from rlhf_pg.study.credit import AGREEMENT, agreement
from rlhf_pg.study.inspect import collect


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


# -- agreement -------------------------------------------------------------------------------------


def record(rewards, values, true, errors=None, true_values=None, gamma=1.0):
    """A record with the keys that `agreement` reads; each argument is a list over the tokens."""
    next_values = [*values[1:], 0.0]
    columns = {
        "reward": rewards,
        "value": values,
        "next_value": next_values,
        "true_value": true_values or values,
        "true_advantage": true,
        "true_advantage_se": errors or [0.0] * len(true),
    }
    tokens = [{name: column[t] for name, column in columns.items()} for t in range(len(rewards))]
    return {"gamma": gamma, "tokens": tokens}


def at(result, lam):
    return next(row for row in result["gae"] if row["lam"] == lam)


def test_a_perfect_critic_at_lambda_zero_agrees_exactly():
    values = [0.5, 0.8, -0.3]  # delta = .3, -1.1, 1.3
    result = agreement([record([0, 0, 1.0], values, [0.3, -1.1, 1.3])], lam=0.0)
    assert at(result, 0.0) == {
        "lam": 0.0,
        "correlation": pytest.approx(1),
        "corrected_correlation": pytest.approx(1),
        "sign_agreement": 1.0,
        "rmse": pytest.approx(0, abs=1e-7),
    }
    assert result["tokens"] == 3 and result["completions"] == 1
    assert result["value_correlation"] == pytest.approx(1) and result["value_bias"] == 0


def test_by_hand():
    """lambda = 1: 1 - V = .5, .2, 1.3 against the true .3, -1.1, 1.3 -> one sign of three off."""
    result = agreement([record([0, 0, 1.0], [0.5, 0.8, -0.3], [0.3, -1.1, 1.3])], lam=1.0)
    row = at(result, 1.0)
    estimate, true = torch.tensor([0.5, 0.2, 1.3]), torch.tensor([0.3, -1.1, 1.3])
    a, b = estimate - estimate.mean(), true - true.mean()
    assert row["correlation"] == pytest.approx(float((a @ b) / (a.norm() * b.norm())), abs=1e-6)
    assert row["sign_agreement"] == pytest.approx(2 / 3)
    assert row["rmse"] == pytest.approx(((0.2**2 + 1.3**2) / 3) ** 0.5)
    assert [p["position"] for p in result["by_position"]] == [0, 1, 2]
    assert result["by_position"][1] == {
        "position": 1,
        "tokens": 1,
        "rmse": pytest.approx(1.3),
        "bias": pytest.approx(1.3),
        "noise": 0.0,
    }


def test_without_a_critic_the_advantage_that_the_learner_used_is_compared(capsys):
    """GAE with V = 0 would judge what no learner computed."""
    one = record([0, 0, 1.0], [0.0, 0.0, 0.0], [0.3, -1.1, 1.3])
    one["baseline"] = "leave-one-out"
    for token, advantage in zip(one["tokens"], [0.5, 0.2, 1.3], strict=True):
        token["advantage"] = advantage
    result = agreement([one], lam=0.95)
    assert result["gae"] == [] and result["value_correlation"] is None
    assert result["advantage"]["sign_agreement"] == pytest.approx(2 / 3)
    assert result["advantage"]["rmse"] == pytest.approx(((0.2**2 + 1.3**2) / 3) ** 0.5)
    assert result["by_position"][1]["bias"] == pytest.approx(1.3)
    credit.show({**result, "exact": True})
    printed = capsys.readouterr().out
    assert "no critic" in printed and "0.667" in printed and "GAE(" not in printed


def test_the_noise_of_the_measurement_is_removed():
    """estimate = x + e, true = x, measured with noise: the correction gives corr(estimate, x)."""
    torch.manual_seed(0)
    n, noise = 6_000, 0.8
    x, e = torch.randn(n), torch.randn(n)
    estimate, measured = x + e, x + noise * torch.randn(n)
    records = [
        record([float(g)], [0.0], [float(m)], [noise])
        for g, m in zip(estimate, measured, strict=True)
    ]
    result = agreement(records, lam=1.0)
    row = at(result, 1.0)
    assert row["correlation"] == pytest.approx(0.5**0.5 / (1 + noise**2) ** 0.5, abs=0.04)
    assert row["corrected_correlation"] == pytest.approx(0.5**0.5, abs=0.04)
    assert row["rmse"] == pytest.approx(1.0, abs=0.04)
    clear = measured.abs() > 2 * noise
    right = (estimate.sign() == measured.sign())[clear].float().mean()
    assert row["sign_agreement"] == pytest.approx(float(right))
    assert result["by_position"][0]["noise"] == pytest.approx(noise)
    assert result["by_position"][0]["rmse"] == pytest.approx(1.0, abs=0.04)


def test_discount_and_values_count():
    result = agreement(
        [record([1.0, 2.0], [0.5, 1.0], [1.0, 1.0], true_values=[0.0, 0.5], gamma=0.5)], lam=0.0
    )
    # delta = 1 + .5*1 - .5 = 1 and 2 - 1 = 1: both are right, and V is .5 too high.
    assert at(result, 0.0)["rmse"] == 0 and result["value_bias"] == pytest.approx(0.5)
    assert at(result, 0.0)["correlation"] is None  # nothing varies


def test_completions_of_different_lengths_keep_their_positions():
    records = [record([0.0, 1.0], [0.0, 0.0], [1.0, 1.0]), record([3.0], [0.0], [1.0])]
    result = agreement(records, lam=1.0)
    # GAE(1) is 1, 1 and 3: only the second completion's token is off, at position 0.
    rows = [(row["position"], row["tokens"], row["bias"]) for row in result["by_position"]]
    assert rows == [(0, 2, 1.0), (1, 1, 0.0)]
    assert result["completions"] == 2 and result["tokens"] == 3


def test_the_runs_lambda_is_among_the_rows():
    result = agreement([record([1.0, 2.0], [0.5, 1.0], [1.0, 0.0])], lam=0.93)
    assert [row["lam"] for row in result["gae"]] == [0, 0.5, 0.8, 0.9, 0.93, 0.95, 0.99, 1]
    names = set(result["gae"][0]) | set(result["by_position"][0]) | set(result)
    counts = {"lam", "position", "tokens", "completions", "gae", "by_position"}
    assert names - counts <= set(AGREEMENT)


def test_records_without_true_advantages_are_refused():
    with pytest.raises(ValueError, match="study credit"):
        agreement([{"gamma": 1.0, "tokens": [{"reward": 1.0}]}], lam=1.0)


def test_the_printed_tables_hold_the_numbers(capsys):
    """Positions are joined in groups: the mean bias, and root mean squares of rmse and noise."""
    rows = [
        {"position": t, "tokens": 1 + t % 2, "rmse": 3.0 if t % 2 else 0.0, "bias": -0.5 * (t % 2),
         "noise": 0.1}
        for t in range(12)
    ]  # fmt: skip
    gae = [{"lam": lam, "correlation": None, "corrected_correlation": 0.25, "sign_agreement": 0.75,
            "rmse": 0.4321} for lam in (0.0, 0.9)]  # fmt: skip
    counts = {"exact": False, "continuations": 7, "completions": 3, "tokens": 18, "lam": 0.9}
    values = {"value_correlation": 0.5, "value_bias": -0.125}
    credit.show({**counts, **values, "gae": gae, "by_position": rows})
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    assert ["0.9", "–", "0.25", "0.75", "0.432"] in cells
    assert ["1 to 2", "3", "2.45", "−0.333", "0.1"] in cells  # sqrt(2/3 * 9), -0.5 * 2/3
    assert "7 continuations per prefix" in out and "bias −0.125" in out


# -- on a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run on the small task, whose completions can be enumerated."""
    folder = tmp_path_factory.mktemp("small")
    small = tasks.small_task()
    models.save(folder / "base", small.reference.model, small.tokenizer)
    (folder / "reward.py").write_text("from rlhf_pg.study.tasks import opinion\n")
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": p}) + "\n" for p in ("film", "not", "very film"))
    )
    config = preset("a2c")
    config.model, config.data = str(folder / "base"), str(folder / "prompts.jsonl")
    config.reward, config.output = f"{folder / 'reward.py'}:opinion", str(folder / "run")
    config.iterations, config.rows, config.max_new_tokens = 20, 32, 3
    config.samples_every, config.learner.lr, config.device = 10, 3e-3, "cpu"
    return train(config).path


@pytest.fixture
def unmeasured(run):
    """The run without a measurement from another test."""
    for name in ("credit.jsonl", "credit.json", "estimators.json"):
        (run / name).unlink(missing_ok=True)
    return run


def test_exact_records_are_saved_and_a_perfect_critic_agrees_with_them(run, capsys):
    result = credit.credit(CreditConfig(str(run), completions=12))
    assert result["exact"] and result["continuations"] == 0
    records = read_jsonl(run / "credit.jsonl")
    assert json.loads((run / "credit.json").read_text()) == result
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
    printed = " ".join(capsys.readouterr().out.split())
    assert "(exact)" in printed and "correlation" in printed and "credit.jsonl" in printed


def test_completions_too_many_to_enumerate_are_continued(run, tmp_path):
    config = CreditConfig(
        str(run), completions=6, continuations=4, max_new_tokens=9, output=str(tmp_path / "out")
    )
    result = credit.credit(config)
    assert not result["exact"] and result["continuations"] == 4
    records = read_jsonl(tmp_path / "out" / "credit.jsonl")
    errors = [token["true_advantage_se"] for r in records for token in r["tokens"]]
    assert all(e >= 0 for e in errors) and max(errors) > 0
    again = credit.credit(config)
    assert again == result  # the same seed, the same numbers


def test_the_kl_coefficient_is_the_one_that_training_ended_with(run):
    opened = open_run(str(run))
    opened.kl_coef = 0.75  # as an adaptive one may be in the end
    records, _ = credit.measure(opened, 3, 2)
    tokens = [token for record in records for token in record["tokens"]]
    assert {record["kl_coef"] for record in records} == {0.75} != {opened.config.kl_coef}
    assert max(abs(token["kl"]) for token in tokens) > 1e-3
    for token in tokens:
        expected = token["score"] - 0.75 * token["kl"]
        assert token["reward"] == pytest.approx(expected, abs=1e-5)


def test_a_model_inside_the_run_is_enough(run):
    assert credit.credit(CreditConfig(str(run / "policy"), completions=3))["completions"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": "{tmp}"}, "give --reward"),
        ({"run": "nowhere"}, "no run at nowhere"),
        ({"completions": 0}, "completions must be at least 1"),
        ({"continuations": 1, "max_new_tokens": 9}, "continuations must be at least 2"),
        ({"max_new_tokens": 90}, "context"),
    ],
)
def test_wrong_options_are_named(run, tmp_path, options, message):
    options = {"run": str(run), **options}
    options["run"] = options["run"].replace("{tmp}", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        credit.credit(CreditConfig(**options))


# -- what `rlhf-pg inspect` shows ------------------------------------------------------------------


def test_the_page_gets_the_run_and_missing_true_advantages(unmeasured, monkeypatch):
    run = unmeasured
    (run / "estimators.json").write_text('{"task": "t"}')
    data = collect(InspectConfig(str(run), 6))
    assert data["kind"] == "language" and data["title"].startswith("a2c toward ")
    assert [line["iteration"] for line in data["metrics"]] == list(range(1, 21))
    assert sorted({r["iteration"] or 99 for r in data["episodes"]}) == [1, 10, 20, 99]
    assert data["agreement"]["exact"] and data["estimators"] == [{"task": "t"}]
    # Measured once: without --again, credit.jsonl is read, and with it replaced.
    calls = []
    monkeypatch.setattr(
        "rlhf_pg.study.inspect.measure", lambda *args: calls.append(args) or ([], {})
    )
    again = collect(InspectConfig(str(run), 6))
    assert json.dumps(again) == json.dumps(data) and not calls
    assert collect(InspectConfig(str(run), 6, again=True))["agreement"] == {} and calls


def test_without_continuations_nothing_is_opened(unmeasured, monkeypatch):
    monkeypatch.setattr("rlhf_pg.study.inspect.open_run", None)
    data = collect(InspectConfig(str(unmeasured), continuations=0))
    assert data["agreement"] is None and {r["iteration"] for r in data["episodes"]} == {1, 10, 20}


def test_a_control_run_has_steps_for_tokens(tmp_path):
    from rlhf_pg.cli import main

    folder = str(tmp_path / "run")
    options = "--total_steps 1000 --eval_episodes 2 --output"
    assert main(["control", *options.split(), folder]) == 0
    data = collect(InspectConfig(folder, completions=12))
    assert data["kind"] == "control" and data["title"] == "ppo on CartPole-v1"
    assert len(data["episodes"]) == 2 and data["metrics"]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no run of `rlhf-pg train` or `rlhf-pg control`"):
        collect(InspectConfig(str(tmp_path)))
    with pytest.raises(ValueError, match="no run at nowhere; `rlhf-pg train`"):
        collect(InspectConfig("nowhere"))


def test_estimators_alone_make_a_page_too(tmp_path):
    (tmp_path / "estimators.json").write_text('{"task": "t", "methods": []}')
    data = collect(InspectConfig(str(tmp_path)))
    assert data["estimators"] == [{"task": "t", "methods": []}] and data["episodes"] == []
