"""The RLHF loop: what it maximises, what it logs, and that it learns."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from reward_models.combine import WeightedSum
from reward_models.state import random_state
from rlhf_pg.checkpoint import Stopped
from rlhf_pg.core.algorithms import ALGORITHMS
from rlhf_pg.language import models, policy
from rlhf_pg.language.config import preset
from rlhf_pg.language.rollout import differing_groups
from rlhf_pg.language.sampling import completion_texts, encode
from rlhf_pg.language.train import Trainer, train
from rlhf_pg.runs import METRICS, Run, read_jsonl
from support.language import PROMPTS, count_good, tiny_lm, write_rows


@pytest.fixture
def config_of(base, tmp_path):
    """A named algorithm's settings for a very small run, with some changed."""
    rows = [{"prompt": p, "answer": str(i)} for i, p in enumerate(PROMPTS)]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)

    def config_of(name="ppo", **changes):
        config = preset(name)
        config.model, config.data, config.output = base, prompts, str(tmp_path / "run")
        config.iterations, config.rows, config.max_new_tokens, config.device = 2, 8, 6, "cpu"
        for key, value in changes.items():
            target = config.learner if key.startswith("learner_") else config
            key = key.removeprefix("learner_")
            assert hasattr(target, key)
            setattr(target, key, value)
        return config

    return config_of


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_runs_and_logs_what_is_documented(config_of, name):
    config = config_of(name, temperature=0.7)  # of the reference too, or the first KL is not 0
    run = train(config, count_good, gold=lambda completions, **_: [1.0] * len(completions))
    assert run.path == Path(config.output)
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [1, 2]
    assert set().union(*lines) <= set(METRICS)
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines)
    assert lines[0]["first_ratio_drift"] < 1e-5 and abs(lines[0]["kl"]) < 1e-4
    assert lines[0]["gold"] == 1.0 and lines[0]["grad_norm"] > 0
    assert yaml.safe_load((run.path / "config.yaml").read_text())["algorithm"] == name
    models.load(str(run.path))
    assert (run.path / "policy" / "value_head.safetensors").exists() == (
        preset(name).critic == "shared"
    )


@pytest.mark.parametrize("name", ["reinforce-baseline", "rloo", "ppo"])
def test_it_learns_to_say_what_is_rewarded(config_of, name):
    config = config_of(name, iterations=30, rows=64, kl_coef=0.01, learner_lr=1e-2)
    run = train(config, count_good)
    scores = [line["score"] for line in read_jsonl(run.path / "metrics.jsonl")]
    assert scores[0] < 0.6 and sum(scores[-3:]) / 3 > 1.5


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gpt-neox"])
def test_one_update_makes_a_rewarded_first_token_likelier(config_of, tokenizer, monkeypatch, kind):
    model = tiny_lm(kind, tokenizer, spread=0.1)
    monkeypatch.setattr(models, "load", lambda _: (model, tokenizer))
    config = config_of("rloo", rows=64, max_new_tokens=1, missing_eos_penalty=0.0)
    good = tokenizer.convert_tokens_to_ids("good")

    def first_is_good(completions, **_):
        return [float(text.strip() == "good") for text in completions]

    trainer = Trainer(config, first_is_good)

    def chance():
        ids = torch.tensor(encode(tokenizer, ["the film"]))
        with torch.no_grad():
            return float(trainer.policy.model(ids).logits[0, -1].softmax(-1)[good])

    before = chance()
    metrics, _ = trainer.step()
    assert metrics["score"] > 0 and chance() > before


def test_columns_and_finished_reach_the_reward(config_of):
    seen = []

    def reward(prompts, completions, finished, answer):
        seen.append((prompts, finished, answer))
        return [0.0] * len(completions)

    Trainer(config_of("rloo", samples_per_prompt=4), reward).step()
    ((prompts, finished, answer),) = seen
    assert prompts == [p for p in (prompts[0], prompts[4]) for _ in range(4)]  # groups are adjacent
    assert answer == [str(PROMPTS.index(p)) for p in prompts]
    assert len(finished) == 8 and all(isinstance(f, bool) for f in finished)


