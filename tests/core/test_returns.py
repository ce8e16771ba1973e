"""Returns against hand values and against loops written from their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from rlhf_pg.core.returns import discounted_sum, gae, n_step_returns, rewards_to_go, td_errors

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
fractions = st.floats(0, 1)


def tensors(elements):
    return arrays("float64", (2, 5), elements=elements).map(torch.from_numpy)


numbers = tensors(st.floats(-5, 5))
endings = tensors(st.sampled_from([0.0, 1.0]))


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def episodes(ends):
    """(row, first step, step after the last) of every episode."""
    for row in range(ends.shape[0]):
        start = 0
        for t in range(ends.shape[1]):
            if ends[row, t] or t == ends.shape[1] - 1:
                yield row, start, t + 1
                start = t + 1


def values_after(values, last, ends):
    """V(s_{t+1}): the next column's value, or that of `last` where an episode ends."""
    shifted = torch.cat([values[:, 1:], last[:, -1:]], dim=1)
    return torch.where(ends.bool(), last, shifted)


# Hand values


def test_gae_of_the_worked_example_with_lambda_one_and_point_seven():
    rewards = tensor([0, 0, 1, 0, -0.5])
    values, next_values = tensor([1, 4, -3, -2, -1]), tensor([4, -3, -2, -1, -1])
    ends = tensor([0, 0, 0, 0, 1])
    for lam, expected in (
        (1.0, [-1.45118, -4.4557, 2.5396, 0.5249, -0.49]),
        (0.7, [-0.676979, -5.248167, 2.4846, 0.6704, -0.49]),
    ):
        for gamma in (0.99, torch.full_like(rewards, 0.99)):
            advantages = gae(rewards, values, next_values, ends, gamma, lam)
            assert_close(advantages, tensor(expected), atol=6e-5, rtol=0)


def test_gae_with_an_end_inside_the_row():
    rewards, values = tensor([1, 2, 3, 4]), tensor([0.5, 1, 1.5, 2])
    next_values, ends = tensor([1, 0, 2, 7]), tensor([0, 1, 0, 1])
    delta = td_errors(rewards, values, next_values, 0.5)
    assert torch.equal(delta, tensor([1, 1, 2.5, 5.5]))
    advantages = gae(rewards, values, next_values, ends, 0.5, 0.5)
    assert torch.equal(advantages, tensor([1.25, 1, 3.875, 5.5]))


def test_the_gae_exercise_with_three_errors():
    delta, nothing, ends = tensor([1, 0.5, -0.2]), tensor([0, 0, 0]), tensor([0, 0, 1])
    for lam, expected in ((0.0, 1.0), (1.0, 1.288)):
        advantages = gae(delta, nothing, nothing, ends, 0.9, lam)
        assert_close(advantages[0, 0].item(), expected)


def test_errors_of_a_two_step_episode():
    r0, r1, v0, v1, gamma = 0.3, 2.0, 0.7, -1.1, 0.9
    delta = td_errors(tensor([r0, r1]), tensor([v0, v1]), tensor([v1, 0]), gamma)
    assert_close(delta, tensor([r0 + gamma * v1 - v0, r1 - v1]))


# Definitions


@steady
@given(numbers, tensors(fractions))
def test_discounted_sum_is_the_double_loop(x, decay):
    expected = torch.zeros_like(x)
    for t in range(x.shape[1]):
        for k in range(t, x.shape[1]):
            expected[:, t] += decay[:, t:k].prod(1) * x[:, k]
    assert_close(discounted_sum(x, decay), expected)


@steady
@given(numbers, fractions)
def test_a_number_as_decay_is_the_same_number_at_every_step(x, decay):
    assert torch.equal(discounted_sum(x, decay), discounted_sum(x, torch.full_like(x, decay)))


