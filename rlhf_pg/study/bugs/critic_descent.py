"""A critic that descends its squared TD error, and the policy gradient that it leads to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_pg.study.bugs import learner
from rlhf_pg.study.bugs.functions import Functions
from rlhf_pg.study.bugs.learner import TablePolicy
from rlhf_pg.study.mdp import TabularMDP


@dataclass
class CriticDescent:
    """One-step actor-critic on an MDP; every expectation is a sum over s, a and s'."""

    mdp: TabularMDP

    def weights(self, policy: TablePolicy) -> Tensor:
        """Expected discounted visits of (s, a, s'), (S, A, S); those that end are left out."""
        exact = self.mdp.exact(policy.logits)
        return (exact.occupancy[:, None] * exact.probs)[..., None] * self.mdp.transitions

    def fit(self, policy: TablePolicy, f: Functions, steps: int) -> None:
        """Descend the mean of (r + gamma V(s') - V(s))^2 / 2 by V."""
        weights = self.weights(policy)
        sgd = torch.optim.SGD([policy.values], lr=1 / float(weights.sum()))
        for _ in range(steps):
            v = policy.values
            targets = self.mdp.rewards[..., None] + self.mdp.gamma * f.target_value(v)
            policy.values.grad = torch.autograd.grad(
                (weights * (targets - v[:, None, None]) ** 2).sum() / 2, v
            )[0]
            sgd.step()

    def gradient(self, policy: TablePolicy, values: Tensor) -> Tensor:
        """E[g] with the advantages r + gamma V(s') - V(s), by the logits, flat."""
        following = self.mdp.transitions @ values
        advantages = self.mdp.rewards + self.mdp.gamma * following - values[:, None]
        visits = self.mdp.exact(policy.logits).occupancy[:, None]
        logp = policy.logits.log_softmax(-1)
        total = (visits * logp.detach().exp() * advantages * logp).sum()
        return torch.autograd.grad(total, policy.logits)[0].flatten()

    def start(self) -> TablePolicy:
        """The uniform policy, and V = 0."""
        return TablePolicy(torch.zeros_like(self.mdp.rewards))

    def direction(self, f: Functions) -> dict[str, float]:
        """The expected gradient with the critic that descent leads to, beside the true one."""
        policy = self.start()
        self.fit(policy, f, steps=2000)
        truth = self.mdp.exact(policy.logits).gradient.flatten()
        return learner.direction(self.gradient(policy, policy.values.detach()), truth)

    def value(self, f: Functions) -> float:
        """V of the second state after the critic's descent."""
        policy = self.start()
        self.fit(policy, f, steps=2000)
        return float(policy.values.detach()[1])

    def learn(self, f: Functions) -> list[list[float]]:
        """J under expected updates, with 10 steps of the critic before each."""
        policy = self.start()

        def gradient() -> Tensor:
            self.fit(policy, f, steps=10)
            return self.gradient(policy, policy.values.detach())

        def objective() -> float:
            return self.mdp.exact(policy.logits).objective

        return [learner.ascend(gradient, objective, [policy.logits], lr=0.1, updates=60)]

    def best(self) -> float:
        """J of the best policy."""
        return self.mdp.optimum().objective
