"""Estimators of text: exact expectations computed a second way; a sampled truth and the oracle."""

import json
from dataclasses import replace

import pytest
import torch

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.language import models
from rlhf_pg.language.config import preset
from rlhf_pg.language.train import train
from rlhf_pg.study.config import EstimatorsConfig
from rlhf_pg.study.estimators.measure import estimate, explained_variance, kl_per_step, measure
from rlhf_pg.study.estimators.methods import Method, methods, variants
from rlhf_pg.study.estimators.sources import Enumerated, TextRun, after
from rlhf_pg.study.estimators.statistics import Truth, known
from rlhf_pg.study.oracle import language_oracle, policy_parameters
from rlhf_pg.study.tasks import opinion, small_task

CONFIG = EstimatorsConfig(rows=8, truth_rows=4000, critic_batches=8, estimates=40)
CONSTANTS = {"moving-average": -0.7, "optimal": 0.4}
LAMBDAS = {"fitted": [0.0, 0.5, 1.0], "zero": [0.0], "exact": [0.0, 0.95]}
ROUNDING = 1e-5  # of models in 32 bits
REWARD = "rlhf_pg.study.tasks:opinion"


@pytest.fixture(scope="module")
def source():
    return Enumerated(CONFIG, small_task(max_new_tokens=3), kl_coef=0.1)


@pytest.fixture(scope="module")
def chosen(source):
    return methods(1.0, source.ppo, LAMBDAS)


@pytest.fixture(scope="module")
def numbers(source, chosen):
    """The exact measures, by name."""
    alone = [method for method in chosen if not method.couples]
    truth = source.truth(source.policy)
    moments = source.moments(alone, CONSTANTS)
    return {
        method.name: known(*moment, CONFIG.rows, truth, method.rescaled)
        for method, moment in zip(alone, moments, strict=True)
    }


def gae(critic, lam):
    """Weights of an episode: sum over l of lambda^l delta_{t+l}."""

    def weigh(source, row, rewards):
        value = [*source.values[critic][row, : len(rewards)].tolist(), 0.0]
        delta = [r + value[t + 1] - value[t] for t, r in enumerate(rewards)]
        return [sum(lam**i * d for i, d in enumerate(delta[t:])) for t in range(len(rewards))]

    return weigh


@pytest.fixture(scope="module")
def scores(source):
    """grad log pi of every step of every completion, each by a backward pass of its own."""
    parameters = policy_parameters(source.policy)
    rows = []
    for row in range(len(source.exact.probs)):
        logprobs = source.policy.evaluate(source.exact.episodes[[row]]).logprobs[0]
        steps = logprobs[: int(source.exact.episodes.mask[row].sum())]
        each = [torch.autograd.grad(x, parameters, retain_graph=True) for x in steps]
        rows.append([torch.cat([g.flatten() for g in gradients]).double() for gradients in each])
    return rows


def by_definition(source, scores, weigh):
    """Bias, variance and cosine of an estimator with these weights, episode by episode."""
    exact = source.exact
    rewards = exact.episodes.rewards - 0.1 * (exact.logprobs - exact.ref_logprobs)
    mean, square = 0.0, 0.0
    for row, probability in enumerate(exact.probs):
        weights = weigh(source, row, rewards[row, : len(scores[row])].tolist())
        gradient = sum(w * score for w, score in zip(weights, scores[row], strict=True))
        mean, square = mean + probability * gradient, square + probability * gradient @ gradient
    truth = exact.gradient
    return {
        "bias_squared": float((mean - truth).square().sum() / truth.square().sum()),
        "variance": float((square - mean @ mean) / CONFIG.rows / truth.square().sum()),
        "cosine": float(mean @ truth / mean.norm() / truth.norm()),
    }


UNBIASED = [
    "REINFORCE, whole return", "reward-to-go", "moving average", "optimal constant",
    "critic (fitted), λ=1", "critic (exact), λ=1", "gae λ=1, fitted critic",
    "gae λ=0, exact critic", "gae λ=0.95, exact critic",
]  # fmt: skip