def test_rows_without_a_score_are_in_no_mean_and_not_learned_from(config_of):
    """Every second completion has none; what the reward logs is logged."""
    steps = []

    def reward(completions, trainer_state, log_metric, log_extra):
        steps.append((trainer_state.global_step, trainer_state.max_steps))
        log_metric("rows", len(completions))
        log_extra("row", list(range(len(completions))))
        return [3.0 if i % 2 else None for i in range(len(completions))]

    run = train(config_of("ppo", missing_eos_penalty=0.0, samples_every=2), reward)
    for line in read_jsonl(run.path / "metrics.jsonl"):
        assert line["score"] == 3 and line["score_std"] == 0 and line["scored"] == 0.5
        assert line["log/rows"] == 8
        assert line["objective"] == pytest.approx(3 - line["kl_coef"] * line["kl"], abs=1e-5)
    # Each iteration once, and the first and second also for the fixed prompts.
    assert sorted(set(steps)) == [(0, 2), (1, 2)]
    samples = read_jsonl(run.path / "samples.jsonl")
    assert [row["score"] for row in samples[:4]] == [None, 3, None, 3]
    assert [row["extra/row"] for row in samples[:4]] == [0, 1, 2, 3]
    tokens = read_jsonl(run.path / "tokens.jsonl")
    assert tokens and all(record["score"] == 3 for record in tokens)


def test_a_rollout_without_any_score_is_logged_and_not_learned_from(config_of):
    trainer = Trainer(config_of("ppo", kl_target=1.0), lambda completions, **_: [None] * 8)
    before = [p.detach().clone() for p in trainer.policy.parameters()]
    metrics, _ = trainer.step()
    assert metrics["scored"] == 0 and "score" not in metrics and "objective" not in metrics
    assert all(map(torch.equal, before, trainer.policy.parameters()))
    trainer.keep_best(None, 1, metrics)


def test_rewards_per_token_reach_the_learner_and_the_page(config_of):
    """Only the first token is rewarded, if it is "good"."""

    def reward(completions, completion_ids, **_):
        first = [float(text.split()[:1] == ["good"]) for text in completions]
        return [[x] + [0.0] * (len(ids) - 1) for x, ids in zip(first, completion_ids, strict=True)]

    run = train(config_of("ppo", missing_eos_penalty=0.0, samples_kept=8), reward)
    records = read_jsonl(run.path / "tokens.jsonl")
    for record in records:
        first, *others = [token["score"] for token in record["tokens"]]
        assert first == record["score"] and not any(others)


