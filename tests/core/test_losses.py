"""Losses against hand values and hand-derived gradients; padding that nothing may hear."""

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.losses import (
    denominator,
    entropy_loss,
    policy_gradient_loss,
    ppo_clip_loss,
    value_loss,
)

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
REDUCTIONS = {"episode": 2, "token": 4, "constant": 6}  # rows, real steps, rows * columns


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_one_softmax_step_of_reinforce():
    """theta = (0, 0), the first action sampled, return 2, step size 0.1."""
    theta = torch.zeros(2, requires_grad=True)
    logprob = theta.log_softmax(0)[0].reshape(1, 1)
    policy_gradient_loss(logprob, torch.full((1, 1), 2.0), torch.ones(1, 1)).backward()
    assert_close(theta.grad, torch.tensor([-1.0, 1.0]))  # -G * (0.5, -0.5)
    stepped = (theta - 0.1 * theta.grad).detach()
    assert_close(stepped, torch.tensor([0.1, -0.1]))
    assert_close(stepped.softmax(0)[0].item(), 0.5498, atol=5e-5, rtol=0)


def test_the_gradient_of_log_softmax_is_one_hot_minus_pi():
    theta = torch.randn(4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logprob = theta.log_softmax(0)[2].reshape(1, 1)
    policy_gradient_loss(logprob, torch.ones(1, 1), torch.ones(1, 1)).backward()
    assert_close(-theta.grad, torch.eye(4)[2] - theta.detach().softmax(0))


@pytest.mark.parametrize("baseline", [0.0, 0.3, -5.0, 100.0])
def test_the_bernoulli_bandit_has_the_gradient_p_times_one_minus_p_for_every_baseline(baseline):
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    p = theta.sigmoid().item()
    expected = 0.0
    for arm, probability, reward in ((1, p, 1.0), (-1, 1 - p, 0.0)):
        logprob = torch.nn.functional.logsigmoid(arm * theta).reshape(1, 1)
        loss = policy_gradient_loss(logprob, tensor([reward - baseline]), tensor([1]))
        expected -= probability * torch.autograd.grad(loss, theta)[0].item()
    assert expected == pytest.approx(p * (1 - p))


@pytest.mark.parametrize("reduction, count", REDUCTIONS.items())
def test_reductions_divide_the_same_sum_by_rows_or_steps_or_cells(reduction, count):
    logprobs = tensor([-1, -2, -3], [-4, 9, 9])
    advantages = tensor([1, 0.5, -1], [2, 9, 9])
    total = 1 + 1 - 3 + 8
    loss = policy_gradient_loss(logprobs, advantages, MASK, reduction)
    assert loss.item() == total / count
    assert denominator(MASK, reduction) == count
    at_ratio_one = ppo_clip_loss(logprobs, logprobs, advantages, MASK, 0.2, reduction)
    assert at_ratio_one.item() == -(1 + 0.5 - 1 + 2) / count


def test_an_unknown_reduction_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown reduction 'mean'"):
        policy_gradient_loss(MASK, MASK, MASK, "mean")


@pytest.mark.parametrize(
    "ratio, advantage, loss, slope",
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.5, 1.0, -1.2, 0.0),  # gained enough: held
        (0.5, 1.0, -0.5, -1.0),  # lost what it should gain: free to come back
        (1.5, -1.0, 1.5, 1.0),  # gained what it should lose: free to come back
        (0.5, -1.0, 0.8, 0.0),  # lost enough: held
        (1.1, 2.0, -2.2, -2.0),
    ],
)
def test_the_clip_holds_a_ratio_that_has_gone_far_enough(ratio, advantage, loss, slope):
    """`slope` is the loss's derivative by the ratio; by the log-probability, times the ratio."""
    logprobs = tensor([ratio]).log().requires_grad_()
    actual = ppo_clip_loss(logprobs, tensor([0]), tensor([advantage]), tensor([1]), clip=0.2)
    actual.backward()
    assert_close(actual.item(), loss)
    assert_close(logprobs.grad.item(), slope * ratio)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_at_ratio_one_the_clipped_loss_has_the_plain_gradient(reduction):
    logprobs = tensor([-1, -2, -3], [-4, 0, 0]).requires_grad_()
    advantages = tensor([1, 0.5, -1], [2, 0, 0])
    plain = policy_gradient_loss(logprobs, advantages, MASK, reduction)
    clipped = ppo_clip_loss(logprobs, logprobs.detach(), advantages, MASK, 0.2, reduction)
    assert_close(
        torch.autograd.grad(clipped, logprobs)[0],
        torch.autograd.grad(plain, logprobs)[0],
        atol=1e-15,
        rtol=0,
    )


def test_value_loss_is_half_the_mean_squared_error_of_real_steps():
    values, targets = tensor([1, 2, 3], [4, 9, 9]), tensor([1, 0, 6], [3, 0, 0])
    assert value_loss(values, targets, MASK).item() == (0 + 4 + 9 + 1) / 4 / 2


@pytest.mark.parametrize(
    "value, old, target, loss, slope",
    [
        (1.0, 0.0, 2.0, 0.5 * 1.8**2, 0.0),  # moved too far towards the target: held at 0.2
        (1.0, 0.0, -1.0, 0.5 * 2.0**2, 2.0),  # moved away: the true error is the larger
        (0.1, 0.0, 2.0, 0.5 * 1.9**2, -1.9),  # still within the clip
    ],
)
def test_the_value_clip_takes_the_larger_of_two_errors(value, old, target, loss, slope):
    values = tensor([value]).requires_grad_()
    actual = value_loss(values, tensor([target]), tensor([1]), tensor([old]), clip=0.2)
    actual.backward()
    assert_close(actual.item(), loss)
    assert_close(values.grad.item(), slope)


def test_entropy_loss_is_minus_the_mean_entropy_of_real_steps():
    assert entropy_loss(tensor([1, 2, 3], [6, 99, 99]), MASK).item() == -3


def test_neither_advantages_nor_targets_are_differentiated():
    x = tensor([1, 2, 3], [4, 5, 6])
    advantages, targets = x.clone().requires_grad_(), x.clone().requires_grad_()
    old = x.clone().requires_grad_()
    policy = x.clone().requires_grad_()
    loss = (
        policy_gradient_loss(policy, advantages, MASK)
        + ppo_clip_loss(policy, x, advantages, MASK)
        + value_loss(policy, targets, MASK, old, 0.2)
    )
    loss.backward()
    assert policy.grad is not None
    assert advantages.grad is None and targets.grad is None and old.grad is None


@pytest.mark.parametrize("poison", [1e6, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_padding_changes_neither_a_loss_nor_its_gradient(poison, reduction):
    clean = tensor([-1, -2, -3], [-4, 0, 0])
    poisoned = torch.where(MASK.bool(), clean, poison)

    def everything(x):
        x = x.clone().requires_grad_()
        half = 0.5 * x.detach()
        losses = (
            policy_gradient_loss(x, half, MASK, reduction),
            ppo_clip_loss(x, half, half, MASK, 0.2, reduction),
            value_loss(x, half, MASK, half, 0.2),
            entropy_loss(x, MASK),
        )
        return [*losses, *(torch.autograd.grad(loss, x)[0] for loss in losses)]

    for one, other in zip(everything(clean), everything(poisoned), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_with_nothing_real_costs_nothing(reduction):
    x, nothing = tensor([1, 2]).requires_grad_(), tensor([0, 0])
    policy_gradient_loss(x, x, nothing, reduction).backward()
    assert torch.equal(x.grad, nothing)
