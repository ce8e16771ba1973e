"""Running moments, which scale observations and rewards.

They change between rollouts and never within one, so that an update scores actions with the policy
that sampled them. They are buffers, so they are saved with the policy.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from rlhf_pg.core.rollout import Rollout


class Moments(nn.Module):
    """Mean and population variance of all the vectors so far (Chan et al. 1979)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, x: Tensor) -> None:
        """Add vectors (n, size)."""
        if not len(x):
            return
        x = x.double()
        total = self.count + len(x)
        delta = x.mean(0) - self.mean
        # The initial variance of 1 has count 0, so it drops out here.
        squares = self.var * self.count + x.var(0, correction=0) * len(x)
        squares = squares + delta**2 * self.count * len(x) / total
        self.mean += delta * len(x) / total
        self.var.copy_(squares / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / std, clamped to 10 standard deviations."""
        return ((x - self.mean.float()) * self.scale()).clamp(-10, 10)

    def scale(self) -> Tensor:
        """1 / standard deviation, in float32."""
        return torch.rsqrt(self.var + 1e-8).float()


class RewardScale(nn.Module):
    """Divides rewards by the standard deviation of the discounted return so far.

    As gymnasium's NormalizeReward, over `environments` in parallel. The mean is not subtracted, so
    the objective changes by a positive factor only.
    """

    running: Tensor

    def __init__(self, environments: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.moments = Moments(1)
        self.register_buffer("running", torch.zeros(environments))  # return of the open episode

    def shape(self, rollout: Rollout) -> Rollout:
        """The rollout with scaled rewards, clamped to 10; the scale includes the rollout's own."""
        returns = []
        steps = zip(rollout.rewards.T, rollout.ends.T, rollout.mask.bool().T, strict=True)
        for reward, end, real in steps:
            self.running = torch.where(real, self.gamma * self.running + reward, self.running)
            returns.append(self.running[real])
            self.running = self.running * (1 - end.float() * real)
        self.moments.update(torch.cat(returns).unsqueeze(1))
        return scaled(rollout, self.moments.scale())


def scaled(rollout: Rollout, scale: Tensor | float) -> Rollout:
    """The rollout with its rewards multiplied by `scale` and clamped to 10."""
    return replace(rollout, rewards=(rollout.rewards * scale).clamp(-10, 10))
