"""A small MDP under a time limit, all of whose episodes are enumerated.

The limit is not part of the task: J has none, and a truncated episode could have gone on. Updates
are expected ones, with a critic that is fitted to its own targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.study.bugs import learner
from rlhf_pg.study.bugs.functions import RIGHT, Functions
from rlhf_pg.study.bugs.learner import TablePolicy
from rlhf_pg.study.mdp import TabularMDP

LIMIT = 3
A2C = algorithm("a2c", gamma=0.9, lr=0.1)


def orchard() -> TabularMDP:
    """Eat for 1 a step, or plant, once and for nothing, and have 1.4 a step ever after."""
    transitions = torch.zeros(2, 2, 2, dtype=torch.float64)
    transitions[0, 0, 0] = transitions[0, 1, 1] = transitions[1, :, 1] = 1
    rewards = torch.tensor([[1.0, 0.0], [1.4, 1.4]], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0])
    return TabularMDP(transitions, rewards, start, 0.9, ["field", "orchard"], ["eat", "plant"])


@dataclass
class TimeLimit:
    """Every episode (N) of LIMIT steps and of the step after, which only resets."""

    mdp: TabularMDP
    fitted: bool = True  # measure with the critic that the targets lead to, not with the true V

    def __post_init__(self) -> None:
        """Enumerate states, actions and next states, (N, LIMIT + 1), with their chances (N,)."""
        counts = [torch.arange(n) for n in self.mdp.rewards.shape]
        paths, chosen = (torch.cartesian_prod(*[x] * (LIMIT + 1)) for x in counts)
        self.states = paths.repeat_interleave(len(chosen), 0)
        self.actions = chosen.repeat(len(paths), 1)
        first, later = self.states[:, :1], self.states[:, 1:]
        moves = self.mdp.transitions[self.states[:, :-1], self.actions[:, :-1], later]
        self.chances = self.mdp.start[first[:, 0]] * moves.prod(1)  # without the policy's
        restart = torch.full_like(first, int(self.mdp.start.argmax()))
        self.next_states = torch.cat([later, restart], 1)
        self.truncated, self.resetting = torch.zeros(2, *self.states.shape).bool()
        self.truncated[:, -2] = self.resetting[:, -1] = True

    def uniform(self) -> TablePolicy:
        """The uniform policy, with its true V as critic."""
        policy = TablePolicy(torch.zeros_like(self.mdp.rewards))
        policy.values.data = self.mdp.exact(policy.logits).values
        return policy

    @torch.no_grad()
    def probs(self, policy: TablePolicy) -> Tensor:
        """Probabilities of the episodes (N,), with that of the ignored action of the reset."""
        logp = policy.logits.log_softmax(-1)[self.states, self.actions]
        return self.chances * logp.sum(1).exp()

    @torch.no_grad()
    def rollout(self, policy: TablePolicy, f: Functions) -> Rollout:
        """All episodes; nothing terminates, and the reset has no reward."""
        never, following = torch.zeros_like(self.truncated), policy.values[self.next_states]
        rewards = self.mdp.rewards[self.states, self.actions] * ~self.resetting
        return Rollout(
            inputs=self.states,
            actions=self.actions,
            logprobs=torch.zeros_like(rewards),
            values=policy.values[self.states],
            next_values=f.next_values(following, never, self.truncated),
            rewards=rewards,
            ends=self.truncated.double(),
            mask=f.real_steps(self.resetting),
        )

    def fit(self, policy: TablePolicy, f: Functions, sweeps: int = 300) -> None:
        """Move V of each state to the mean of its targets, `sweeps` times."""
        for _ in range(sweeps):
            rollout = self.rollout(policy, f)
            _, targets = learner.estimate(rollout, A2C, f)
            weights = self.probs(policy)[:, None] * rollout.mask
            total, weight = torch.zeros(2, len(policy.values)).double()
            total.index_put_((self.states,), weights * targets, accumulate=True)
            weight.index_put_((self.states,), weights, accumulate=True)
            policy.values.data = torch.where(weight > 0, total / weight, policy.values.data)

    def gradient(
        self, policy: TablePolicy, f: Functions, advantages: Tensor | None = None
    ) -> Tensor:
        """E[g] by the logits, with the critic's advantages unless others are given.

        Steps are not weighed by gamma^t, as usual.
        """
        rollout = self.rollout(policy, f)
        if advantages is None:
            advantages, _ = learner.estimate(rollout, A2C, f)
        probs, logp = self.probs(policy), policy.evaluate(rollout).logprobs
        return learner.expected_gradient(probs, logp, advantages, rollout.mask, [policy.logits], f)

    def truth(self, policy: TablePolicy) -> Tensor:
        """E[g] with the true advantages of the task without limit."""
        advantages = self.mdp.exact(policy.logits).advantages[self.states, self.actions]
        return self.gradient(policy, RIGHT, advantages)

    def direction(self, f: Functions) -> dict[str, float]:
        """The uniform policy's expected gradient beside the true one."""
        policy = self.uniform()
        if self.fitted:
            self.fit(policy, f)
        return learner.direction(self.gradient(policy, f), self.truth(policy))

    def value(self, f: Functions) -> float:
        """V of the second state, as the targets of the uniform policy lead to it."""
        policy = self.uniform()
        self.fit(policy, f)
        return float(policy.values.detach()[1])

    def learn(self, f: Functions) -> list[list[float]]:
        """J under expected updates, from the uniform policy and V = 0."""
        policy = TablePolicy(torch.zeros_like(self.mdp.rewards))

        def gradient() -> Tensor:
            self.fit(policy, f, sweeps=5)
            return self.gradient(policy, f)

        def objective() -> float:
            return self.mdp.exact(policy.logits).objective

        return [learner.ascend(gradient, objective, [policy.logits], A2C.lr, updates=100)]

    def best(self) -> float:
        """J of the best policy."""
        return self.mdp.optimum().objective
