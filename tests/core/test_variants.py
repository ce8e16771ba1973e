"""Variants of PPO's clipped loss: hand values, and what each is equal to."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig, algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.losses import aggregate, importance_ratio, policy_gradient_loss, ppo_clip_loss
from support.core import policy_of, ragged_rollout

VARIANTS = {
    "ppo": {},
    "clip-higher": {"clip_high": 0.28},
    "dual clip": {"dual_clip": 3.0},
    "sequence": {"ratio": "sequence"},
    "clipped weights": {"clip": 1.0, "clip_high": 4.0, "clip_weights": True},
}
REDUCTIONS = ["episode", "token", "constant", "row"]


def one(ratio, advantage, **options):
    """Loss and its derivative by log pi for one step."""
    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    now = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss = ppo_clip_loss(now, old, torch.tensor([[advantage]]), mask, **options)
    return loss.item(), torch.autograd.grad(loss, now)[0].item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "options", "loss", "slope"),
    [
        (1.25, 1.0, {}, -1.2, 0.0),
        (1.25, 1.0, {"clip_high": 0.28}, -1.25, -1.25),
        (1.3, 1.0, {"clip_high": 0.28}, -1.28, 0.0),
        (0.7, -1.0, {"clip_high": 0.28}, 0.8, 0.0),  # the lower clip stays
        (5.0, -2.0, {}, 10.0, 10.0),
        (5.0, -2.0, {"dual_clip": 3.0}, 6.0, 0.0),
        (2.0, -2.0, {"dual_clip": 3.0}, 4.0, 4.0),
        (5.0, 2.0, {"dual_clip": 3.0}, -2.4, 0.0),
        # -clip(ratio) A log pi: log 4 = 1.386.
        (4.0, 1.0, {"clip": 1.0, "clip_high": 1.0, "clip_weights": True}, -2 * math.log(4), -2.0),
        (0.5, 3.0, {"clip": 1.0, "clip_high": 1.0, "clip_weights": True}, 1.5 * math.log(2), -1.5),
    ],
)
def test_one_step_by_hand(ratio, advantage, options, loss, slope):
    assert one(ratio, advantage, **options) == pytest.approx((loss, slope), rel=1e-6)


def test_a_sequence_has_the_geometric_mean_of_its_ratios():
    """Steps 4 and 1: the row's ratio is 2. GSPO's loss -s A has the slope -s A / length."""
    now = torch.tensor([[math.log(4.0), 0.0, 9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0]])
    ratios = importance_ratio(now, torch.zeros(1, 3), mask, "sequence")
    assert_close(ratios, torch.tensor([[2.0, 2.0, 1.0]]))
    advantages = torch.full((1, 3), 1.5)
    options = {"clip": 2.0, "reduction": "row", "ratio": "sequence"}
    loss = ppo_clip_loss(now, torch.zeros(1, 3), advantages, mask, **options)
    assert loss.item() == pytest.approx(-3)
    slope = torch.autograd.grad(loss, now)[0]
    assert_close(slope, torch.tensor([[-1.5, -1.5, 0.0]]))
    clipped = ppo_clip_loss(now, torch.zeros(1, 3), advantages, mask, 0.5, "row", ratio="sequence")
    assert clipped.item() == pytest.approx(-1.5 * 1.5)


def test_the_row_reduction_is_a_mean_of_means():
    x = torch.tensor([[1.0, 3.0, 99.0], [6.0, 99.0, 99.0], [99.0, 99.0, 99.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert aggregate(x, mask, "row") == (2 + 6) / 2


def slopes(new, old, advantages, mask, **options):
    new = new.clone().requires_grad_()
    return torch.autograd.grad(ppo_clip_loss(new, old, advantages, mask, **options), new)[0]


@pytest.fixture
def batch():
    """Log-probabilities now and then, advantages and mask of unequal rows."""
    rollout = ragged_rollout()
    noise = 0.3 * torch.randn(rollout.mask.shape, generator=torch.Generator().manual_seed(3))
    return rollout.logprobs + noise, rollout.logprobs, rollout.rewards, rollout.mask


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", VARIANTS)
def test_at_ratio_1_every_variant_is_the_policy_gradient(batch, name, reduction):
    _, old, advantages, mask = batch
    found = slopes(old, old, advantages, mask, reduction=reduction, **VARIANTS[name])
    now = old.clone().requires_grad_()
    loss = policy_gradient_loss(now, advantages, mask, reduction)
    assert_close(found, torch.autograd.grad(loss, now)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "options", [{"clip_high": 0.2}, {"dual_clip": 1e9}, {"clip_high": 0.2, "ratio": "token"}]
)
def test_limits_that_change_nothing_are_ppo(batch, options):
    assert_close(slopes(*batch, **options), slopes(*batch), atol=0, rtol=0)


def test_clipped_weights_without_limits_are_the_objective_without_clip(batch):
    free = slopes(*batch, clip=1e9)
    assert_close(slopes(*batch, clip=1.0, clip_high=1e9, clip_weights=True), free)


def test_a_sequence_of_one_step_has_its_own_ratio():
    new, old = torch.randn(2, 6, 1).double()
    advantages, mask = torch.randn(6, 1).double(), torch.ones(6, 1)
    assert_close(*(slopes(new, old, advantages, mask, ratio=r) for r in ("token", "sequence")))


def test_the_batch_deviation_divides_all_groups_alike():
    """Scores 1, 3, 5, 7 of two prompts: deviation sqrt 5 (population)."""
    rollout = ragged_rollout(rows=4, columns=1)
    rollout = replace(rollout, rewards=torch.tensor([[1.0], [3.0], [5.0], [7.0]]).double())
    config = LearnerConfig(baseline="group-centred", divide_by_batch_std=True)
    advantages, _ = estimate_advantages(rollout, config)
    expected = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]]).double() / (5**0.5 + 1e-4)
    assert_close(advantages, expected)
    # A row without a score is in no deviation.
    rollout.mask = torch.tensor([[True], [True], [True], [False]])
    advantages, _ = estimate_advantages(rollout, config)
    deviation = torch.tensor([1.0, 3.0, 5.0]).std(correction=0) + 1e-4
    assert_close(advantages[:, 0], torch.tensor([-1.0, 1.0, 0, 0]).double() / deviation)


@pytest.mark.parametrize(
    "options", [{"clip_high": 0.3}, {"dual_clip": 3.0}, {"clip_weights": True}]
)
def test_a_variant_of_the_clip_needs_a_clip(options):
    with pytest.raises(ValueError, match="need a clip"):
        Learner(policy_of(), algorithm("rloo", **options))


@pytest.mark.parametrize(
    ("options", "share"), [({}, 1.0), ({"clip_high": 0.7}, 0.0), ({"ratio": "sequence"}, 1.0)]
)
def test_the_clip_fraction_knows_the_upper_clip_and_the_level(options, share):
    rollout = ragged_rollout()
    rollout.logprobs = rollout.logprobs - 0.5  # ratio 1.65
    config = algorithm("ppo", epochs=1, minibatches=1, **options)
    assert Learner(policy_of(), config).update(rollout)["clip_fraction"] == share
