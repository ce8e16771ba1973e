"""Exercise: estimators of the KL divergence."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import Case, Expectation, Function


def kl_estimators(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k1 and k3 of every token, two unbiased estimates of KL(policy || reference) in nats.

    logprobs and ref_logprobs (B, T) are those of tokens that the policy sampled.
    k1 = log pi - log ref; k3 = ref/pi - 1 - log(ref/pi). Returns (k1, k3), each (B, T).
    """
    k1 = logprobs - ref_logprobs
    return k1, torch.expm1(-k1) + k1


def sign_turned(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k1's sign is turned: as a penalty, it rewards leaving the reference (bug kl-sign)"""
    k1 = logprobs - ref_logprobs
    return -k1, torch.expm1(-k1) + k1


def other_ratio(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k3 with the ratio pi/ref, which is right for samples of the reference"""
    k1 = logprobs - ref_logprobs
    return k1, torch.expm1(k1) - k1


def both_exchanged(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """policy and reference are exchanged in both"""
    k1 = ref_logprobs - logprobs
    return k1, torch.expm1(-k1) + k1


def clamped(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k1 is clamped at 0: negative k1 belong to the mean, which is too large without them"""
    k1 = logprobs - ref_logprobs
    return k1.clamp(min=0), torch.expm1(-k1) + k1


def absolute(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """the absolute value of k1"""
    k1 = logprobs - ref_logprobs
    return k1.abs(), torch.expm1(-k1) + k1


def k2_for_k3(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k2 = k1^2 / 2 in the place of k3, which is biased"""
    k1 = logprobs - ref_logprobs
    return k1, k1**2 / 2


def one_missing(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """k3 without its -1"""
    k1 = logprobs - ref_logprobs
    return k1, torch.exp(-k1) + k1


def log_missing(logprobs: Tensor, ref_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """the log is missing: pi - ref instead of log pi - log ref"""
    k1 = logprobs - ref_logprobs
    return logprobs.exp() - ref_logprobs.exp(), torch.expm1(-k1) + k1


def _expected(function: Function) -> tuple[Tensor, Tensor]:
    """E[k1] and E[k3] over three tokens, beside the exact KL."""
    logp, ref = torch.tensor([[0.5, -0.3, 0.1], [-1.0, 0.4, 0.2]]).double().log_softmax(1)
    k1, k3 = function(logp[None].clone(), ref[None].clone())
    kl = float((logp.exp() * (logp - ref)).sum())
    return torch.stack([(logp.exp() * k).sum() for k in (k1, k3)]), torch.tensor([kl, kl])


WRONG = [
    sign_turned, other_ratio, both_exchanged, clamped, absolute, k2_for_k3, one_missing, log_missing
]  # fmt: skip
CHECKS = [
    Case(
        "three tokens by hand",
        ([[-1, -2, -3]], [[-2, -1, -3]]),
        ([[1, -1, 0]], [[0.3678794, 0.7182818, 0]]),
    ),
    Case("two rows", ([[-1], [-3]], [[-1], [-2]]), ([[0], [-1]], [[0], [0.7182818]])),
    Expectation("E[k1] and E[k3] beside the KL", _expected),
]
