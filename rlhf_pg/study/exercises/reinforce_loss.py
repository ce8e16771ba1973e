"""Exercise: the loss of REINFORCE."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises import episodes
from rlhf_pg.study.exercises.checks import POISON, Case, Expectation, Function


def reinforce_loss(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """A scalar whose gradient is minus REINFORCE's: the sum of grad log pi(a_t|s_t) G_t over steps.

    logprobs (B, T) are log pi(a_t|s_t); returns (B, T) are G_t, numbers through which no gradient
    may flow; mask (B, T) is True on real steps, and what stands elsewhere must not matter. The sum
    runs over the real steps of a row, the mean over the B rows.
    """
    terms = torch.where(mask, -logprobs * returns.detach(), 0.0)
    return terms.sum(1).mean()


def sign_turned(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """the sign of the actor's loss is turned, so the optimiser minimises the return"""
    return torch.where(mask, logprobs * returns.detach(), 0.0).sum(1).mean()


def log_missing(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """the log is missing: -pi(a|s) G instead of -log pi(a|s) G"""
    pi = torch.where(mask, logprobs, 0.0).exp()
    return torch.where(mask, -pi * returns.detach(), 0.0).sum(1).mean()


def mask_ignored(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """padding is trained on"""
    return (-logprobs * returns.detach()).sum(1).mean()


def mean_over_tokens(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """the mean over all real steps, which weights short episodes more: biased"""
    return torch.where(mask, -logprobs * returns.detach(), 0.0).sum() / mask.sum()


def mean_over_entries(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """the mean over all entries, padding included: the right direction, too short"""
    return torch.where(mask, -logprobs * returns.detach(), 0.0).mean()


def sum_over_rows(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """the sum over rows instead of their mean"""
    return torch.where(mask, -logprobs * returns.detach(), 0.0).sum()


def returns_not_detached(logprobs: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """the gradient also flows through the returns"""
    return torch.where(mask, -logprobs * returns, 0.0).sum(1).mean()


def _gradient(function: Function) -> tuple[Tensor, Tensor]:
    every = episodes.every_episode()
    returns = torch.where(every.mask, episodes.returns_to_go(), POISON)
    estimate = episodes.gradient_of_loss(
        lambda logp, i: function(logp, returns[i : i + 1].clone(), every.mask[i : i + 1].clone())
    )
    return estimate, episodes.truth(lambda _: every.scores)


WRONG = [
    sign_turned, log_missing, mask_ignored, mean_over_tokens, mean_over_entries, sum_over_rows,
    returns_not_detached,
]  # fmt: skip
CHECKS = [
    Case(
        "one row by hand",
        ([[-1, -2]], [[3, 0.5]], [[True, True]]),
        4.0,
        {0: [[-3, -0.5]]},
    ),
    Case(
        "two rows, padding of one million",
        (
            [[-1, -2, -3], [-0.5, POISON, POISON]],
            [[1, 2, 4], [8, POISON, POISON]],
            [[True, True, True], [True, False, False]],
        ),
        10.5,
        {0: [[-0.5, -1, -2], [-4, 0, 0]]},
    ),
    Case(
        "returns that have a gradient of their own",
        ([[-1, -2]], [[3, 0.5]], [[True, True]]),
        4.0,
        {0: [[-3, -0.5]], 1: None},
    ),
    Expectation("expected gradient over 15 completions", _gradient),
]
