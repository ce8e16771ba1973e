"""Exercise: PPO's clipped loss."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import POISON, Case, Expectation, Function


def ppo_clip_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """The mean over real steps of max(-A ratio, -A clamp(ratio, 1 - clip, 1 + clip)), a scalar.

    ratio = pi(a_t|s_t) / pi_old(a_t|s_t), from their logarithms. All tensors are (B, T); mask is
    True on real steps, and what stands elsewhere must not matter. No gradient may flow through
    advantages.
    """
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    terms = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))
    return terms.sum() / mask.sum()


def sign_turned(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the sign of the loss is turned: PPO's objective is maximised, its loss minimised"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    terms = torch.minimum(a * ratio, a * ratio.clamp(1 - clip, 1 + clip))
    return terms.sum() / mask.sum()


def other_bound(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the smaller of the two losses instead of the larger: optimistic, and unlimited where A < 0"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    terms = torch.minimum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))
    return terms.sum() / mask.sum()


def clipped_alone(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the clipped ratio alone: a step that went too far the wrong way is never corrected"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    return (-a * ratio.clamp(1 - clip, 1 + clip)).sum() / mask.sum()


def not_clipped(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the ratio is not clipped"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    return (-a * ratio).sum() / mask.sum()


def ratio_inverted(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the ratio is old over new"""
    ratio = torch.where(mask, old_logprobs.detach() - logprobs, 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    terms = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))
    return terms.sum() / mask.sum()


def exp_missing(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """exp is missing: the ratio is the difference of the logarithms"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0)
    a = torch.where(mask, advantages.detach(), 0.0)
    terms = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))
    return terms.sum() / mask.sum()


def mask_ignored(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """padding is trained on"""
    ratio = (logprobs - old_logprobs.detach()).exp()
    a = advantages.detach()
    return torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)).mean()


def mean_over_entries(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the mean counts the padding"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages.detach(), 0.0)
    return torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip)).mean()


def advantages_not_detached(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """the gradient also flows through the advantages"""
    ratio = torch.where(mask, logprobs - old_logprobs.detach(), 0.0).exp()
    a = torch.where(mask, advantages, 0.0)
    terms = torch.maximum(-a * ratio, -a * ratio.clamp(1 - clip, 1 + clip))
    return terms.sum() / mask.sum()


def _inside_the_clip(function: Function) -> tuple[Tensor, Tensor]:
    """One step, three actions: E_old[grad loss] is minus the exact gradient of E_new[A]."""
    old = torch.tensor([0.3, -0.5, 0.2], dtype=torch.float64).log_softmax(0)
    logits = torch.tensor([0.35, -0.55, 0.25], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    new, one = logits.log_softmax(0), torch.ones(1, 1, dtype=torch.bool)
    total = sum(
        old[i].exp() * function(new[i].reshape(1, 1), old[i].reshape(1, 1), a[i].reshape(1, 1), one,
                                0.2)
        for i in range(3)
    )  # fmt: skip
    (truth,) = torch.autograd.grad(new.exp() @ a, logits, retain_graph=True)
    if not isinstance(total, Tensor) or not total.requires_grad:
        return torch.zeros(3), truth
    return -torch.autograd.grad(total, logits)[0], truth


WRONG = [
    sign_turned, other_bound, clipped_alone, not_clipped, ratio_inverted, exp_missing, mask_ignored,
    mean_over_entries, advantages_not_detached,
]  # fmt: skip
UP, DOWN = 0.4054651081, -0.6931471806  # log 1.5, log 0.5
CHECKS = [
    Case(
        "ratios 1.5, 1.5, .5, .5 with A = 1, -1, 1, -1, clip .2",
        ([[UP, UP, DOWN, DOWN]], [[0, 0, 0, 0]], [[1, -1, 1, -1]], [[True] * 4], 0.2),
        0.15,  # (-1.2 + 1.5 - .5 + .8) / 4
        {0: [[0, 0.375, -0.125, 0]]},
    ),
    Case(
        "ratio 1, padding of one million",
        (
            [[-1, -2], [-3, POISON]],
            [[-1, -2], [-3, POISON]],
            [[1, 2], [-6, POISON]],
            [[True, True], [True, False]],
            0.2,
        ),
        1.0,
        {0: [[-1 / 3, -2 / 3], [2, 0]]},
    ),
    Case(
        "advantages that have a gradient of their own",
        ([[-1, -2]], [[-1, -2]], [[1, 2]], [[True, True]], 0.2),
        -1.5,
        {0: [[-0.5, -1]], 2: None},
    ),
    Expectation("expected gradient of a second step, inside the clip", _inside_the_clip),
]