@pytest.mark.parametrize("name", UNBIASED)
def test_what_theory_calls_unbiased_has_no_bias(numbers, name):
    assert numbers[name]["bias_squared"] ** 0.5 < ROUNDING
    assert numbers[name]["cosine"] == pytest.approx(1)


def test_nothing_else_is_without(numbers):
    biased = {name for name, found in numbers.items() if found["bias_squared"] ** 0.5 > 1e-3}
    assert biased == set(numbers) - set(UNBIASED)
    assert biased == {"gae λ=0, fitted critic", "gae λ=0.5, fitted critic", "gae λ=0, zero critic"}


@pytest.mark.parametrize(
    "name, weigh",
    [
        ("gae λ=0.5, fitted critic", gae("fitted", 0.5)),
        ("gae λ=0, zero critic", gae("zero", 0.0)),
        ("gae λ=0.95, exact critic", gae("exact", 0.95)),
        ("REINFORCE, whole return", lambda _, row, rewards: [sum(rewards)] * len(rewards)),
        ("reward-to-go", gae("zero", 1.0)),
    ],
)
def test_bias_and_variance_by_definition(source, numbers, scores, name, weigh):
    for key, value in by_definition(source, scores, weigh).items():
        assert numbers[name][key] == pytest.approx(value, rel=1e-3, abs=1e-8), key


def test_what_is_sampled_agrees_with_what_is_exact(source, chosen, numbers):
    batches = [source.batch() for _ in range(80)]
    truth = source.truth(source.policy)
    alone = [method for method in chosen if method.name in numbers]
    entries = estimate(source.policy, batches, alone, CONSTANTS, truth)
    for entry in entries:
        assert not entry["expected_exactly"]
        for name in ("bias_squared", "variance", "mse", "snr"):
            error = entry[f"{name}_se"]
            assert abs(entry[name] - numbers[entry["name"]][name]) < 4 * error, entry["name"]
    again = estimate(source.policy, batches[:40], alone[:2], CONSTANTS, truth, numbers)
    assert all(entry["expected_exactly"] and entry["bias_se"] < 1e-2 for entry in again)


def test_coupled_is_what_depends_on_the_other_rows(source, chosen):
    """Weights of a batch against those of its groups alone; a group is the least that can be."""
    for method in [*chosen, Method("token", "ppo", LearnerConfig(reduction="token"), "zero")]:
        depends = False
        for _ in range(5):
            rollout = source.batch()[method.critic or "zero"]
            single = replace(rollout, group_size=1)
            if method.config.baseline in ("leave-one-out", "group", "group-centred"):
                continue  # not defined for a single row
            whole = method.weights(single, CONSTANTS) * CONFIG.rows
            rows = [method.weights(single[[i]], CONSTANTS) for i in range(CONFIG.rows)]
            depends |= not torch.allclose(whole, torch.cat(rows), atol=1e-5)
        if method.config.baseline not in ("leave-one-out", "group", "group-centred"):
            assert depends == method.couples, method.name
        else:
            assert method.couples


def test_where_the_policy_has_not_moved_clips_make_no_difference(source):
    grpo, dr_grpo, dapo, gspo, cispo = variants(1.0, 0)
    rollout = source.batch()["zero"]
    now = source.policy.evaluate(rollout).logprobs
    close = dict(atol=1e-5, rtol=0)
    for other in (dapo, cispo):
        torch.testing.assert_close(
            other.weights(rollout, {}, now), grpo.weights(rollout, {}, now), **close
        )
    centred = Method("group mean", "baseline", LearnerConfig(baseline="group-centred"))
    expected = centred.weights(rollout, {}, now)
    torch.testing.assert_close(dr_grpo.weights(rollout, {}, now), expected, **close)
    # GSPO's mean over rows: an episode of n steps weighs 1/n of its sum.
    whole = Method("", "", replace(grpo.config, reduction="episode")).weights(rollout, {}, now)
    lengths = rollout.mask.sum(1, keepdim=True)
    torch.testing.assert_close(gspo.weights(rollout, {}, now), whole / lengths, **close)


