"""What estimate_advantages makes of a rollout, by hand and by property."""

from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig
from rlhf_pg.core.rollout import Rollout
from support.core import ragged_rollout

EVERY = [
    *ALGORITHMS.values(),
    LearnerConfig(baseline="batch-mean"),
    LearnerConfig(baseline="moving-average"),
    LearnerConfig(baseline="optimal"),
    LearnerConfig(baseline="group-centred", whiten_rewards=True),
    LearnerConfig(n_steps=2, whiten_rewards=True, whiten_advantages=True),
]

FIELDS = ["actions", "logprobs", "values", "next_values", "rewards", "ends", "mask"]


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def by_hand(**changes):
    """Two rows: one of three steps, one of two and a step of padding."""
    estimated = {
        "values": tensor([1, 2, 3], [4, 5, 0]),
        "next_values": tensor([2, 3, 0], [5, 0, 0]),
        "rewards": tensor([0, 0, 6], [1, 2, 0]),
        "ends": tensor([0, 0, 1], [0, 1, 0]),
        "mask": tensor([1, 1, 1], [1, 1, 0]),
    } | changes
    zeros = torch.zeros_like(estimated["mask"])
    return Rollout(inputs=zeros, actions=zeros, logprobs=zeros, **estimated)


@pytest.mark.parametrize(
    "config, advantages",
    [
        (LearnerConfig(baseline="none"), [[6, 6, 6], [3, 2, 0]]),
        (LearnerConfig(baseline="none", gamma=0.5), [[1.5, 3, 6], [2, 2, 0]]),
        (LearnerConfig(lam=1.0), [[5, 4, 3], [-1, -3, 0]]),
        (LearnerConfig(lam=0.0), [[1, 1, 3], [2, -3, 0]]),
        (LearnerConfig(lam=0.5), [[2.25, 2.5, 3], [0.5, -3, 0]]),
        (LearnerConfig(lam=0.5, gamma=0.5), [[0.0625, 0.25, 3], [-1.25, -3, 0]]),
        (LearnerConfig(n_steps=1), [[1, 1, 3], [2, -3, 0]]),
        (LearnerConfig(n_steps=2), [[2, 4, 3], [-1, -3, 0]]),
        (LearnerConfig(baseline="batch-mean"), [[1.5, 1.5, 1.5], [-1.5, -2.5, 0]]),
        (LearnerConfig(baseline="moving-average"), [[-4, -4, -4], [-7, -8, 0]]),
        (LearnerConfig(baseline="leave-one-out"), [[3, 3, 3], [-3, -3, 0]]),
        (LearnerConfig(baseline="group-centred"), [[1.5, 1.5, 1.5], [-1.5, -1.5, 0]]),
    ],
)
def test_advantages_of_two_rows_by_hand(config, advantages):
    rollout = by_hand(group_size=2)
    actual, _ = estimate_advantages(rollout, config, constant=10.0)
    assert_close(actual, tensor(*advantages))


def test_the_group_is_divided_by_its_sample_deviation():
    actual, _ = estimate_advantages(by_hand(group_size=2), LearnerConfig(baseline="group"))
    expected = 1.5 / (4.5**0.5 + 1e-4)  # scores 6 and 3
    assert_close(actual[:, 0], torch.tensor([expected, -expected], dtype=torch.float64))


def test_groups_are_consecutive_rows():
    scores = tensor([1], [3], [10], [30])
    ones = torch.ones_like(scores)
    rollout = Rollout(ones, ones, ones, ones, ones, scores, ones, ones, group_size=2)
    actual, _ = estimate_advantages(rollout, LearnerConfig(baseline="leave-one-out"))
    assert_close(actual, tensor([-2], [2], [-20], [20]))


def test_value_targets_are_advantages_plus_values_before_whitening():
    plain, targets = estimate_advantages(by_hand(), LearnerConfig(lam=0.5))
    assert_close(targets, tensor([3.25, 4.5, 6], [4.5, 2, 0]))
    whitened, same = estimate_advantages(by_hand(), LearnerConfig(lam=0.5, whiten_advantages=True))
    assert torch.equal(targets, same)
    real = plain[by_hand().mask.bool()]
    expected = (real - real.mean()) / real.std(correction=0)
    assert_close(whitened[by_hand().mask.bool()], expected, atol=1e-7, rtol=0)


def test_whitened_rewards_have_variance_one_and_keep_their_mean():
    rewards = torch.tensor([0.0, 0, 6, 1, 2], dtype=torch.float64)
    scaled = (rewards - rewards.mean()) / rewards.std(correction=0) + rewards.mean()
    config = LearnerConfig(baseline="none", gamma=0.0, whiten_rewards=True)
    actual, _ = estimate_advantages(by_hand(), config)
    assert_close(actual[by_hand().mask.bool()], scaled, atol=1e-7, rtol=0)


def test_nothing_is_differentiated():
    rollout = by_hand()
    for name in ("values", "next_values", "rewards"):
        getattr(rollout, name).requires_grad_()
    for config in (LearnerConfig(), LearnerConfig(n_steps=2), LearnerConfig(baseline="none")):
        advantages, targets = estimate_advantages(rollout, config)
        assert not advantages.requires_grad and not targets.requires_grad


