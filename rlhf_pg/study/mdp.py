"""Tabular Markov decision processes, and their exact answers by linear algebra."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_pg.core.kl import categorical_kl

Double = torch.float64


@dataclass
class TabularMDP:
    """S states, A actions; an episode ends with the probability that `transitions` leave to 1.

    Raises ValueError if shapes do not match or probabilities are invalid.
    """

    transitions: Tensor  # (S, A, S) P(s' | s, a)
    rewards: Tensor  # (S, A) mean reward of a in s
    start: Tensor  # (S,) distribution of the first state
    gamma: float = 1.0
    states: list[str] = field(default_factory=list)  # names
    actions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transitions, self.rewards, self.start = (
            x.to(Double) for x in (self.transitions, self.rewards, self.start)
        )
        s, a = self.rewards.shape
        if self.transitions.shape != (s, a, s) or self.start.shape != (s,):
            raise ValueError(
                f"rewards {s, a} need transitions {s, a, s} and start {(s,)}, not "
                f"{tuple(self.transitions.shape)} and {tuple(self.start.shape)}"
            )
        for name, p in (("transitions", self.transitions), ("start", self.start)):
            if (p < 0).any() or (p.sum(-1) > 1 + 1e-9).any():
                raise ValueError(f"{name} must be probabilities: none below 0, sums at most 1")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be from 0 to 1, not {self.gamma}")
        self.states = self.states or [str(i) for i in range(s)]
        self.actions = self.actions or [str(i) for i in range(a)]

    def with_horizon(self, steps: int) -> "TabularMDP":
        """The same process, ended after `steps` steps; its states are (step, state), in order.

        A policy (S, A) that does not depend on time is `logits.repeat(steps, 1)` there.
        """
        s, a = self.rewards.shape
        transitions = torch.zeros(steps * s, a, steps * s, dtype=Double)
        for t in range(steps - 1):
            now, later = slice(t * s, (t + 1) * s), slice((t + 1) * s, (t + 2) * s)
            transitions[now, :, later] = self.transitions
        start = torch.cat([self.start, torch.zeros((steps - 1) * s, dtype=Double)])
        names = [f"{name}, step {t}" for t in range(steps) for name in self.states]
        rewards = self.rewards.repeat(steps, 1)
        return TabularMDP(transitions, rewards, start, self.gamma, names, self.actions)

    def exact(
        self, logits: Tensor, ref_logits: Tensor | None = None, kl_coef: float = 0.0
    ) -> "ExactMDP":
        """J, gradient, V, Q, A, KL and entropy of the policy softmax(logits), logits (S, A).

        The reward of every step includes -kl_coef * k1, as in text. Raises ValueError if a penalty
        has no reference, or if episodes never end and gamma is 1.
        """
        logits = logits.detach().to(Double).requires_grad_()
        logp = logits.log_softmax(-1)
        probs = logp.exp()
        ref = _reference(ref_logits, kl_coef)
        ref = logp.detach() if ref is None else ref
        rewards = self.rewards - kl_coef * (logp - ref)
        # V = r + gamma P V under the policy; autograd differentiates through the linear solve.
        following = torch.einsum("sa,sax->sx", probs, self.transitions)
        values = self._solve(following, (probs * rewards).sum(1))
        objective = self.start @ values
        (gradient,) = torch.autograd.grad(objective, logits)
        with torch.no_grad():
            q_values = rewards + self.gamma * self.transitions @ values
            occupancy = self._solve(following.T, self.start)
            return ExactMDP(
                objective=float(objective),
                gradient=gradient,
                probs=probs.detach(),
                values=values.detach(),
                q_values=q_values,
                advantages=q_values - values[:, None],
                occupancy=occupancy,
                kl=float(occupancy @ categorical_kl(logp, ref)),
                entropy=-float(occupancy @ (probs * logp).sum(1)),
            )

    def optimum(
        self, ref_logits: Tensor | None = None, kl_coef: float = 0.0, tolerance: float = 1e-12
    ) -> "BestPolicy":
        """The policy of the largest objective, by value iteration (Bellman 1957), soft with a KL.

        With a penalty it is pi*(a|s) = ref(a|s) exp((Q*(s, a) - V*(s)) / kl_coef), and
        V*(s) = kl_coef log sum_a ref(a|s) exp(Q*(s, a) / kl_coef) (Todorov 2006; Ziebart 2010).
        Without one it is greedy; equally good actions share the probability. Raises ValueError if
        a penalty has no reference, or if value iteration does not converge.
        """
        ref = _reference(ref_logits, kl_coef)
        values = torch.zeros_like(self.start)
        for _ in range(30_000):
            q = self.rewards + self.gamma * self.transitions @ values
            if ref is not None and kl_coef:
                better = kl_coef * (ref + q / kl_coef).logsumexp(1)
                probs = (ref + (q - better[:, None]) / kl_coef).exp()
            else:
                better = q.max(1).values
                greedy = (q >= better[:, None] - 1e-9).to(Double)
                probs = greedy / greedy.sum(1, keepdim=True)
            done = (better - values).abs().max() <= tolerance * max(1.0, float(better.abs().max()))
            values = better
            if done:
                return BestPolicy(probs, values, float(self.start @ values))
        raise ValueError("value iteration does not converge: use gamma < 1, or episodes that end")

    def _solve(self, following: Tensor, right: Tensor) -> Tensor:
        """x = right + gamma * following @ x."""
        system = torch.eye(len(right), dtype=Double) - self.gamma * following
        try:
            solved: Tensor = torch.linalg.solve(system, right)
        except RuntimeError as error:
            raise ValueError(
                "episodes of this policy never end and gamma is 1, so the return is infinite: "
                "use gamma < 1 or with_horizon"
            ) from error
        return solved


def _reference(ref_logits: Tensor | None, kl_coef: float) -> Tensor | None:
    """log ref(a|s), (S, A); ValueError if a KL penalty has no reference."""
    if ref_logits is None:
        if kl_coef:
            raise ValueError(f"kl_coef is {kl_coef} but there is no reference; give ref_logits")
        return None
    return ref_logits.detach().to(Double).log_softmax(-1)


@dataclass
class ExactMDP:
    """Exact answers for one policy, float64; all of them include the KL penalty."""

    objective: float  # J = E[sum_t gamma^t (r_t - kl_coef * k1_t)]
    gradient: Tensor  # (S, A) dJ/dlogits
    probs: Tensor  # (S, A)
    values: Tensor  # (S,)
    q_values: Tensor  # (S, A)
    advantages: Tensor  # (S, A)
    occupancy: Tensor  # (S,) sum_t gamma^t P(s_t = s): discounted expected visits
    kl: float  # to the reference, summed over the steps, discounted; nats
    entropy: float  # likewise


class BestPolicy(NamedTuple):
    """The optimal policy and its value."""

    probs: Tensor  # (S, A)
    values: Tensor  # (S,)
    objective: float


def two_state() -> TabularMDP:
    """Two states, "poor" and "rich"; the rich one pays more, and staying in it may fail.

    "poor": staying pays 0.2, going pays 0 and reaches "rich" with probability 0.8.
    "rich": staying pays 1 and lasts with probability 0.9; going pays 0 and leads to "poor".
    """
    transitions = torch.tensor([[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [1.0, 0.0]]], dtype=Double)
    rewards = torch.tensor([[0.2, 0.0], [1.0, 0.0]], dtype=Double)
    start = torch.tensor([1.0, 0.0], dtype=Double)
    return TabularMDP(transitions, rewards, start, 0.9, ["poor", "rich"], ["stay", "go"])


def gridworld() -> TabularMDP:
    """The 4 by 3 world of Russell & Norvig (Artificial Intelligence, ch. 17), started at (1, 1).

    There is a wall at (2, 2); (4, 3) ends with +1 and (4, 2) with -1; each step costs 0.04. A move
    succeeds with probability 0.8 and goes to either side of its direction with 0.1 each.
    """
    moves = {"up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0)}
    ends = {(4, 3): 1.0, (4, 2): -1.0}
    cells = [(x, y) for y in (1, 2, 3) for x in (1, 2, 3, 4)]
    open_ = [cell for cell in cells if cell != (2, 2) and cell not in ends]
    transitions = torch.zeros(len(open_), len(moves), len(open_), dtype=Double)
    rewards = torch.full((len(open_), len(moves)), -0.04, dtype=Double)
    for s, (x, y) in enumerate(open_):
        for a, (dx, dy) in enumerate(moves.values()):
            for chance, (ex, ey) in ((0.8, (dx, dy)), (0.1, (dy, dx)), (0.1, (-dy, -dx))):
                there = (x + ex, y + ey)
                if there in ends:
                    rewards[s, a] += chance * ends[there]
                else:
                    there = there if there in open_ else (x, y)
                    transitions[s, a, open_.index(there)] += chance
    start = torch.zeros(len(open_), dtype=Double)
    start[open_.index((1, 1))] = 1
    return TabularMDP(transitions, rewards, start, 1.0, [f"{c}" for c in open_], list(moves))


EXAMPLES = {"two-state": two_state, "gridworld": gridworld}
