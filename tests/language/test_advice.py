"""Starting values from the first rollout, and warnings as a run goes on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf_pg.checkpoint import Stopped
from rlhf_pg.language.advice import TrainingMonitor, first_rollout, std_within
from rlhf_pg.language.config import preset
from rlhf_pg.language.train import train
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, count_good, write_rows


def constant(completions, **_):
    return [1.0] * len(completions)


ROLLOUT = {"score": 0.5, "score_std": 0.4, "length": 20.0, "eos_rate": 0.75, "entropy": 2.0}


@pytest.fixture
def config(base, tmp_path):
    """A small run of rloo, two prompts with four completions each."""
    config = preset("rloo")
    config.model, config.output = base, str(tmp_path / "run")
    config.data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": p} for p in PROMPTS])
    config.iterations, config.rows, config.max_new_tokens, config.device = 4, 8, 6, "cpu"
    return config


def test_the_deviation_within_prompts_by_hand():
    scores = torch.tensor([1.0, 3.0, 10.0, 10.0, 5.0, math.nan, math.nan, math.nan])
    # Squares about the groups' means: 1 + 1, 0 + 0; the others have no second score.
    assert std_within(scores, 2) == pytest.approx(math.sqrt(2 / 2))
    # Of 1, 3, 10, 10: mean 6, squares 25 + 9 + 16 + 16; 5 is alone.
    assert std_within(scores, 4) == pytest.approx(math.sqrt(66 / 3))
    assert std_within(scores, 1) is None and std_within(scores[5:7], 2) is None


def test_the_deviation_within_prompts_is_unbiased():
    scores = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0)) * 3
    scores += 100 * torch.arange(20_000)[:, None] % 7  # prompts differ, which does not count
    assert std_within(scores.flatten(), 4) == pytest.approx(3, rel=0.01)


def test_the_suggested_coefficient_has_its_optimum_at_six_nats():
    # The optimum ref * exp(score / beta) on a grid of normal scores, and its KL.
    std = 0.08
    lines = first_rollout(ROLLOUT | {"score_std": std}, replace(preset("ppo"), kl_coef=0.02), 1)
    beta = float(lines[1].split("--kl_coef ")[1].split()[0])
    scores = torch.linspace(-12 * std, 12 * std, 20_001, dtype=torch.float64)
    ref = (-((scores / std) ** 2) / 2).log_softmax(0)
    optimum = (ref + scores / beta).log_softmax(0)
    assert float((optimum.exp() * (optimum - ref)).sum()) == pytest.approx(6, rel=0.05)
    assert "now 0.02: near 8)" in lines[1]  # (0.08 / 0.02)^2 / 2


@pytest.mark.parametrize(
    ("std", "changes", "warned"),
    [
        (1.0, {}, []),
        (0.4, {}, []),
        (0.3, {}, ["missing_eos_penalty 1 is 3 times"]),
        (0.3, {"missing_eos_penalty": 0.8}, []),
        (0.3, {"mask_truncated": True}, []),  # there is no penalty then
        (0.08, {"kl_coef": 0.02}, ["set --missing_eos_penalty 0.08"]),
        (0.08, {"missing_eos_penalty": 0.1}, ["set --kl_coef 0.023"]),
        (0.08, {"missing_eos_penalty": 0.1, "kl_coef": 0.0}, []),
        (80.0, {}, []),
    ],
)
def test_prices_are_compared_with_the_spread_of_the_scores(std, changes, warned):
    metrics = ROLLOUT | {"score_std": 5.0, "score_std_within": std}
    lines = first_rollout(metrics, replace(preset("rloo"), **changes), 1)
    assert f"std {std:g} within a prompt" in lines[0] and "EOS rate 0.75" in lines[0]
    warnings = [line for line in lines if line.startswith("warning")]
    assert len(warnings) == len(warned)
    assert all(text in line for text, line in zip(warned, warnings, strict=True))


def test_no_price_of_a_missing_eos_is_named_where_all_completions_end():
    lines = first_rollout(ROLLOUT | {"eos_rate": 1.0, "score_std": 0.1}, preset("ppo"), 1)
    assert not any("missing_eos_penalty" in line for line in lines)
    lines = first_rollout(ROLLOUT | {"eos_rate": 0.4}, preset("ppo"), 1)
    assert "--max_new_tokens 96" in lines[1]


def test_equal_scores_and_no_scores_give_no_starting_values():
    assert len(first_rollout(ROLLOUT | {"score_std": 0.0}, preset("ppo"), 1)) == 1
    unscored = {name: x for name, x in ROLLOUT.items() if "score" not in name}
    assert "no scores" in first_rollout(unscored, preset("ppo"), 1)[0]


def test_all_weights_of_a_large_model_need_a_small_learning_rate():
    def warned(parameters, **changes):
        config = replace(preset("ppo"), **changes)
        return any(
            "--learner.lr 1e-5" in line for line in first_rollout(ROLLOUT, config, parameters)
        )

    slow = replace(preset("ppo").learner, lr=1e-5)
    assert warned(134_000_000) and not warned(1_000_000)
    assert not warned(134_000_000, learner=slow) and not warned(30_000_000, lora_rank=64)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("score_constant", {"score_std": 0.0}), ("all_truncated", {"eos_rate": 0.0})],
)
def test_what_lasts_three_rollouts_is_warned_of_once(name, changes):
    monitor = TrainingMonitor(preset("ppo"))
    bad = ROLLOUT | changes
    seen = [monitor.check(metrics, 1) for metrics in (bad, bad, ROLLOUT, bad, bad, bad, bad, bad)]
    assert [list(due) for due in seen] == [[], [], [], [], [], [name], [], []]


def test_one_completion_per_rollout_has_no_constant_score():
    monitor = TrainingMonitor(replace(preset("ppo"), rows=1))
    assert not any(monitor.check(ROLLOUT | {"score_std": 0.0}, 1) for _ in range(5))


def test_an_entropy_that_collapses_is_warned_of_in_text():
    monitor = TrainingMonitor(replace(preset("ppo"), iterations=10))
    assert not monitor.check(ROLLOUT, 1)
    due = monitor.check(ROLLOUT | {"entropy": 0.1}, 3)["entropy_collapsed"]
    assert "0.1 nats from 2 after 30%" in due and "--kl_coef" in due
    assert "entropy_temperature" not in due  # an option of control


def test_a_run_prints_starting_values_once_and_marks_its_warnings(config, tmp_path, capsys):
    run = train(config, constant)
    printed = capsys.readouterr().out
    assert printed.count("first rollout: score 1, std 0 within a prompt") == 1
    assert printed.count("warning: the scores of 3 rollouts in a row did not differ") == 1
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert [line.get("score_constant") for line in lines] == [None, None, 1.0, None]

    config.output = str(tmp_path / "other")
    run = train(config, count_good)
    assert "starting values by its spread: --kl_coef" in capsys.readouterr().out
    assert not any("score_constant" in line for line in read_jsonl(run.path / "metrics.jsonl"))


def test_a_resumed_run_remembers_what_it_warned_of(config, capsys):
    with pytest.raises(Stopped):
        train(config, constant, until=2)
    capsys.readouterr()
    run = train(config, constant, resume=Path(config.output))
    assert capsys.readouterr().out.count("did not differ") == 1
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert [line.get("score_constant") for line in lines] == [None, None, 1.0, None]


def test_bf16_on_a_cpu_without_its_instructions(monkeypatch):
    for capability, warned in (("AVX2", True), ("AVX512", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        lines = first_rollout(ROLLOUT, replace(preset("rloo"), bf16=True, device="cpu"), 1)
        assert any("no instructions for bfloat16" in line for line in lines) == warned
    assert not any("bfloat16" in line for line in first_rollout(ROLLOUT, preset("rloo"), 1))
