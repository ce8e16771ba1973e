"""Wins are counted pair by pair; the interval is Wilson's, by published values and by coverage."""

import pytest
import torch
from rlhf_pg.language.win_rate import wilson, win_rate


def test_every_pair_of_a_prompt_is_compared_and_a_tie_counts_half():
    ours = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    theirs = torch.tensor([[2.0, 3.0], [0.0, -1.0]])
    # prompt 0: 1<2, 1<3, 3>2, 3=3 -> 1.5 of 4; prompt 1: two ties, two wins -> 3 of 4
    found = win_rate(ours, theirs)
    assert found.rate == pytest.approx((1.5 / 4 + 3 / 4) / 2)
    assert found.prompts == 2


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
    found = win_rate(torch.ones(10, 1), torch.zeros(10, 1))
    assert found.rate == found.high == 1.0 and 0.6 < found.low < 0.8


def test_the_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):  # ours ~ N(0.5, 1), theirs ~ N(0, 1): P(win) = Phi(0.5 / sqrt 2)
        ours = torch.randn(60, 1, generator=generator) + 0.5
        found = win_rate(ours, torch.randn(60, 1, generator=generator))
        covered += found.low <= 0.63816 <= found.high
    assert 0.92 <= covered / 400 <= 0.99
