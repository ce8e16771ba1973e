"""Running moments: observations to mean 0 and deviation 1, rewards to a known scale.

Moments change between rollouts and never within one, so that the policy which is scored in an
update is the one that acted. They are buffers, and so are saved with the policy.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


class Moments(nn.Module):
    """Mean and population variance of all the vectors seen so far (Chan et al. 1979)."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, x: Tensor) -> None:
        """Take in vectors (n, size)."""
        if not len(x):
            return
        x = x.double()
        total = self.count + len(x)
        delta = x.mean(0) - self.mean
        # Before anything is seen, `var` is a stand-in that must not be counted.
        squares = self.var * self.count + x.var(0, correction=0) * len(x)
        squares = squares + delta**2 * self.count * len(x) / total
        self.mean += delta * len(x) / total
        self.var.copy_(squares / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """(x - mean) / std, held within 10 deviations."""
        scale = torch.rsqrt(self.var + 1e-8)
        return ((x - self.mean.float()) * scale.float()).clamp(-10, 10)

    def plain(self) -> Callable[[np.ndarray], np.ndarray]:
        """The same on numpy arrays."""
        mean = self.mean.float().numpy()
        scale = torch.rsqrt(self.var + 1e-8).float().numpy()
        return lambda x: ((x - mean) * scale).clip(-10, 10)


class RewardScale(nn.Module):
    """Rewards divided by the deviation of the discounted return so far, their mean kept.

    As gymnasium's NormalizeReward, over `environments` side by side. The scale changes what is
    maximised by a positive factor only.
    """

    running: Tensor

    def __init__(self, environments: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.moments = Moments(1)
        self.register_buffer("running", torch.zeros(environments))  # return of the open episode

    def update(self, rewards: Tensor, ends: Tensor, mask: Tensor) -> None:
        """Take in a rollout's rewards, ends and mask, each (environments, T)."""
        seen = []
        for reward, end, real in zip(rewards.T, ends.T, mask.bool().T, strict=True):
            self.running = torch.where(real, self.gamma * self.running + reward, self.running)
            seen.append(self.running[real])
            self.running = self.running * (1 - end.float() * real)
        self.moments.update(torch.cat(seen).unsqueeze(1))

    def forward(self, rewards: Tensor) -> Tensor:
        """Rewards over the deviation, held within 10."""
        return (rewards * torch.rsqrt(self.moments.var + 1e-8).float()).clamp(-10, 10)
