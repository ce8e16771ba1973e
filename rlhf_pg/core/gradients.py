"""Estimates of the policy gradient as weighted sums of grad log pi, for study.

Every estimator here is a weighted sum over steps (Williams 1992),

    g = sum over steps of w_t * grad log pi(a_t|s_t),

so estimators differ only in their weights, and those of one batch share its forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.losses import policy_loss
from rlhf_pg.core.rollout import Policy, Rollout


def step_weights(
    rollout: Rollout, advantages: Tensor, config: LearnerConfig, logprobs: Tensor | None = None
) -> Tensor:
    """w (B, T), 0 on padding: minus the derivative of the policy's loss by its log-probabilities.

    `logprobs` (B, T) are those of the current policy, by default of the one that sampled. The loss
    is the configuration's (see `losses.policy_loss`).
    """
    now = (rollout.logprobs if logprobs is None else logprobs).detach().clone().requires_grad_()
    loss = policy_loss(now, rollout.logprobs, advantages, rollout.mask, config)
    return -torch.autograd.grad(loss, now)[0]


def weighted_scores(logprobs: Tensor, weights: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """sum of w_t * grad log pi(a_t|s_t) for M sets of weights (M, B, T): (M, parameters).

    `logprobs` (B, T) must have their graph. The gradient of an unused parameter is 0.
    """
    return torch.stack([_gradient(logprobs, w, parameters) for w in weights])


def step_scores(logprobs: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """grad log pi(a_t|s_t) of every step by itself, (B, T, parameters)."""
    rows, columns = logprobs.shape
    one_each = torch.eye(rows * columns, dtype=logprobs.dtype).reshape(-1, rows, columns)
    gradients = torch.autograd.grad(
        logprobs, parameters, one_each, is_grads_batched=True, allow_unused=True
    )
    return _flat(gradients, parameters, rows * columns).reshape(rows, columns, -1)


def policy_gradient(
    policy: Policy, rollout: Rollout, config: LearnerConfig, parameters: Sequence[Tensor]
) -> Tensor:
    """One estimate of grad J (ascent direction), (parameters,), with the weights of `config`."""
    advantages, _ = estimate_advantages(rollout, config)
    logprobs = policy.evaluate(rollout).logprobs
    weights = step_weights(rollout, advantages, config, logprobs)
    return _gradient(logprobs, weights, parameters)


@dataclass
class GradientNoise:
    """Statistics of estimates g of the policy gradient, all from the same policy."""

    mean: Tensor  # (parameters,)
    variance: float  # E|g - E g|^2: the trace of the covariance
    signal: float  # |E g|^2, corrected for the finite number of estimates

    @property
    def ratio(self) -> float:
        """Variance divided by the squared norm of the gradient; independent of reward scale."""
        return self.variance / self.signal if self.signal > 0 else float("inf")


def gradient_noise(
    policy: Policy,
    rollouts: Sequence[Rollout],
    config: LearnerConfig,
    parameters: Sequence[Tensor],
) -> GradientNoise:
    """Mean and variance of the estimates from rollouts (at least two) of equal size."""
    estimates = torch.stack([policy_gradient(policy, r, config, parameters) for r in rollouts])
    mean = estimates.mean(0)
    variance = float(estimates.var(0).sum())  # n - 1: unbiased
    signal = float((mean**2).sum()) - variance / len(rollouts)
    return GradientNoise(mean, variance, signal)


def _gradient(logprobs: Tensor, weights: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(
        logprobs, parameters, weights, retain_graph=True, allow_unused=True
    )
    return _flat(gradients, parameters, 1)[0]


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], count: int) -> Tensor:
    """Gradients of each parameter, (count, *its shape) or one alone, as (count, parameters)."""
    parts = [
        p.new_zeros(count, p.numel()) if g is None else g.reshape(count, -1)
        for g, p in zip(gradients, parameters, strict=True)
    ]
    return torch.cat(parts, 1)
