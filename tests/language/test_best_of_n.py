"""Best-of-n and the win rate against their definitions, by enumeration and published values."""

import math
from itertools import combinations, product

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.language.evaluate import (
    best_of_n,
    best_of_n_kl,
    kl_bound,
    pool_kl,
    wilson,
    win_rate,
)

POOL = torch.tensor([[0.5, -1.0, 2.0, 0.5, 0.0], [1.0, 1.0, 1.0, 3.0, 3.0]])
GOLD = torch.tensor([[7.0, 1.0, -2.0, 3.0, 0.5], [0.0, 1.0, 2.0, 3.0, 9.0]])


def mean_over_subsets(scores, values, n):
    """By the definition, the best of a tie being any of them."""
    total = []
    for subset in combinations(range(len(scores)), n):
        best = max(scores[i] for i in subset)
        tied = [values[i] for i in subset if scores[i] == best]
        total.append(sum(tied) / len(tied))
    return sum(total) / len(total)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_a_pool_gives_the_mean_over_all_its_subsets(n):
    scores = [mean_over_subsets(row, row, n) for row in POOL.tolist()]
    assert_close(best_of_n(POOL, POOL, n), torch.tensor(scores).double())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_another_value_of_the_chosen_sample_has_the_mean_over_all_subsets(n):
    pairs = zip(POOL.tolist(), GOLD.tolist(), strict=True)
    expected = [mean_over_subsets(scores, gold, n) for scores, gold in pairs]
    assert_close(best_of_n(POOL, GOLD, n), torch.tensor(expected).double())


def test_it_is_unbiased_over_all_pools_of_a_small_distribution():
    """E over pools of 4 draws = E[max of 2 draws], both written down."""
    worth, probability = (0.0, 1.0, 5.0), (0.5, 0.3, 0.2)
    pools = list(product(range(3), repeat=4))
    weights = torch.tensor([math.prod(probability[i] for i in pool) for pool in pools]).double()
    scores = torch.tensor([[worth[i] for i in pool] for pool in pools])
    truth = sum(
        probability[a] * probability[b] * max(worth[a], worth[b])
        for a, b in product(range(3), repeat=2)
    )
    estimated = float(weights @ best_of_n(scores, scores, 2))
    assert estimated == pytest.approx(truth, abs=1e-6)


def test_a_pool_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match="best-of-6 .* the 5 samples"):
        best_of_n(POOL, POOL, 6)


def test_the_kl_of_a_binary_reward_is_far_below_the_bound():
    assert best_of_n_kl(torch.tensor([1 - 0.257, 0.257]), 64) == pytest.approx(1.36, abs=0.005)
    assert kl_bound(64) == pytest.approx(3.17, abs=0.005)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_kl_is_that_of_the_distribution_of_the_best(n):
    """Written down: draw n values, keep the largest."""
    p = [0.2, 0.5, 0.3]
    q = [0.0] * 3
    for draws in product(range(3), repeat=n):
        q[max(draws)] += math.prod(p[i] for i in draws)
    truth = sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    assert best_of_n_kl(torch.tensor(p), n) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_many_equally_likely_values_approach_the_bound_from_below(n):
    fine = best_of_n_kl(torch.full((100_000,), 1e-5), n)
    coarse = best_of_n_kl(torch.full((10,), 0.1), n)
    assert coarse <= fine <= kl_bound(n) + 1e-9
    assert fine == pytest.approx(kl_bound(n), abs=1e-3)


@pytest.mark.parametrize("n", [1, 4, 64])
def test_a_pool_without_ties_has_the_continuous_kl(n):
    scores = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    assert_close(
        pool_kl(scores, n), torch.full((3,), kl_bound(n), dtype=torch.float64), atol=1e-9, rtol=0
    )


def test_a_pool_of_ties_alone_has_the_plug_in_kl():
    scores = torch.tensor([[0.0] * 75 + [1.0] * 25])
    expected = best_of_n_kl(torch.tensor([0.75, 0.25]), 16)
    assert float(pool_kl(scores, 16)) == pytest.approx(expected, abs=1e-6)


def test_a_pool_with_some_ties_lies_between():
    scores = torch.tensor([[0.0] * 32 + list(range(1, 33))])
    assert 0 < float(pool_kl(scores, 8)) < kl_bound(8)


def test_one_sample_of_one_prompt():
    assert float(best_of_n(torch.tensor([[2.5]]), torch.tensor([[4.0]]), 1)) == 4.0


# Win rate


def test_every_pair_of_a_prompt_is_compared_and_a_tie_counts_half():
    ours = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    theirs = torch.tensor([[2.0, 3.0], [0.0, -1.0]])
    # prompt 0: 1<2, 1<3, 3>2, 3=3 -> 1.5 of 4; prompt 1: two ties, two wins -> 3 of 4
    actual = win_rate(ours, theirs)
    assert actual.rate == pytest.approx((1.5 / 4 + 3 / 4) / 2)
    assert actual.prompts == 2


def test_prompts_are_paired():
    """Every completion of one prompt beats all of the other, on both sides: that is no win."""
    hard_and_easy = torch.tensor([[0.0, 0.1], [10.0, 10.1]])
    assert win_rate(hard_and_easy, hard_and_easy).rate == 0.5


def test_wilson_at_published_values():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_the_interval_is_not_empty_where_every_pair_is_won():
    actual = win_rate(torch.ones(10, 1), torch.zeros(10, 1))
    assert actual.rate == actual.high == 1.0 and 0.6 < actual.low < 0.8


def test_more_completions_of_the_same_prompts_do_not_narrow_the_interval():
    """The prompts are the trials: completions of one prompt are not independent."""
    ours, theirs = torch.arange(10.0)[:, None], torch.full((10, 1), 4.5)
    one, many = win_rate(ours, theirs), win_rate(ours.repeat(1, 4), theirs.repeat(1, 3))
    assert (many.low, many.high) == (one.low, one.high) == pytest.approx(wilson(0.5, 10))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):  # ours ~ N(0.5, 1), theirs ~ N(0, 1): P(win) = Phi(0.5 / sqrt 2)
        ours = torch.randn(60, 1, generator=generator) + 0.5
        actual = win_rate(ours, torch.randn(60, 1, generator=generator))
        covered += actual.low <= 0.63816 <= actual.high
    assert 0.92 <= covered / 400 <= 0.99