def test_ppos_first_gradient_is_the_plain_one(source):
    plain = LearnerConfig(lam=0.9)
    for _ in range(3):
        rollout = source.batch()["fitted"]
        now = source.policy.evaluate(rollout).logprobs
        clipped = Method("ppo", "ppo", replace(plain, clip=0.2), "fitted", steps=0)
        expected = Method("gae", "gae", plain, "fitted").weights(rollout, {})
        torch.testing.assert_close(clipped.weights(rollout, {}, now), expected, atol=1e-5, rtol=0)


def test_critics_explain_the_more_the_better_they_are(source):
    batches = [source.batch() for _ in range(30)]
    zero, fitted, exact = (
        explained_variance(batches, name, 1.0) for name in ("zero", "fitted", "exact")
    )
    assert zero == pytest.approx(0, abs=1e-6) and 0.02 < fitted < exact < 1


def test_fitting_a_critic_leaves_the_policy_alone(source):
    task = small_task(max_new_tokens=3)
    for ours, theirs in zip(
        policy_parameters(source.policy), policy_parameters(task.policy), strict=True
    ):
        assert torch.equal(ours, theirs) and ours.requires_grad


def test_steps_of_ppo_lead_away_and_the_truth_goes_along(source):
    recorded = source.batch()["fitted"]
    one, four = (after(source.policy, recorded, source.ppo, k) for k in (1, 4))
    batches = [source.batch() for _ in range(10)]
    assert kl_per_step(source.policy, batches) == pytest.approx(0, abs=1e-8)
    assert 0 < kl_per_step(one, batches) < kl_per_step(four, batches)
    task = source.small
    expected = language_oracle(
        four, task.reference, task.tokenizer, task.prompt, task.reward, 3, 0.1
    ).gradient
    truth = source.truth(four)
    torch.testing.assert_close(truth.mean, expected)
    assert not torch.allclose(truth.mean, source.exact.gradient, rtol=0.01)


def test_the_distance_is_the_kl_from_the_policy_that_sampled(source):
    far = after(source.policy, source.batch()["fitted"], replace(source.ppo, lr=5e-3), 4)
    exact, mask = source.exact, source.exact.episodes.mask
    with torch.no_grad():
        now = torch.where(mask, far.evaluate(exact.episodes).logprobs, 0)
    kl = float((exact.probs * (exact.logprobs - now).sum(1)).sum())
    steps = float((exact.probs * mask.sum(1)).sum())
    batches = [source.batch() for _ in range(300)]
    assert kl_per_step(far, batches) == pytest.approx(kl / steps, rel=0.1)
    backward = float((now.sum(1).exp() * (now - exact.logprobs).sum(1)).sum())
    assert abs(backward - kl) > 0.3 * kl  # the other direction would not pass


@pytest.fixture
def measured(source, monkeypatch):
    """The result with some lambdas and PPO steps, from the same random numbers each time."""

    def result(lambdas, ppo_steps):
        source.generator.manual_seed(5)
        config = replace(CONFIG, lambdas=lambdas, ppo_steps=ppo_steps)
        monkeypatch.setattr(source, "config", config)
        return measure(source)

    return result


def test_each_number_of_steps_is_compared_with_a_truth_of_its_own(source, measured):
    result = measured([0.5, 1.0], [0, 2])
    entries = {entry["name"]: entry for entry in result["methods"]}
    assert result["truth"]["relative_error"] == 0
    assert result["truth"]["norm"] == pytest.approx(float(source.exact.gradient.norm()))
    assert entries["reward-to-go"]["expected_exactly"]
    assert not entries["leave-one-out"]["expected_exactly"]
    assert entries["ppo λ=0.95, k=2"]["moved"] > 0
    exact = {"variance_se": 0.0, "bias_se": 0.0}
    for entry in entries.values():
        if entry["expected_exactly"]:
            assert exact.items() <= entry.items() or entry["bias"] < 1e-3
    # Leave-one-out of 4 is unbiased; the mean that holds the sample is 3/4 as long.
    assert (
        entries["leave-one-out"]["bias_squared"] < 3 * entries["leave-one-out"]["bias_squared_se"]
    )
    error = entries["group mean"]["bias_se"]
    assert entries["group mean"]["bias"] == pytest.approx(0.25, abs=4 * error)


