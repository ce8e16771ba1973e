"""A Gaussian policy of one action, whose expectations are exact by quadrature."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf_pg.study.bugs import learner
from rlhf_pg.study.bugs.functions import Functions

BEST = 2.0  # the action of the largest reward, which is -(a - BEST)^2


@dataclass
class Gaussian:
    """mean 0 and log std 0 are learned; J = E[-(a - 2)^2] = -(mean - 2)^2 - std^2."""

    baseline: bool = True  # J is subtracted from the reward

    def start(self) -> list[Tensor]:
        """The mean and the logarithm of the deviation."""
        return [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def objective(self, parameters: list[Tensor]) -> Tensor:
        """J, exactly."""
        mean, log_std = parameters
        return (-((mean - BEST) ** 2) - (2 * log_std).exp()).sum()

    def gradient(self, parameters: list[Tensor], f: Functions) -> Tensor:
        """E[g], g = grad log pi(a) (r(a) - baseline), by the mean and the log std."""
        mean, log_std = parameters
        # Gauss-Hermite quadrature: exact for polynomials of the noise up to degree 15.
        nodes, weights = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(8))
        actions = f.action(mean, log_std.exp(), nodes)
        rewards = -((actions.detach() - BEST) ** 2)
        if self.baseline:
            rewards = rewards - self.objective(parameters).detach()
        logp = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions)
        total = (weights / weights.sum()) @ (logp * rewards)
        return torch.cat(torch.autograd.grad(total, parameters))

    def direction(self, f: Functions) -> dict[str, float]:
        """The expected gradient beside that of J."""
        parameters = self.start()
        truth = torch.cat(torch.autograd.grad(self.objective(parameters), parameters))
        return learner.direction(self.gradient(parameters, f), truth)

    def learn(self, f: Functions) -> list[list[float]]:
        """J under expected updates."""
        parameters = self.start()
        return [
            learner.ascend(
                lambda: self.gradient(parameters, f),
                lambda: float(self.objective(parameters).detach()),
                [p.requires_grad_() for p in parameters], lr=0.05, updates=60,
            )
        ]  # fmt: skip

    def best(self) -> float:
        """J as the deviation goes to 0."""
        return 0.0
