"""How noisy an algorithm's gradient is: many estimates of it at one and the same policy."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_pg.control.policies import ActorCritic
from rlhf_pg.core.learner import LearnerConfig, Rollout, estimate_advantages
from rlhf_pg.core.losses import policy_gradient_loss


@dataclass
class GradientNoise:
    """Estimates g of the policy gradient over its parameters, all from the same policy."""

    mean: Tensor  # (parameters,)
    variance: float  # E|g - E g|^2: the trace of the covariance
    signal: float  # |E g|^2, what the finite number of estimates adds taken off

    @property
    def ratio(self) -> float:
        """Variance per squared length of the gradient; free of the advantages' scale."""
        return self.variance / self.signal if self.signal > 0 else float("inf")


def policy_gradient(policy: ActorCritic, rollout: Rollout, config: LearnerConfig) -> Tensor:
    """One estimate of -grad J by the actor's parameters, (parameters,), summed over an episode.

    The advantages are those of `config`; the loss is the plain policy gradient's, which is also
    PPO's at its first step.
    """
    advantages, _ = estimate_advantages(rollout, config)
    logprobs = policy.evaluate(rollout).logprobs
    loss = policy_gradient_loss(logprobs, advantages, rollout.mask, "episode")
    parts = (policy.trunk, policy.actor, policy.distribution)
    acting = [p for part in parts if part is not None for p in part.parameters()]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, acting)])


def gradient_noise(
    policy: ActorCritic, rollouts: Sequence[Rollout], config: LearnerConfig
) -> GradientNoise:
    """Mean and variance of the estimates from rollouts (at least two) of equal size."""
    estimates = torch.stack([policy_gradient(policy, rollout, config) for rollout in rollouts])
    mean = estimates.mean(0)
    variance = float(estimates.var(0).sum())  # n - 1: unbiased
    signal = float((mean**2).sum()) - variance / len(rollouts)
    return GradientNoise(mean, variance, signal)
