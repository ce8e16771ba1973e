"""Mean, variance and whitening see the real entries and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.testing import assert_close

from rlhf_pg.core.masked import masked_mean, masked_var, whiten, zero_padding

steady = settings(deadline=None, derandomize=True, database=None, max_examples=50)
numbers = arrays("float64", (3, 4), elements=st.floats(-100, 100)).map(torch.from_numpy)
masks = arrays("bool", (3, 4)).filter(lambda mask: mask.sum() > 1).map(torch.from_numpy)


def spread(x, mask):
    return x[mask].var(correction=0) > 1e-2


def test_whiten_with_the_mean_kept_gives_the_hand_computed_numbers():
    x = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    expected = torch.tensor(
        [[0.0508, 0.4381, 0.8254], [1.2127, 1.6, 1.9873], [2.3746, 2.7619, 3.1492]]
    )
    whitened = whiten(x, torch.ones_like(x), shift_mean=False)
    assert_close(whitened, expected, atol=5e-5, rtol=0)


def test_mean_and_population_variance_of_three_real_entries():
    x = torch.tensor([[1.0, 2.0, 99.0], [6.0, 99.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert masked_mean(x, mask) == 3
    assert_close(masked_var(x, mask), torch.tensor(14 / 3))


@steady
@given(numbers, masks)
def test_mean_and_variance_are_those_of_the_selected_entries(x, mask):
    assert_close(masked_mean(x, mask), x[mask].mean())
    assert_close(masked_var(x, mask), x[mask].var(correction=0))


@steady
@given(numbers, masks)
def test_whitened_entries_have_mean_zero_and_variance_one(x, mask):
    if spread(x, mask):
        whitened = whiten(x, mask)
        assert_close(whitened[mask].mean(), torch.tensor(0.0).double(), atol=1e-9, rtol=0)
        assert_close(
            whitened[mask].var(correction=0), torch.tensor(1.0).double(), atol=1e-5, rtol=0
        )
        assert (whitened[~mask] == 0).all()


@steady
@given(numbers, masks)
def test_whitening_keeps_the_order_of_the_entries(x, mask):
    if spread(x, mask):
        whitened = whiten(x, mask)[mask]
        assert_close(
            whitened, (x[mask] - x[mask].mean()) / x[mask].std(correction=0), rtol=1e-5, atol=1e-9
        )


@steady
@given(numbers, masks)
def test_without_a_shift_the_mean_stays_and_the_variance_becomes_one(x, mask):
    if spread(x, mask):
        whitened = whiten(x, mask, shift_mean=False)
        assert_close(whitened[mask].mean(), x[mask].mean())
        assert_close(
            whitened[mask].var(correction=0), torch.tensor(1.0).double(), atol=1e-5, rtol=0
        )
        assert (whitened[~mask] == 0).all()


@pytest.mark.parametrize("poison", [1e6, float("inf"), float("-inf"), float("nan")])
def test_padding_changes_nothing(poison):
    x = torch.tensor([[1.0, 2.0, 5.0], [3.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    poisoned = torch.where(mask, x, poison)
    assert torch.equal(zero_padding(poisoned, mask), x)
    assert torch.equal(masked_mean(poisoned, mask), masked_mean(x, mask))
    assert torch.equal(masked_var(poisoned, mask), masked_var(x, mask))
    for shift_mean in (True, False):
        assert torch.equal(whiten(poisoned, mask, shift_mean), whiten(x, mask, shift_mean))


def test_no_gradient_comes_back_through_an_infinity_in_the_padding():
    x = torch.tensor([[1.0, float("inf")]], requires_grad=True)
    masked_mean(x, torch.tensor([[1.0, 0.0]])).backward()
    assert torch.equal(x.grad, torch.tensor([[1.0, 0.0]]))


def test_nothing_real_has_mean_zero_and_constant_entries_whiten_to_zero():
    x, nothing = torch.full((2, 3), 7.0), torch.zeros(2, 3)
    assert masked_mean(x, nothing) == 0
    assert masked_var(x, nothing) == 0
    assert torch.equal(whiten(x, torch.ones(2, 3)), torch.zeros(2, 3))


def test_reduce_makes_the_numbers_those_of_all_processes():
    """The other process holds the same numbers plus 10."""
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    mask = torch.ones_like(x)
    both = torch.cat([x, x + 10], dim=1)
    # Sums asked for, in order: of x, of the count, of the squares, of the count.
    others = iter([(x + 10).sum(), mask.sum(), ((x + 10 - both.mean()) ** 2).sum(), mask.sum()])
    assert_close(masked_var(x, mask, lambda s: s + next(others)), both.var(correction=0))
