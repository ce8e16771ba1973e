"""What baselines promise: hand values, blindness to the own sample, and invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from rlhf_pg.core.baselines import (
    MovingAverage,
    batch_mean,
    group_normalise,
    leave_one_out,
    optimal_constant,
)

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
scores = arrays("float64", (3, 4), elements=st.floats(-50, 50)).map(torch.from_numpy)
shifts = arrays("float64", (3, 1), elements=st.floats(-50, 50)).map(torch.from_numpy)

RIGHT_AND_WRONG = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0]])  # 3 of 8 right


@pytest.mark.parametrize(
    "advantage, right, wrong",
    [
        (leave_one_out, 0.7143, -0.4286),
        (batch_mean, 0.625, -0.375),
        (lambda s: group_normalise(s, scale=False), 0.625, -0.375),
        (lambda s: group_normalise(s, eps=0.0), 1.2076, -0.7246),
        (lambda s: group_normalise(s, population=True, eps=0.0), 1.2910, -0.7746),
    ],
)
def test_eight_samples_of_which_three_are_right(advantage, right, wrong):
    expected = torch.where(RIGHT_AND_WRONG == 1, right, wrong)
    assert_close(advantage(RIGHT_AND_WRONG), expected, atol=5e-5, rtol=0)


def test_the_groups_deviation_has_a_small_number_added():
    """sqrt(15/56) is the sample deviation of three ones and five zeros."""
    expected = 0.625 / ((15 / 56) ** 0.5 + 1e-4)
    assert_close(group_normalise(RIGHT_AND_WRONG)[0, 0].item(), expected, rtol=1e-6, atol=0)
    assert torch.equal(group_normalise(torch.ones(2, 3)), torch.zeros(2, 3))


@steady
@given(scores)
def test_leave_one_out_subtracts_the_mean_of_the_others(s):
    for n in range(3):
        for k in range(4):
            others = [s[n, j] for j in range(4) if j != k]
            assert_close(leave_one_out(s)[n, k], s[n, k] - sum(others) / 3)


@steady
@given(scores, st.floats(-50, 50))
def test_the_left_out_baseline_does_not_depend_on_the_own_sample(s, other):
    changed = s.clone()
    changed[1, 2] = other
    baseline, after = s - leave_one_out(s), changed - leave_one_out(changed)
    assert_close(baseline[1, 2], after[1, 2], atol=1e-9, rtol=0)


@steady
@given(scores, shifts)
def test_a_constant_added_to_all_scores_of_a_prompt_changes_nothing(s, shift):
    assert_close(leave_one_out(s + shift), leave_one_out(s), atol=1e-9, rtol=0)
    for scale in (True, False):
        shifted, before = group_normalise(s + shift, scale), group_normalise(s, scale)
        assert_close(shifted, before, atol=1e-6, rtol=1e-6)
    assert_close(batch_mean(s + shift[0]), batch_mean(s), atol=1e-9, rtol=0)


@steady
@given(scores, st.floats(0.1, 10))
def test_only_the_normalised_group_forgets_the_scale_of_the_scores(s, factor):
    wide = s.std(dim=1).min() > 1
    if wide:
        assert_close(group_normalise(s * factor, eps=0.0), group_normalise(s, eps=0.0))
        assert_close(group_normalise(s)[0].std(), torch.tensor(1.0).double(), atol=1e-3, rtol=0)
    assert_close(leave_one_out(s * factor), leave_one_out(s) * factor)
    assert_close(group_normalise(s * factor, scale=False), group_normalise(s, scale=False) * factor)


@steady
@given(scores)
def test_advantages_of_a_prompt_add_to_zero(s):
    for advantages in (leave_one_out(s), group_normalise(s), group_normalise(s, scale=False)):
        assert_close(advantages.sum(1), torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert_close(batch_mean(s).sum(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("compare", [leave_one_out, group_normalise])
@pytest.mark.parametrize("shape", [(3, 1), (3,), (2, 3, 4)])
def test_comparing_needs_two_samples_of_a_prompt(compare, shape):
    with pytest.raises(ValueError, match="K >= 2 samples"):
        compare(torch.zeros(shape))


def test_the_optimal_constant_has_the_least_variance_of_all_constants():
    """Enumerated: three actions of a softmax policy, each with its own reward."""
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    rewards = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    gradients = torch.eye(3, dtype=torch.float64) - probs  # of log pi, one row an action

    def variance(baseline):
        estimates = gradients * (rewards - baseline)[:, None]
        mean = (probs[:, None] * estimates).sum(0)
        return (probs[:, None] * (estimates - mean) ** 2).sum()

    # A sample of ten in which every action appears as often as its probability says.
    drawn = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    best = optimal_constant(rewards[drawn], (gradients[drawn] ** 2).sum(1))
    around = [variance(best + step) for step in torch.linspace(-3, 3, 61)]
    assert variance(best) <= min(around) + 1e-12
    assert variance(best) < variance(probs @ rewards)


def test_a_moving_average_starts_unbiased_and_forgets_at_its_rate():
    average = MovingAverage(decay=0.9)
    assert average.value == 0
    average.update(torch.tensor([2.0, 4.0]))
    assert average.value == pytest.approx(3)
    average.update(torch.tensor([5.0]))
    assert average.value == pytest.approx((0.9 * 3 + 5) / 1.9)


def test_a_moving_average_of_a_constant_is_the_constant():
    average = MovingAverage()
    for _ in range(5):
        average.update(torch.full((3,), 7.0))
        assert average.value == pytest.approx(7)


def test_a_moving_average_continues_where_it_was_saved():
    average, copy = MovingAverage(), MovingAverage()
    average.update(torch.tensor([1.0]))
    copy.load_state_dict(average.state_dict())
    for each in (average, copy):
        each.update(torch.tensor([5.0]))
    assert copy.value == average.value