@steady
@given(numbers, endings, fractions)
def test_rewards_to_go_are_the_discounted_rewards_up_to_the_end(rewards, ends, gamma):
    expected = torch.zeros_like(rewards)
    for row, start, stop in episodes(ends):
        for t in range(start, stop):
            expected[row, t] = sum(gamma ** (k - t) * rewards[row, k] for k in range(t, stop))
    assert_close(rewards_to_go(rewards, ends, gamma), expected)


@steady
@given(numbers, numbers, numbers, endings, fractions, st.integers(1, 8))
def test_n_step_returns_are_their_definition_for_every_n(r, values, after, ends, gamma, n):
    expected = torch.zeros_like(r)
    for row, start, stop in episodes(ends):
        for t in range(start, stop):
            last = min(t + n, stop) - 1
            rewards = sum(gamma ** (k - t) * r[row, k] for k in range(t, last + 1))
            expected[row, t] = rewards + gamma ** (last + 1 - t) * after[row, last]
    assert_close(n_step_returns(r, after, ends, gamma, n), expected)


@steady
@given(numbers, numbers, numbers, endings, fractions, fractions)
def test_gae_is_the_weighted_mean_of_n_step_advantages(r, values, last, ends, gamma, lam):
    """Schulman et al. 2016, eq. 16: (1-lam) * sum_n lam^(n-1) A(n), the longest taking the rest."""
    after = values_after(values, last, ends)
    expected = torch.zeros_like(r)
    advantages = {n: n_step_returns(r, after, ends, gamma, n) - values for n in range(1, 6)}
    for row, start, stop in episodes(ends):
        for t in range(start, stop):
            longest = stop - t
            for n in range(1, longest):
                expected[row, t] += (1 - lam) * lam ** (n - 1) * advantages[n][row, t]
            expected[row, t] += lam ** (longest - 1) * advantages[longest][row, t]
    assert_close(gae(r, values, after, ends, gamma, lam), expected, atol=1e-9, rtol=1e-9)


# Limits


@steady
@given(numbers, numbers, numbers, endings, fractions)
def test_gae_with_lambda_zero_is_the_td_error(r, values, after, ends, gamma):
    assert_close(gae(r, values, after, ends, gamma, 0.0), r + gamma * after - values)


@steady
@given(numbers, numbers, numbers, endings, fractions)
def test_gae_with_lambda_one_plus_the_value_is_the_bootstrapped_return(
    r, values, last, ends, gamma
):
    after = values_after(values, last, ends)
    returns = gae(r, values, after, ends, gamma, 1.0) + values
    for row, start, stop in episodes(ends):
        for t in range(start, stop):
            rewards = sum(gamma ** (k - t) * r[row, k] for k in range(t, stop))
            expected = rewards + gamma ** (stop - t) * after[row, stop - 1]
            assert_close(returns[row, t], expected, atol=1e-9, rtol=0)


@steady
@given(numbers, numbers, endings, fractions, st.integers(5, 50))
def test_n_steps_as_long_as_the_row_are_the_whole_return(r, after, ends, gamma, n):
    ends[:, -1] = 1
    bootstrapped = r + gamma * after * ends
    assert_close(n_step_returns(r, after, ends, gamma, n), rewards_to_go(bootstrapped, ends, gamma))


@steady
@given(numbers, numbers, numbers, endings, fractions, fractions, st.integers(1, 6))
def test_an_end_cuts_a_row_into_episodes_that_know_nothing_of_each_other(
    r, values, after, ends, gamma, lam, n
):
    together = {
        "to go": rewards_to_go(r, ends, gamma),
        "gae": gae(r, values, after, ends, gamma, lam),
        "n-step": n_step_returns(r, after, ends, gamma, n),
    }
    for row, start, stop in episodes(ends):
        r1, v1, a1, e1 = (x[row : row + 1, start:stop] for x in (r, values, after, ends))
        alone = {
            "to go": rewards_to_go(r1, e1, gamma),
            "gae": gae(r1, v1, a1, e1, gamma, lam),
            "n-step": n_step_returns(r1, a1, e1, gamma, n),
        }
        for name, expected in alone.items():
            assert_close(together[name][row : row + 1, start:stop], expected)