def test_the_policy_maximises_the_score_after_clip_and_penalty(config_of, tokenizer):
    config = config_of("reinforce", rows=32, max_new_tokens=4, score_clip=1.5)
    trainer = Trainer(config, lambda completions, **_: [2.0] * len(completions))
    rollouts = []
    trainer.learner.update = lambda rollout: rollouts.append(rollout) or {}
    metrics, samples = trainer.step()
    (rollout,) = rollouts
    rewards = (rollout.rewards * rollout.mask).sum(1)  # the KL of the first rollout is 0
    finished = rollout.actions.eq(tokenizer.eos_token_id).any(1)
    assert 0 < finished.sum() < 32 and metrics["eos_rate"] == float(finished.float().mean())
    torch.testing.assert_close(rewards, 1.5 - 1.0 * (~finished).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_the_kl_is_in_the_reward_or_in_the_loss(config_of, kl_in):
    config = config_of("rloo", kl_coef=0.5, missing_eos_penalty=0.0, learner_kl_in=kl_in)
    trainer = Trainer(config, lambda completions, **_: [0.0] * len(completions))
    with torch.no_grad():  # the policy leaves the reference
        for parameter in trainer.policy.model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    done, _, ref_logprobs, rollout = trainer.collect(next(trainer.prompts), trainer.generator)
    k1 = torch.where(done.mask, done.logprobs - ref_logprobs, 0)
    assert k1.abs().max() > 1e-2
    if kl_in == "reward":
        torch.testing.assert_close(rollout.rewards, -0.5 * k1)
        assert rollout.ref_logprobs is None
    else:
        assert not rollout.rewards.any() and rollout.kl_coef == 0.5
        assert torch.equal(rollout.ref_logprobs, ref_logprobs)


def test_a_cut_completion_may_bootstrap(config_of):
    for bootstrap in (False, True):
        trainer = Trainer(config_of("a2c", bootstrap_truncated=bootstrap), count_good)
        torch.nn.init.constant_(trainer.policy.value_head.bias, 3.0)
        done, *_, rollout = trainer.collect(next(trainer.prompts), trainer.generator)
        cut = ~done.finished
        assert cut.any()
        last = (rollout.next_values * rollout.ends).sum(1)
        assert torch.equal(last, torch.where(cut, 3.0, 0.0) * bootstrap)


def test_what_is_logged_is_the_mean_of_what_is_kept(config_of):
    config = config_of("reinforce", rows=16, max_new_tokens=4, samples_kept=16, learner_lr=1e-2)
    trainer = Trainer(config, count_good)
    trainer.step()
    metrics, rows = trainer.step()
    assert len(rows) == 16 and metrics["kl"] > 0.01
    for name in ("score", "kl", "length"):
        mean = sum(row[name] for row in rows) / 16
        assert metrics[name] == pytest.approx(mean, abs=1e-3), name


def test_the_objective_is_the_shaped_score_minus_the_kl(config_of):
    config = config_of("reinforce", rows=16, max_new_tokens=3, kl_coef=0.5)
    trainer = Trainer(config, lambda completions, **_: [2.0] * len(completions))
    trainer.step()
    metrics, _ = trainer.step()
    shaped = 2.0 - (1 - metrics["eos_rate"]) * config.missing_eos_penalty
    assert metrics["score"] == 2.0 and metrics["score_std"] == 0 and metrics["kl"] != 0
    assert metrics["objective"] == pytest.approx(shaped - 0.5 * metrics["kl"])


def test_parts_of_a_reward_are_logged_by_name_where_they_apply(config_of):
    parts = {
        "all": lambda completions, **_: [1.0] * len(completions),
        "some": lambda completions, **_: [None, 3.0] + [None] * (len(completions) - 2),
        "none": lambda completions, **_: [None] * len(completions),
    }
    metrics, _ = Trainer(config_of("reinforce"), WeightedSum(parts)).step()
    parts = {name: x for name, x in metrics.items() if name.startswith("reward/")}
    assert parts == {"reward/all": 1.0, "reward/some": 3.0}


def test_an_adaptive_coefficient_moves_as_the_paper_says(config_of):
    config = config_of("reinforce", rows=16, kl_coef=0.2, kl_target=2.0, kl_horizon=100)
    trainer = Trainer(config, count_good)
    first, _ = trainer.step()
    second, _ = trainer.step()
    error = min(max(first["kl"] / 2.0 - 1, -0.2), 0.2)
    assert first["kl_coef"] == 0.2
    assert second["kl_coef"] == pytest.approx(0.2 * (1 + error * 16 / 100))


def test_an_update_takes_as_many_rows_at_once_as_memory_allows_or_is_asked(config_of, monkeypatch):
    monkeypatch.setattr(policy, "ACTIVATIONS", 1)  # byte
    for asked, rows in ((None, 1), (3, 3)):
        trainer = Trainer(config_of("rloo", learner_micro_rows=asked), count_good)
        trainer.step()
        assert trainer.learner.micro_rows == rows


def test_the_same_seed_is_the_same_run_bit_for_bit(config_of, tmp_path):
    def numbers(name, seed):
        config = config_of("ppo", output=str(tmp_path / name), seed=seed)
        run = train(config, count_good)
        lines = read_jsonl(run.path / "metrics.jsonl")
        for line in lines:
            del line["seconds"], line["tokens_per_second"]
        weights = (run.path / "policy" / "model.safetensors").read_bytes()
        return lines, weights, (run.path / "samples.jsonl").read_text()

    first, again, other = (numbers(name, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert first == again
    assert first[0] != other[0] and first[1] != other[1]


def test_recording_leaves_the_random_numbers_of_a_reward_alone(config_of):
    def noisy(completions, **_):
        return [random.random() for _ in completions]

    trainer = Trainer(config_of(samples_kept=2), noisy)
    random.seed(0)
    assert trainer.fixed_records() is not None
    assert random.random() == random.Random(0).random()


def test_the_seed_reaches_the_order_of_minibatches(config_of):
    orders = []
    for seed in (0, 1):
        learner = Trainer(config_of(seed=seed), count_good).learner
        parts = learner._minibatches(torch.ones(16, dtype=torch.bool))
        orders.append(torch.cat(list(parts)).tolist())
    assert orders[0] != orders[1]


def test_the_reference_may_be_another_model(config_of, tokenizer, tmp_path):
    other = tiny_lm("llama", tokenizer, spread=0.1, seed=7)
    models.save(tmp_path / "other", other, tokenizer)
    run = train(config_of("reinforce", reference=str(tmp_path / "other")), count_good)
    assert read_jsonl(run.path / "metrics.jsonl")[0]["kl"] > 0.01


def test_samples_are_kept_now_and_then(config_of):
    run = train(config_of("reinforce", iterations=5, samples_every=2, samples_kept=3), count_good)
    rows = read_jsonl(run.path / "samples.jsonl")
    assert [row["iteration"] for row in rows] == [1] * 3 + [2] * 3 + [4] * 3
    names = {"iteration", "prompt", "completion", "score", "kl", "length", "finished"}
    assert set(rows[0]) == names


def test_the_policy_of_the_greatest_mean_objective_is_kept(config_of, tmp_path):
    trainer = Trainer(config_of("reinforce", samples_every=2), count_good)
    run = Run.create(tmp_path / "kept", "reinforce", trainer.config)
    best, kept = run.path / "best" / "best.json", []
    for iteration, objective in enumerate([1.0, 2.0, 0.0, 1.0, 5.0, 6.0, 5.0, 5.0], 1):
        trainer.keep_best(run, iteration, {"objective": objective})
        kept.append(json.loads(best.read_text())["iteration"] if best.exists() else None)
    assert kept == [None, 2, 2, 2, 2, 6, 6, 6]
    assert json.loads(best.read_text())["objective"] == 5.5


def test_looking_at_fixed_prompts_changes_nothing_and_repeats(config_of):
    config = config_of("rloo", reward="normalise(length:target=3)", samples_kept=4)
    trainer = Trainer(config)
    trainer.step()
    before = trainer.reward.state_dict(), trainer.generator.get_state(), random_state()
    first, *_ = trainer.fixed_records()
    after = trainer.reward.state_dict(), trainer.generator.get_state(), random_state()
    assert repr(before) == repr(after) and "'count': 8" in repr(before[0])
    assert trainer.fixed_records()[0] == first and len(first) == 4
    trainer.step()
    assert "'count': 16" in repr(trainer.reward.state_dict())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rloo", {"rows": 6}, r"rows \(6\) must be a multiple of samples_per_prompt \(4\)"),
        ("rloo", {"samples_per_prompt": 1}, "set --samples_per_prompt to 2 or more"),
        ("ppo", {"critic": "none"}, '"critic" needs a critic: set --critic shared'),
        ("ppo", {"rows": 0}, "rows must be at least 1, not 0"),
        ("ppo", {"algorithm": "pppo"}, "unknown algorithm 'pppo'.*did you mean 'ppo'"),
        ("ppo", {"temperature": 0.0}, "temperature must be at least"),
        ("ppo", {"kl_coef": 0.0, "kl_target": 6.0}, "kl_target adapts kl_coef"),
        ("ppo", {"max_new_tokens": 48}, "more than the model's context of 48. Shorten"),
        ("ppo", {"model": "/nowhere/at/all"}, "no model at '/nowhere/at/all'"),
        ("ppo", {"data": "nowhere.jsonl"}, "no file at nowhere.jsonl"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(config_of, name, changes, message):
    config = config_of(name, **changes)
    with pytest.raises(ValueError, match=message):
        train(config, count_good)
    assert not (Path(config.output)).exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [([float("nan")] * 8, "gave nan to row 0"), ([0.0] * 7, "returned 7 scores for 8 completions")],
)
def test_a_reward_that_fails_leaves_no_policy(config_of, answer, message):
    config = config_of(samples_kept=0)
    with pytest.raises(ValueError, match=message):
        train(config, lambda **_: answer)
    assert not Path(config.output).exists()


# Dynamic sampling, and truncated completions


def test_groups_of_equal_scores_are_drawn_anew_from_other_prompts(config_of):
    """Only completions of the first prompt differ in score; the data has five prompts."""
    config = config_of("dapo", samples_per_prompt=2, dynamic_sampling=20, missing_eos_penalty=0.0)
    calls = []

    def reward(prompts, completions, log_extra):
        calls.append(len(prompts))
        log_extra("row", list(range(len(prompts))))
        return [float(i % 2) * (p == PROMPTS[0]) for i, p in enumerate(prompts)]

    trainer = Trainer(config, reward)
    done, scores, _, rollout = trainer.collect(
        next(trainer.prompts), trainer.generator, config.dynamic_sampling
    )
    assert done.prompts == [PROMPTS[0]] * 8 and scores.scores.tolist() == [0, 1] * 4
    assert trainer.redrawn == sum(calls[1:]) / 2 and calls[0] == 8
    # Every row is still its own: log-probabilities, texts, rewards and what was logged.
    again = trainer.policy.evaluate(rollout).logprobs
    assert ((again - done.logprobs).abs() * done.mask).max() < 1e-5
    assert done.texts == completion_texts(
        trainer.tokenizer, done.prompt_ids, done.prompt_mask, done.ids, done.mask
    )
    assert rollout.rewards.sum(1).tolist() == [0, 1] * 4
    assert [row % 2 for row in scores.log.extra["row"]] == [0, 1] * 4
    metrics, _ = trainer.step()
    assert metrics["score"] == 0.5 and metrics["redrawn"] > 0


def test_equal_scores_stay_once_the_limit_is_reached(config_of):
    calls = []

    def reward(completions, **_):
        calls.append(len(completions))
        return [1.0] * len(completions)

    config = config_of("dapo", samples_per_prompt=2, dynamic_sampling=2, missing_eos_penalty=0.0)
    metrics, _ = Trainer(config, reward).step()
    assert calls == [8, 8, 8] and metrics["redrawn"] == 2


def test_groups_differ_by_their_scores_alone():
    nan = float("nan")
    shaped = torch.tensor([1.0, 1, 1, 2, nan, 3, nan, nan])
    assert differing_groups(shaped, 2).tolist() == [False, True, False, False]
    assert differing_groups(shaped, 4).tolist() == [True, False]


def test_truncated_completions_can_be_left_out(config_of):
    config = config_of("rloo", rows=32, max_new_tokens=4, mask_truncated=True)
    trainer = Trainer(config, count_good)
    done, scores, _, rollout = trainer.collect(next(trainer.prompts), trainer.generator)
    assert 0 < done.finished.sum() < 32
    assert torch.equal(rollout.mask.any(1), done.finished)
    assert torch.equal(scores.shaped[done.finished], scores.scores[done.finished])
    assert not scores.scores.isnan().any()
    metrics, _ = trainer.step()
    assert metrics["scored"] == pytest.approx(metrics["eos_rate"])


def test_a_run_with_dynamic_sampling_resumes_bit_for_bit(config_of, tmp_path):
    def reward(completions, **_):
        return [float("good" in text) for text in completions]

    options = {"samples_per_prompt": 2, "checkpoint_every": 1, "iterations": 3}
    whole = train(config_of("dapo", output=str(tmp_path / "whole"), **options), reward)
    part = config_of("dapo", output=str(tmp_path / "part"), **options)
    with pytest.raises(Stopped):
        train(part, reward, until=1)
    train(part, reward, resume=tmp_path / "part")
    lines = [read_jsonl(path / "metrics.jsonl") for path in (whole.path, tmp_path / "part")]
    for name in ("score", "kl", "redrawn", "grad_norm"):
        assert [line.get(name) for line in lines[0]] == [line.get(name) for line in lines[1]]