def test_a_policy_after_a_step_points_away_from_the_opposite_truth(source, measured, monkeypatch):
    """The truth of a policy that PPO made is the one that its gradient is compared with."""
    right = source.truth

    def opposite(policy):
        truth = right(policy)
        return truth if policy is source.policy else Truth(-truth.blocks, truth.episodes)

    def cosine(result):
        return next(e["cosine"] for e in result["methods"] if e["steps"] == 1)

    before = cosine(measured([1.0], [1]))
    monkeypatch.setattr(source, "truth", opposite)
    assert cosine(measured([1.0], [1])) == pytest.approx(-before) != 0


def test_a_step_whose_truth_is_too_noisy_is_left_out_and_the_rest_kept(
    source, measured, monkeypatch
):
    right = source.truth

    def noisy(policy):
        truth = right(policy)
        both = torch.cat([truth.blocks, -truth.blocks])
        return truth if policy is source.policy else Truth(both, truth.episodes)

    monkeypatch.setattr(source, "truth", noisy)
    entries = measured([1.0], [0, 1])["methods"]
    assert [entry["steps"] for entry in entries if entry["steps"] is not None] == [0]


@pytest.fixture
def run(tmp_path):
    """A run of `rlhf-pg train` on the small task's words, with every option that bends rewards."""
    task = small_task()
    models.save(tmp_path / "base", task.reference.model, task.tokenizer)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": task.prompt}) + "\n")

    def made(**changes):
        config = preset("ppo")
        config.model, config.data = str(tmp_path / "base"), str(tmp_path / "prompts.jsonl")
        config.iterations, config.rows, config.max_new_tokens, config.device = 3, 16, 3, "cpu"
        config.reward, config.temperature, config.kl_coef = REWARD, 0.9, 0.15
        config.missing_eos_penalty, config.score_clip = 0.5, 1.5
        config.output = str(tmp_path / "run")
        config.learner.lr = 5e-3
        for name, value in changes.items():
            setattr(config, name, value)
        return EstimatorsConfig(**{**vars(CONFIG), "model": str(train(config).path)})

    return made


@pytest.mark.parametrize("critic", ["shared", "none"])
def test_the_truth_of_a_run_is_the_oracles_within_its_error(run, critic):
    changes = {} if critic == "shared" else {"critic": "none", "algorithm": "reinforce"}
    if changes:
        changes["learner"] = replace(preset("reinforce").learner, lr=5e-3)
    source = TextRun(run(**changes))
    assert list(source.critics) == (["own"] if critic == "shared" else ["fitted"])
    truth = source.truth(source.policy)

    def clipped(completions, **_):
        return [max(-1.5, min(1.5, score)) for score in opinion(completions)]

    expected = language_oracle(
        source.policy, source.run.reference, source.run.tokenizer, "film", clipped, 3,
        source.run.kl_coef, missing_eos_penalty=0.5,
    ).gradient  # fmt: skip
    away = float((truth.mean.double() - expected).norm() / expected.norm())
    assert 0.2 * truth.relative_error < away < 2.5 * truth.relative_error < 0.6
    assert truth.squared_norm**0.5 == pytest.approx(float(expected.norm()), rel=0.3)
    assert truth.episodes >= CONFIG.truth_rows
    rollout = next(iter(source.batch().values()))
    assert rollout.group_size == 4 and len(rollout) == 8 and rollout.ref_logprobs is None
    assert explained_variance([{"x": rollout}], "x", 1.0) != 0


def test_prompts_are_random_and_completed_in_groups(run, tmp_path):
    words = ["film", "good", "bad", "not", "very"]
    lines = "".join(json.dumps({"prompt": word}) + "\n" for word in words)
    config = run()
    (tmp_path / "prompts.jsonl").write_text(lines)
    source = TextRun(config)
    first, second = (source.batch()["own"].inputs["input_ids"].flatten().tolist() for _ in range(2))
    for rows in (first, second):
        assert len(set(rows[:4])) == len(set(rows[4:])) == 1
    assert len({*first, *second}) > 1 and first != second


def test_a_run_without_a_reward_says_so(tmp_path):
    with pytest.raises(ValueError, match="no run"):
        TextRun(EstimatorsConfig(model=str(tmp_path / "nowhere")))