def test_discounts_may_differ_from_step_to_step():
    rewards, ends = tensor([1, 1, 1]), tensor([0, 0, 1])
    assert torch.equal(
        rewards_to_go(rewards, ends, tensor([0.5, 0.25, 9.0])), tensor([1.625, 1.25, 1])
    )


def test_ends_may_be_booleans():
    rewards, ends = tensor([1, 2, 4]), torch.tensor([[False, True, False]])
    assert torch.equal(rewards_to_go(rewards, ends, 1.0), tensor([3, 2, 4]))
    assert torch.equal(n_step_returns(rewards, rewards, ends, 1.0, 2), tensor([5, 4, 8]))


def test_whole_numbers_are_discounted_as_any_other():
    rewards, ends = torch.tensor([[1, 0, 4]]), torch.tensor([[0, 0, 1]])
    assert torch.equal(rewards_to_go(rewards, ends, 0.5), torch.tensor([[2.0, 2.0, 4.0]]))
    assert torch.equal(discounted_sum(rewards, 0.25), torch.tensor([[1.25, 1.0, 4.0]]))
    same = (rewards, rewards, ends, 0.5)
    for one, other in (
        (gae(rewards, *same, 0.5), gae(*(x.double() for x in (rewards, *same[:3])), 0.5, 0.5)),
        (n_step_returns(*same, 2), n_step_returns(*(x.double() for x in same[:3]), 0.5, 2)),
    ):
        assert_close(one.double(), other)


def test_inputs_are_left_as_they_were():
    x, ends = tensor([1, 2, 3]), tensor([0, 1, 0])
    n_step_returns(x, x, ends, 0.9, 3)
    gae(x, x, x, ends, 0.9, 0.9)
    assert torch.equal(x, tensor([1, 2, 3])) and torch.equal(ends, tensor([0, 1, 0]))


def test_fewer_than_one_step_is_refused():
    with pytest.raises(ValueError, match="n >= 1, not 0"):
        n_step_returns(tensor([1]), tensor([1]), tensor([1]), 1.0, 0)


def test_integers_are_computed_as_floats():
    rewards, ends, zeros = torch.tensor([[1, 1, 1]]), torch.tensor([[0, 0, 1]]), torch.zeros(1, 3)
    assert rewards_to_go(rewards, ends, 0.5).tolist() == [[1.75, 1.5, 1]]
    values = zeros.long()
    assert gae(rewards, values, values, ends, 0.5, 1.0).tolist() == [[1.75, 1.5, 1]]
    assert n_step_returns(rewards, values, ends, 0.5, 2).tolist() == [[1.5, 1.5, 1]]


@pytest.mark.parametrize("padding", [float("inf"), float("-inf"), float("nan")])
def test_nothing_comes_back_over_the_end_of_an_episode(padding):
    rewards, ends = torch.tensor([[1.0, 1.0, padding]]), torch.tensor([[0, 1, 0]])
    assert rewards_to_go(rewards, ends, 0.5)[0, :2].tolist() == [1.5, 1]
    values = torch.tensor([[0.0, 0.0, padding]])
    assert gae(rewards, values, values, ends, 0.5, 0.5)[0, :2].tolist() == [1.25, 1]


def test_n_step_returns_of_rows_without_ends_stop_at_the_mask():
    """A row cut after two steps bootstraps from the value there, not from its padding."""
    rewards, next_values = torch.tensor([[1.0, 2.0, 99.0]]), torch.tensor([[5.0, 7.0, 99.0]])
    mask, ends = torch.tensor([[1, 1, 0]]), torch.zeros(1, 3)
    for n in (2, 3):
        returns = n_step_returns(rewards, next_values, ends, 0.5, n, mask)
        assert returns[0, :2].tolist() == [1 + 0.5 * (2 + 0.5 * 7), 2 + 0.5 * 7]
