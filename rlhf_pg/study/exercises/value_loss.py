"""Exercise: the critic's loss."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import POISON, Case, Expectation, Function


def value_loss(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Half the mean of (V(s_t) - target_t)^2 over the real steps, a scalar.

    values and targets (B, T); mask (B, T) is True on real steps, and what stands elsewhere must not
    matter. Targets may have been computed from the same critic, but no gradient may flow there.
    """
    errors = torch.where(mask, values - targets.detach(), 0.0)
    return 0.5 * (errors**2).sum() / mask.sum()


def target_not_detached(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """the target is not detached, so that targets are pulled to values too"""
    errors = torch.where(mask, values - targets, 0.0)
    return 0.5 * (errors**2).sum() / mask.sum()


def half_missing(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """the half is missing"""
    errors = torch.where(mask, values - targets.detach(), 0.0)
    return (errors**2).sum() / mask.sum()


def mask_ignored(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """padding is trained on"""
    return 0.5 * ((values - targets.detach()) ** 2).mean()


def mean_over_entries(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """the mean counts the padding"""
    return 0.5 * (torch.where(mask, values - targets.detach(), 0.0) ** 2).mean()


def sum_of_errors(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """the sum instead of the mean"""
    return 0.5 * (torch.where(mask, values - targets.detach(), 0.0) ** 2).sum()


def absolute_error(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """the absolute error, whose minimum is the median instead of the mean"""
    return torch.where(mask, values - targets.detach(), 0.0).abs().sum() / mask.sum()


def values_detached(values: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """the values are detached, so that nothing is learned"""
    errors = torch.where(mask, values.detach() - targets, 0.0)
    return 0.5 * (errors**2).sum() / mask.sum()


def _pull(function: Function) -> tuple[Tensor, Tensor]:
    """Returns 0 with probability .8 and 5 with .2: E[grad] = V - 1, at V = 0 and 2."""
    found = []
    for v in (0.0, 2.0):
        value = torch.full((1, 1), v, dtype=torch.float64, requires_grad=True)
        one = torch.ones(1, 1, dtype=torch.bool)
        total = sum(
            p * function(value, torch.full_like(value.detach(), g), one)
            for p, g in ((0.8, 0.0), (0.2, 5.0))
        )
        assert isinstance(total, Tensor)
        moves = total.requires_grad
        found.append(torch.autograd.grad(total, value)[0] if moves else torch.zeros(1, 1))
    return torch.cat(found), torch.tensor([[-1.0], [1.0]])


WRONG = [
    target_not_detached, half_missing, mask_ignored, mean_over_entries, sum_of_errors,
    absolute_error, values_detached,
]  # fmt: skip
CHECKS = [
    Case("one row by hand", ([[1, 2]], [[3, 1]], [[True, True]]), 1.25, {0: [[-1, 0.5]]}),
    Case(
        "two rows, padding of one million",
        (
            [[1, 2], [0, POISON]],
            [[3, 1], [2, -POISON]],
            [[True, True], [True, False]],
        ),
        1.5,
        {0: [[-2 / 3, 1 / 3], [-2 / 3, 0]]},
    ),
    Case(
        "targets made of the critic's own values",
        ([[1, 2]], [[3, 1]], [[True, True]]),
        1.25,
        {0: [[-1, 0.5]], 1: None},
    ),
    Expectation("the expected gradient is V(s) minus the mean return", _pull),
]