@pytest.mark.parametrize("poison", [1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("config", EVERY)
def test_padding_changes_nothing(config, poison):
    rollout = ragged_rollout()
    poisoned = {}
    for field in fields(rollout):
        x = getattr(rollout, field.name)
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            poisoned[field.name] = torch.where(rollout.mask, x, poison)
    clean = estimate_advantages(rollout, config, 0.3)
    dirty = estimate_advantages(replace(rollout, **poisoned), config, 0.3)
    for one, other in zip(clean, dirty, strict=True):
        assert torch.equal(one, other)
        assert (other[~rollout.mask] == 0).all()


SPLIT = [
    LearnerConfig(baseline="none", gamma=0.9),
    *(LearnerConfig(lam=lam, gamma=0.9) for lam in (0.0, 0.7, 1.0)),
    *(LearnerConfig(n_steps=n, gamma=0.9) for n in (1, 2, 3)),
]


def two_episodes(between):
    """Two steps and three in one row; `between` stands in every field where nothing is real."""
    gap = [between] if between is not None else []
    return by_hand(
        values=tensor([1, 2, *gap, 3, 4, 5]),
        next_values=tensor([2, 7, *gap, 4, 5, 9]),
        rewards=tensor([1, 2, *gap, 3, 4, 5]),
        ends=tensor([0, 1, *(0 for _ in gap), 0, 0, 1]),
        mask=tensor([1, 1, *(0 for _ in gap), 1, 1, 1]),
    )


def columns(rollout, part):
    return replace(rollout, **{name: getattr(rollout, name)[:, part] for name in FIELDS})


@pytest.mark.parametrize("config", SPLIT)
def test_an_end_splits_a_row_in_two(config):
    joined = two_episodes(between=None)
    whole = estimate_advantages(joined, config)
    for part in (slice(0, 2), slice(2, 5)):
        alone = estimate_advantages(columns(joined, part), config)
        for i in range(2):
            assert_close(whole[i][:, part], alone[i])


@pytest.mark.parametrize("config", SPLIT)
@pytest.mark.parametrize("between", [0.0, 1e6, float("nan")])
def test_a_step_that_is_no_transition_may_stand_between_two_episodes(config, between):
    joined, holed = two_episodes(between=None), two_episodes(between)
    expected, actual = estimate_advantages(joined, config), estimate_advantages(holed, config)
    for i in range(2):
        assert torch.equal(actual[i][holed.mask.bool()], expected[i].flatten())
        assert actual[i][0, 2] == 0


@pytest.mark.parametrize("n_steps", [None, 1, 2, 5])
def test_a_segment_cut_short_bootstraps_the_same_with_or_without_padding(n_steps):
    """No episode ended here; the segment did, and next_values says what is beyond."""
    config = LearnerConfig(lam=0.7, n_steps=n_steps, gamma=0.9)
    short = by_hand(
        values=tensor([1, 2]),
        next_values=tensor([2, 7]),
        rewards=tensor([1, 2]),
        ends=tensor([0, 0]),
        mask=tensor([1, 1]),
    )
    beside = {name: tensor([9, 9]) for name in FIELDS} | {"mask": tensor([0, 0])}
    padded = replace(
        short,
        **{name: torch.cat([getattr(short, name), x], dim=1) for name, x in beside.items()},
    )
    alone, beside_padding = (estimate_advantages(r, config) for r in (short, padded))
    for one, other in zip(alone, beside_padding, strict=True):
        assert torch.equal(other, torch.cat([one, tensor([0, 0])], dim=1))


@pytest.mark.parametrize("config", [LearnerConfig(lam=1.0), LearnerConfig(n_steps=3)])
def test_a_reward_of_one_for_ever_is_worth_one_over_one_minus_gamma(config):
    """Truncated episodes of three steps; the critic is set to its mean target again and again."""
    ones = torch.ones(1, 3, dtype=torch.float64)

    def learned_value(bootstrap):
        value = 0.0
        for _ in range(300):
            after = torch.full_like(ones, value)
            after[0, -1] = value if bootstrap else 0.0
            ends = tensor([0, 0, 1])
            rollout = Rollout(ones, ones, ones, ones * value, after, ones, ends, ones)
            value = estimate_advantages(rollout, replace(config, gamma=0.9))[1].mean().item()
        return value

    assert learned_value(bootstrap=True) == pytest.approx(10, abs=1e-6)
    assert learned_value(bootstrap=False) < 3


def test_masks_may_be_numbers_or_booleans():
    for config in EVERY:
        number = by_hand(group_size=2)
        boolean = replace(number, mask=number.mask.bool(), ends=number.ends.bool())
        one, other = estimate_advantages(number, config), estimate_advantages(boolean, config)
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_an_unknown_baseline_is_refused_by_name():
    with pytest.raises(ValueError, match="baseline must be one of .*leave-one-out.*not 'mean'"):
        estimate_advantages(by_hand(), LearnerConfig(baseline="mean"))


def test_comparing_samples_needs_a_group():
    with pytest.raises(ValueError, match="samples_per_prompt"):
        estimate_advantages(by_hand(), LearnerConfig(baseline="group"))
