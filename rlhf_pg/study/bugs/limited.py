"""A small MDP under a time limit, all of whose walks can be written down.

The limit is not part of the task: J is that of walks without end, and a walk that is cut could have
gone on. Expected updates are exact, and the critic is what its own targets settle at.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from rlhf_pg.core import losses
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.study.bugs.exhibit import Comparison, Curves, Direction, Swap, both, direction
from rlhf_pg.study.mdp import TabularMDP

TRUTH = "∇J weighs all steps alike, by their true advantages in the task without its limit"


@dataclass
class Walks:
    """Every walk of `limit` steps and the step after, which only resets: (N, limit + 1)."""

    states: Tensor
    actions: Tensor
    next_states: Tensor
    chances: Tensor  # (N,) of the world's part; the policy's is not in it
    resetting: Tensor  # (N, limit + 1) True on the last column


def segment(walks: Walks, values: Tensor) -> tuple[Tensor, Tensor]:
    """What is learned from, and V of the state after each step, both (N, limit + 1).

    Every walk is cut by its limit and none ends, so there is always a next state to ask.
    """
    return ~walks.resetting, values[walks.next_states]


class Limited:
    """The MDP, its limit, and its walks from the start."""

    def __init__(self, mdp: TabularMDP, limit: int) -> None:
        self.mdp, self.limit = mdp, limit
        states, actions = mdp.rewards.shape
        rows = []
        for path in product(range(states), repeat=limit + 1):
            for chosen in product(range(actions), repeat=limit + 1):
                chance = mdp.start[path[0]]
                for s, a, following in zip(path, chosen, path[1:], strict=False):
                    chance = chance * mdp.transitions[s, a, following]
                if chance > 0:
                    rows.append((path, chosen, float(chance)))
        at, done = torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
        again = torch.full_like(at[:, :1], int(mdp.start.argmax()))  # where the reset leads
        resetting = torch.zeros_like(at).bool()
        resetting[:, -1] = True
        chances = torch.tensor([r[2] for r in rows], dtype=torch.float64)
        self.walks = Walks(at, done, torch.cat([at[:, 1:], again], 1), chances, resetting)

    def probs(self, logits: Tensor) -> Tensor:
        """Of the walks, the action in the reset step included, (N,)."""
        logp = logits.log_softmax(-1)[self.walks.states, self.walks.actions]
        return self.walks.chances * logp.sum(1).exp()

    def rollout(self, logits: Tensor, values: Tensor) -> Rollout:
        """All walks; the environment pays nothing for the step that resets."""
        walks = self.walks
        mask, next_values = segment(walks, values)
        rewards = self.mdp.rewards[walks.states, walks.actions] * ~walks.resetting
        ends = torch.zeros_like(rewards)
        ends[:, -2] = 1  # the limit
        logprobs = logits.log_softmax(-1)[walks.states, walks.actions]
        at = values[walks.states]
        return Rollout(walks.states, walks.actions, logprobs, at, next_values, rewards, ends, mask)

    def critic(self, logits: Tensor, config: LearnerConfig, values: Tensor, sweeps: int) -> Tensor:
        """V after so many sweeps of moving each state to the mean of its targets, (S,)."""
        probs = self.probs(logits)[:, None]
        for _ in range(sweeps):
            rollout = self.rollout(logits, values)
            _, targets = estimate_advantages(rollout, config)
            weights = probs * rollout.mask
            total, weight = torch.zeros_like(values), torch.zeros_like(values)
            total.index_put_((self.walks.states,), weights * targets, accumulate=True)
            weight.index_put_((self.walks.states,), weights, accumulate=True)
            values = torch.where(weight > 0, total / weight, values)
        return values

    def gradient(self, logits: Tensor, config: LearnerConfig, values: Tensor) -> Tensor:
        """E[g] by the logits."""
        logits = logits.detach().requires_grad_()
        rollout = self.rollout(logits.detach(), values)
        advantages, _ = estimate_advantages(rollout, config)
        weights = self.probs(logits.detach())[:, None] * len(rollout)
        logprobs = logits.log_softmax(-1)[self.walks.states, self.walks.actions]
        loss = losses.policy_gradient_loss(logprobs, weights * advantages, rollout.mask, "episode")
        return -torch.autograd.grad(loss, logits)[0]

    def truth(self, logits: Tensor) -> Tensor:
        """sum_t E[grad log pi(a_t|s_t) A(s_t, a_t)] over the real steps, A without a limit.

        Steps are not weighed by gamma^t, as usual.
        """
        answer = self.mdp.exact(logits)
        probs, real = self.probs(logits), (~self.walks.resetting).double()
        visits = torch.zeros_like(answer.values)
        visits.index_put_((self.walks.states,), probs[:, None] * real, accumulate=True)
        return visits[:, None] * answer.probs * answer.advantages

    def compare(
        self, setting: str, logits: Tensor, config: LearnerConfig, *swaps: Swap, fitted: bool
    ) -> Comparison:
        """Expected gradients, with the true V or with the critic's own (`fitted`)."""
        truth, values = self.truth(logits), self.mdp.exact(logits).values

        def measured() -> Direction:
            used = self.critic(logits, config, values, 300) if fitted else values
            return direction(self.gradient(logits, config, used), truth)

        return Comparison(setting, *both(measured, *swaps))

    def curves(self, setting: str, config: LearnerConfig, *swaps: Swap, updates: int) -> Curves:
        """J without a limit, under expected updates by Adam, from the uniform policy and V = 0."""

        def learn() -> list[list[float]]:
            logits = torch.zeros_like(self.mdp.rewards).requires_grad_()
            values = torch.zeros_like(self.mdp.start)
            adam = torch.optim.Adam([logits], lr=config.lr)
            curve = [self.mdp.exact(logits).objective]
            for _ in range(updates):
                values = self.critic(logits.detach(), config, values, 5)
                logits.grad = -self.gradient(logits, config, values)
                adam.step()
                curve.append(self.mdp.exact(logits).objective)
            return [curve]

        best = self.mdp.optimum().objective
        return Curves(setting, list(range(updates + 1)), *both(learn, *swaps), best)
