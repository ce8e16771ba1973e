"""Exercise: the leave-one-out baseline."""

from itertools import product

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import Case, Expectation, Function


def leave_one_out(scores: Tensor) -> Tensor:
    """Each score minus the mean of the other K - 1 scores of its prompt.

    scores (N, K): K samples of each of N prompts. Returns advantages (N, K).
    """
    others = (scores.sum(1, keepdim=True) - scores) / (scores.shape[1] - 1)
    return scores - others


def mean_includes_itself(scores: Tensor) -> Tensor:
    """the mean includes the sample itself: the gradient is (K - 1)/K of the right one"""
    return scores - scores.mean(1, keepdim=True)


def divided_by_deviation(scores: Tensor) -> Tensor:
    """divided by the group's deviation, as by GRPO: prompts whose samples agree count more"""
    return (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)


def over_all_prompts(scores: Tensor) -> Tensor:
    """the mean of the other samples of all prompts, not of the same one"""
    others = (scores.sum() - scores) / (scores.numel() - 1)
    return scores - others


def mean_of_all(scores: Tensor) -> Tensor:
    """the mean of all scores of all prompts"""
    return scores - scores.mean()


def sign_turned(scores: Tensor) -> Tensor:
    """the sign is turned: a score above the others has a negative advantage"""
    return (scores.sum(1, keepdim=True) - scores) / (scores.shape[1] - 1) - scores


def divided_by_k(scores: Tensor) -> Tensor:
    """the sum of the others is divided by K instead of K - 1"""
    return scores - (scores.sum(1, keepdim=True) - scores) / scores.shape[1]


def over_prompts(scores: Tensor) -> Tensor:
    """the mean over prompts instead of samples: the wrong dimension"""
    return scores - (scores.sum(0) - scores) / max(1, len(scores) - 1)


def _gradient(function: Function) -> tuple[Tensor, Tensor]:
    """Three answers to one prompt, all 27 groups of K = 3."""
    logits = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, -1.0, 3.0], dtype=torch.float64)
    logp = logits.log_softmax(0)
    (truth,) = torch.autograd.grad(logp.exp() @ rewards, logits, retain_graph=True)
    total = torch.zeros((), dtype=torch.float64)
    for group in map(list, product(range(3), repeat=3)):
        chance = logp[group].sum().exp().detach()
        total = total + chance * (function(rewards[group][None])[0].detach() * logp[group]).mean()
    return torch.autograd.grad(total, logits)[0], truth


WRONG = [
    mean_includes_itself, divided_by_deviation, over_all_prompts, mean_of_all, sign_turned,
    divided_by_k, over_prompts,
]  # fmt: skip
CHECKS = [
    Case("8 samples, 3 of them right", ([[1, 1, 1, 0, 0, 0, 0, 0]],),
         [[0.7142857] * 3 + [-0.4285714] * 5]),
    Case("two prompts of 3 samples", ([[1, 2, 3], [0, 0, 9]],), [[-1.5, 0, 1.5], [-4.5, -4.5, 9]]),
    Case("K = 2", ([[1, 4]],), [[-3, 3]]),
    Expectation("expected gradient over all groups of 3", _gradient),
]  # fmt: skip
