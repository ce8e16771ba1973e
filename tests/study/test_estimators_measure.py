"""A fair coin as a bandit: every batch of four is equally likely, so all numbers are exact."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.rollout import Evaluation, Rollout
from rlhf_pg.study.estimators import measure
from rlhf_pg.study.estimators.command import SECTIONS
from rlhf_pg.study.estimators.measure import BLOCKS, ESTIMATOR, estimate, learned_constants
from rlhf_pg.study.estimators.methods import Method, after_steps, methods
from rlhf_pg.study.estimators.statistics import Truth

P, ROWS = 0.5, 4
TRUE = P * (1 - P)  # dJ/dtheta of J = p = sigmoid(theta)
EVERY = list(product((0, 1), repeat=ROWS))
PPO = LearnerConfig(whiten_advantages=True, reduction="token", clip=0.2)


class Coin(torch.nn.Module):
    """Heads, 1, with probability sigmoid(theta); pays what it shows."""

    def __init__(self, p):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(p, dtype=torch.float64).logit())

    def evaluate(self, rollout):
        logits = torch.stack([torch.zeros_like(self.theta), self.theta]).log_softmax(0)
        logprobs = logits[rollout.actions]
        return Evaluation(logprobs, torch.zeros_like(logprobs))


def flips(actions, value=0.0, p=P):
    """Rows of one flip, which a critic takes to be worth `value` beforehand."""
    a = torch.tensor(actions)[:, None]
    one, none = torch.ones(a.shape).double(), torch.zeros(a.shape).double()
    logprobs = torch.where(a == 1, math.log(p), math.log(1 - p)).double()
    return Rollout(a, a, logprobs, none + value, none, a.double(), one, one, group_size=ROWS)


def exactly(chosen, constants=None, value=0.2, **options):
    """Entries by name, from every batch once in each block."""
    policy = Coin(P)
    batches = [{"own": flips(actions, value)} for actions in EVERY] * BLOCKS
    truth = Truth(torch.tensor([[TRUE]]).double(), 2)
    entries = estimate(policy, batches, chosen, constants or {}, truth, **options)
    return {entry["name"]: entry for entry in entries}


def by_hand(weigh):
    """Mean and variance of g = mean of (a - p) * w over every batch, w the weights of its rows."""
    estimates = [
        sum((a - P) * w for a, w in zip(actions, weigh(actions), strict=True)) / ROWS
        for actions in EVERY
    ]
    mean = sum(estimates) / len(estimates)
    return mean, sum((g - mean) ** 2 for g in estimates) / len(estimates)


@pytest.fixture(scope="module")
def entries():
    chosen = methods(1.0, PPO, {"own": [0.0, 0.9, 1.0]})
    return exactly(chosen, {"moving-average": 0.4, "optimal": 1 - P})


def test_all_the_estimators_are_there(entries):
    families = {entry["family"] for entry in entries.values()}
    assert families == {*SECTIONS}
    keys = set(ESTIMATOR) - {"moved"}
    for entry in entries.values():
        assert keys <= set(entry)
        assert {f"{name}_se" for name in ("bias", "variance", "mse", "cosine", "snr")} <= set(entry)
        assert len(entry["projections"]) == len(EVERY) * BLOCKS


@pytest.mark.parametrize(
    "name, baseline",
    [
        ("REINFORCE, whole return", 0.0),
        ("reward-to-go", 0.0),
        ("moving average", 0.4),
        ("optimal constant", 1 - P),
        ("critic (own), λ=1", 0.2),
        ("gae λ=0, own critic", 0.2),  # of one step, lambda does not matter
    ],
)
def test_a_constant_has_no_bias_and_the_variance_of_the_closed_form(entries, name, baseline):
    """Of one flip, E g = p (1 - p) and Var g = p (1 - p) (1 - p - b)^2."""
    variance = P * (1 - P) * (1 - P - baseline) ** 2 / ROWS
    entry = entries[name]
    assert entry["bias"] == pytest.approx(0, abs=1e-3)  # the root of the blocks' 32 bits
    assert entry["variance"] == pytest.approx(variance / TRUE**2, abs=1e-6)
    assert entry["mse"] == pytest.approx(variance / TRUE**2, abs=1e-6)
    assert entry["cosine"] == pytest.approx(1)
    if variance:
        assert entry["snr"] == pytest.approx(TRUE**2 / variance, rel=1e-5)


def test_no_constant_has_less_variance_than_the_optimal_one():
    chosen = [Method("c", "baseline", LearnerConfig(baseline="optimal"))]
    constants = [0.0, 0.3, 0.45, 0.5, 0.55, 1.0]
    variances = [exactly(chosen, {"optimal": c})["c"]["variance"] for c in constants]
    assert min(variances) == variances[constants.index(1 - P)]
    assert sorted(variances[:4], reverse=True) == variances[:4]  # falls toward it


def test_the_learner_finds_the_optimal_constant_and_the_average_of_earlier_batches():
    """Three heads in ten: sum of g^2 r / sum of g^2 = 3 * .49 / (3 * .49 + 7 * .09) = .7."""
    earlier = replace(flips([1, 1, 1] + 7 * [0], p=0.3), group_size=1)
    source = SimpleNamespace(policy=Coin(0.3), gamma=1.0, batch=lambda: {"own": earlier})
    before = source.policy.theta.item()
    constants = learned_constants(source)
    assert constants["optimal"] == pytest.approx(0.7)
    assert constants["moving-average"] == pytest.approx(0.3)
    assert source.policy.theta.item() == before


def others(actions, row):
    return sum(a for i, a in enumerate(actions) if i != row) / (ROWS - 1)


def test_leave_one_out_by_hand(entries):
    mean, variance = by_hand(lambda xs: [a - others(xs, i) for i, a in enumerate(xs)])
    assert mean == pytest.approx(TRUE)
    entry = entries["leave-one-out"]
    assert entry["bias"] == pytest.approx(0, abs=1e-3)
    assert entry["variance"] == pytest.approx(variance / TRUE**2, rel=1e-5)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_the_variance_of_leave_one_out_in_closed_form(rows):
    """Of K fair flips g = k (K - k) / (K (K - 1)) with k heads: their spread has a known variance.

    It is the unbiased sample variance of the flips, of variance (m4 - m2^2 (K-3)/(K-1)) / K.
    """
    policy, every = Coin(P), list(product((0, 1), repeat=rows))
    batches = [{"own": replace(flips(x), group_size=rows)} for x in every] * BLOCKS
    chosen = [Method("loo", "baseline", LearnerConfig(baseline="leave-one-out"))]
    truth = Truth(torch.tensor([[TRUE]]).double(), 2)
    (entry,) = estimate(policy, batches, chosen, {}, truth)
    m2, m4 = 1 / 4, 1 / 16
    expected = (m4 - m2**2 * (rows - 3) / (rows - 1)) / rows
    assert entry["variance"] == pytest.approx(expected / TRUE**2, rel=1e-5)


@pytest.mark.parametrize("name", ["batch mean", "group mean"])
def test_a_mean_that_holds_the_sample_shrinks_the_gradient(entries, name):
    assert entries[name]["bias"] == pytest.approx(1 / ROWS, rel=1e-4)
    assert entries[name]["cosine"] == pytest.approx(1)


def test_a_groups_deviation_by_hand_at_the_scale_of_the_truth(entries):
    def weigh(xs):
        mean = sum(xs) / ROWS
        deviation = math.sqrt(sum((a - mean) ** 2 for a in xs) / (ROWS - 1))
        return [(a - mean) / (deviation + 1e-4) for a in xs]

    mean, variance = by_hand(weigh)
    entry = entries["÷ group deviation (grpo)"]
    assert entry["rescaled"] and entry["scale"] == pytest.approx(TRUE / mean, rel=1e-5)
    assert entry["bias"] == pytest.approx(0, abs=1e-3)  # in one dimension there is one direction
    assert entry["variance"] == pytest.approx(variance / mean**2, rel=1e-5)


def test_projections_have_the_truth_at_one(entries):
    for entry in entries.values():
        mean = sum(entry["projections"]) / len(entry["projections"])
        expected = 1 if entry["rescaled"] else 1 - entry["bias"]
        assert mean == pytest.approx(expected, abs=2e-3), entry["name"]


def test_an_anchor_changes_no_exact_answer(entries):
    chosen = methods(1.0, PPO, {"own": [0.0, 0.9, 1.0]})
    anchor = next(method for method in chosen if method.name == "critic (own), λ=1")
    constants = {"moving-average": 0.4, "optimal": 1 - P}
    for name, entry in exactly(chosen, constants, anchor=anchor).items():
        for measured in ("bias_squared", "variance", "cosine"):
            assert entry[measured] == pytest.approx(entries[name][measured], abs=1e-5), name


def test_few_estimators_at_a_time_give_the_same(entries, monkeypatch):
    monkeypatch.setattr(measure, "MEMORY", 2 * BLOCKS)
    chosen = methods(1.0, PPO, {"own": [0.0, 0.9, 1.0]})
    again = exactly(chosen, {"moving-average": 0.4, "optimal": 1 - P})
    assert list(again) == list(entries)
    for name, entry in again.items():
        assert entry["variance"] == pytest.approx(entries[name]["variance"])


def test_what_noise_drowns_is_null_and_not_a_number():
    """A gradient of zero has no direction."""
    chosen = [Method("nothing", "baseline", LearnerConfig(baseline="none"))]
    policy = Coin(P)
    batches = [{"own": replace(flips(x), rewards=torch.zeros(ROWS, 1).double())} for x in EVERY]
    truth = Truth(torch.tensor([[TRUE]]).double(), 2)
    (entry,) = estimate(policy, batches * BLOCKS, chosen, {}, truth)
    assert entry["cosine"] is None and entry["bias"] == 1


def test_ppos_gradient_away_from_the_policy_that_sampled():
    """At sigmoid(theta) = .8, heads have ratio 1.6, which the clip at 1.2 holds: no weight."""
    config = LearnerConfig(baseline="none", clip=0.2)
    policy, old = Coin(0.8), flips((1, 1, 0, 0))
    method = after_steps(config, 3, "own")
    assert method.steps == 3 and method.name.endswith("k=3")
    logprobs = policy.evaluate(old).logprobs
    weights = method.weights(replace(old, rewards=old.rewards + 1), {}, logprobs)
    expected = [[0.0], [0.0], [0.2 / 0.5 / ROWS], [0.2 / 0.5 / ROWS]]  # tails pay 1, ratio .4
    torch.testing.assert_close(weights, torch.tensor(expected).double())
