"""Estimators of the KL against its definition, and the coefficient against the paper."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from rlhf_pg.core.kl import AdaptiveKL, FixedKL, categorical_kl, k1, k2, k3

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
logits = arrays("float64", (2, 5), elements=st.floats(-8, 8)).map(torch.from_numpy)

NEVER = float("-inf")


def test_the_three_estimators_of_one_sample():
    """pi = 0.5, ref = 0.25: the ratio ref/pi is a half."""
    policy, reference = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    assert k1(policy, reference).item() == pytest.approx(math.log(2))
    assert k2(policy, reference).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(policy, reference).item() == pytest.approx(math.log(2) - 0.5)


def test_a_drift_away_from_the_reference_costs():
    """Where the policy says more than the reference, k1 is positive; where less, negative."""
    policy, reference = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    assert k1(policy, reference)[0] > 0 > k1(policy, reference)[1]


@steady
@given(logits, logits)
def test_k1_and_k3_are_unbiased_and_k3_is_never_negative(a, b):
    logp, ref = a.log_softmax(-1), b.log_softmax(-1)
    exact = (logp.exp() * (logp - ref)).sum(-1)
    assert_close((logp.exp() * k1(logp, ref)).sum(-1), exact, atol=1e-9, rtol=1e-9)
    assert_close((logp.exp() * k3(logp, ref)).sum(-1), exact, atol=1e-9, rtol=1e-9)
    assert (k3(logp, ref) >= 0).all()


def test_k2_is_biased():
    logp, ref = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.5, 0.5]).log()
    exact = categorical_kl(logp, ref)
    assert abs((logp.exp() * k2(logp, ref)).sum() - exact) > 0.05


def test_k3_keeps_its_digits_near_zero():
    """A naive exp(x) - 1 - x in float32 would be zero or negative here."""
    ratio = torch.full((1,), 1e-4)
    assert_close(k3(ratio, torch.zeros(1)).item(), 5e-9, rtol=1e-2, atol=0)


@steady
@given(logits, logits)
def test_categorical_kl_is_that_of_torch_and_not_below_zero(a, b):
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
    )
    assert_close(categorical_kl(a, b), expected, atol=1e-9, rtol=1e-9)
    assert (categorical_kl(a, b) > -1e-12).all()


@steady
@given(logits, logits, st.floats(-5, 5))
def test_categorical_kl_is_zero_for_the_same_distribution_and_only_then(a, b, shift):
    assert_close(categorical_kl(a, a + shift), torch.zeros(2).double(), atol=1e-9, rtol=0)
    apart = (a.softmax(-1) - b.softmax(-1)).abs().sum(-1)
    # Pinsker: KL >= |p - q|^2 / 2.
    assert (categorical_kl(a, b) >= apart**2 / 2 - 1e-12).all()


def test_tokens_the_policy_never_says_cost_nothing():
    policy = torch.tensor([0.0, 0.0, NEVER])
    assert_close(categorical_kl(policy, torch.zeros(3)).item(), math.log(1.5))
    assert categorical_kl(policy, policy) == 0


def test_tokens_the_reference_never_says_cost_infinitely_much():
    assert categorical_kl(torch.zeros(3), torch.tensor([0.0, 0.0, NEVER])) == float("inf")


def test_a_fixed_coefficient_stays():
    coefficient = FixedKL(0.05)
    coefficient.update(kl=100.0, episodes=1000)
    assert coefficient.coef == 0.05
    assert coefficient.state_dict() == {"coef": 0.05}


@pytest.mark.parametrize(
    "kl, factor",
    [
        (6.6, 1 + 0.1 * 64 / 10_000),  # a tenth above the target
        (5.4, 1 - 0.1 * 64 / 10_000),
        (6.0, 1),
        (60.0, 1 + 0.2 * 64 / 10_000),  # never by more than a fifth
        (0.0, 1 - 0.2 * 64 / 10_000),
        (-3.0, 1 - 0.2 * 64 / 10_000),
    ],
)
def test_an_adaptive_coefficient_moves_as_in_the_paper(kl, factor):
    coefficient = AdaptiveKL(0.15, target=6, horizon=10_000)
    coefficient.update(kl, episodes=64)
    assert coefficient.coef == pytest.approx(0.15 * factor, rel=1e-12)


def test_the_defaults_are_those_of_the_paper():
    coefficient = AdaptiveKL()
    assert (coefficient.coef, coefficient.target, coefficient.horizon) == (0.15, 6, 10_000)


def test_a_coefficient_continues_where_it_was_saved():
    coefficient, copy = AdaptiveKL(), AdaptiveKL(coef=9.0)
    coefficient.update(10.0, 64)
    copy.load_state_dict(coefficient.state_dict())
    for each in (coefficient, copy):
        each.update(10.0, 64)
    assert copy.coef == coefficient.coef


@pytest.mark.parametrize("wrong", [{"coef": 0.0}, {"target": -1.0}, {"horizon": 0.0}])
def test_a_coefficient_that_could_never_move_is_refused(wrong):
    with pytest.raises(ValueError, match="above 0"):
        AdaptiveKL(**wrong)
