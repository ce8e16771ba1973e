"""Exercise: the Bradley-Terry loss of a reward model."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import Case, Expectation, Function


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-log P(chosen over rejected) with P = sigmoid(chosen - rejected), the mean over pairs.

    chosen and rejected (N,) are the scores of the two completions of a pair. Returns a scalar,
    which must stay finite for any difference, -1000 included.
    """
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def sign_turned(chosen: Tensor, rejected: Tensor) -> Tensor:
    """chosen and rejected are exchanged, so the worse completion gets the higher score"""
    return -torch.nn.functional.logsigmoid(rejected - chosen).mean()


def log_likelihood(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the minus is missing: the likelihood of the choices is minimised"""
    return torch.nn.functional.logsigmoid(chosen - rejected).mean()


def log_missing(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the log is missing: pairs that are badly wrong teach nothing"""
    return -torch.sigmoid(chosen - rejected).mean()


def log_of_sigmoid(chosen: Tensor, rejected: Tensor) -> Tensor:
    """log(sigmoid(x)) in two steps: sigmoid rounds to 0, and the loss is infinite"""
    return -torch.log(torch.sigmoid(chosen - rejected)).mean()


def sum_over_pairs(chosen: Tensor, rejected: Tensor) -> Tensor:
    """the sum over pairs instead of the mean"""
    return -torch.nn.functional.logsigmoid(chosen - rejected).sum()


def hinge(chosen: Tensor, rejected: Tensor) -> Tensor:
    """a hinge loss, whose scores are no log-odds"""
    return torch.relu(1 - (chosen - rejected)).mean()


def _calibrated(function: Function) -> tuple[Tensor, Tensor]:
    """a is chosen over b in 3 of 4 pairs: E[grad by r(a)] = sigmoid(r(a) - r(b)) - 3/4."""
    found, truth = [], []
    for difference in (0.0, 2.0):
        a = torch.tensor([difference], dtype=torch.float64, requires_grad=True)
        b = torch.zeros(1, dtype=torch.float64)
        total = 0.75 * function(a, b) + 0.25 * function(b, a)
        moves = total.requires_grad
        found.append(torch.autograd.grad(total, a)[0] if moves else torch.zeros(1))
        truth.append(torch.sigmoid(a.detach()) - 0.75)
    return torch.cat(found), torch.cat(truth)


WRONG = [sign_turned, log_likelihood, log_missing, log_of_sigmoid, sum_over_pairs, hinge]
CHECKS = [
    Case(
        "two pairs by hand",
        ([1, 0], [0, 0]),
        0.5032044,  # (log(1 + 1/e) + log 2) / 2
        {0: [-0.1344707, -0.25], 1: [0.1344707, 0.25]},
    ),
    Case("a difference of -1000", ([-1000], [0]), 1000.0, {0: [-1]}),
    Case("a difference of 1000", ([1000], [0]), 0.0, {0: [0]}),
    Expectation("a is chosen in 3 of 4 pairs: the expected gradient by r(a)", _calibrated),
]
