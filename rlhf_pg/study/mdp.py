"""Markov decision processes small enough for a table, and their exact answers by linear algebra."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_pg.core.kl import categorical_kl

Double = torch.float64


@dataclass
class TabularMDP:
    """S states, A actions; what the transitions of an action lack of 1 is its chance to end.

    Raises ValueError where shapes or probabilities cannot be.
    """

    transitions: Tensor  # (S, A, S) P(s' | s, a)
    rewards: Tensor  # (S, A) mean reward of a in s
    start: Tensor  # (S,) chances of the first state
    gamma: float = 1.0
    states: list[str] = field(default_factory=list)  # names, for people
    actions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transitions, self.rewards, self.start = (
            x.to(Double) for x in (self.transitions, self.rewards, self.start)
        )
        s, a = self.rewards.shape
        if self.transitions.shape != (s, a, s) or self.start.shape != (s,):
            raise ValueError(
                f"rewards {s, a} want transitions {s, a, s} and start {(s,)}, not "
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
        """The same process, ended after so many steps: the state is (step, state), step by step.

        A policy of (S, A) logits that knows no time is `logits.repeat(steps, 1)` there.
        """
        s, a = self.rewards.shape
        transitions = torch.zeros(steps * s, a, steps * s, dtype=Double)
        for t in range(steps - 1):
            here, there = slice(t * s, (t + 1) * s), slice((t + 1) * s, (t + 2) * s)
            transitions[here, :, there] = self.transitions
        start = torch.cat([self.start, torch.zeros((steps - 1) * s, dtype=Double)])
        names = [f"{name}, step {t}" for t in range(steps) for name in self.states]
        rewards = self.rewards.repeat(steps, 1)
        return TabularMDP(transitions, rewards, start, self.gamma, names, self.actions)

    def exact(
        self, logits: Tensor, ref_logits: Tensor | None = None, kl_coef: float = 0.0
    ) -> "ExactMDP":
        """All there is to know of the policy softmax(logits), logits (S, A).

        Rewards pay kl_coef * k1 at every step, as in text. Raises ValueError where a penalty has no
        reference, or episodes have no end and gamma is 1.
        """
        if kl_coef and ref_logits is None:
            raise ValueError(f"kl_coef is {kl_coef} but there is no reference; give ref_logits")
        logits = logits.detach().to(Double).requires_grad_()
        logp = logits.log_softmax(-1)
        probs = logp.exp()
        ref = (
            logp.detach() if ref_logits is None else ref_logits.detach().to(Double).log_softmax(-1)
        )
        paid = self.rewards - kl_coef * (logp - ref)
        following = torch.einsum("sa,sax->sx", probs, self.transitions)
        values = self._solve(following, (probs * paid).sum(1))
        objective = self.start @ values
        (gradient,) = torch.autograd.grad(objective, logits)
        with torch.no_grad():
            q_values = paid + self.gamma * self.transitions @ values
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
        Without one it is greedy, and shared evenly among equals. Raises ValueError where the values
        find no end.
        """
        values = torch.zeros_like(self.start)
        ref = None if ref_logits is None else ref_logits.to(Double).log_softmax(-1)
        if kl_coef and ref is None:
            raise ValueError(f"kl_coef is {kl_coef} but there is no reference; give ref_logits")
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
        raise ValueError("value iteration found no end: lower gamma below 1, or let episodes end")

    @torch.no_grad()
    def walk(self, probs: Tensor, rows: int, steps: int, generator: torch.Generator) -> "Walk":
        """`rows` episodes of the policy `probs` (S, A), each cut after `steps` steps."""
        s, a = self.rewards.shape
        ending = 1 - self.transitions.sum(-1, keepdim=True)
        outcomes = torch.cat([self.transitions, ending.clamp(min=0)], -1)  # state S is the end
        states = torch.full((rows, steps + 1), s)
        states[:, 0] = torch.multinomial(self.start, rows, True, generator=generator)
        actions = torch.zeros(rows, steps, dtype=torch.long)
        probs = torch.cat([probs.to(Double), torch.full((1, a), 1 / a, dtype=Double)])
        outcomes = torch.cat([outcomes, torch.eye(s + 1, dtype=Double)[-1].expand(1, a, s + 1)])
        for t in range(steps):
            actions[:, t] = torch.multinomial(probs[states[:, t]], 1, generator=generator)[:, 0]
            chances = outcomes[states[:, t], actions[:, t]]
            states[:, t + 1] = torch.multinomial(chances, 1, generator=generator)[:, 0]
        mask = states[:, :-1] < s
        here = states[:, :-1].clamp(max=s - 1)
        rewards = torch.where(mask, self.rewards[here, actions], 0.0)
        return Walk(here, actions, rewards, states[:, 1:], mask & (states[:, 1:] == s), mask)

    def _solve(self, following: Tensor, right: Tensor) -> Tensor:
        """x = right + gamma * following @ x."""
        system = torch.eye(len(right), dtype=Double) - self.gamma * following
        try:
            solved: Tensor = torch.linalg.solve(system, right)
        except RuntimeError as error:
            raise ValueError(
                "episodes of this policy have no end and gamma is 1, so nothing adds up: lower "
                "gamma, or use with_horizon"
            ) from error
        return solved


@dataclass
class ExactMDP:
    """What a policy is worth; everything counts the KL penalty, and float64."""

    objective: float  # J = E[sum_t gamma^t (r_t - kl_coef * k1_t)]
    gradient: Tensor  # (S, A) dJ/dlogits
    probs: Tensor  # (S, A)
    values: Tensor  # (S,)
    q_values: Tensor  # (S, A)
    advantages: Tensor  # (S, A)
    occupancy: Tensor  # (S,) sum_t gamma^t P(s_t = s): not a distribution, but steps
    kl: float  # to the reference, summed over the steps, discounted; nats
    entropy: float  # likewise


class BestPolicy(NamedTuple):
    probs: Tensor  # (S, A)
    values: Tensor  # (S,)
    objective: float


class Walk(NamedTuple):
    """Sampled episodes, (B, T); on padding the state is a valid one and the reward 0."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor  # S, one past the last state, is the end
    terminated: Tensor
    mask: Tensor


def two_state() -> TabularMDP:
    """Stay in the rich state, which sometimes throws you out, or in the poor one, which does not.

    "poor": staying pays 0.2, going pays nothing and reaches "rich" with chance 0.8.
    "rich": staying pays 1 and lasts with chance 0.9; going leaves for "poor" for nothing.
    """
    transitions = torch.tensor([[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [1.0, 0.0]]], dtype=Double)
    rewards = torch.tensor([[0.2, 0.0], [1.0, 0.0]], dtype=Double)
    start = torch.tensor([1.0, 0.0], dtype=Double)
    return TabularMDP(transitions, rewards, start, 0.9, ["poor", "rich"], ["stay", "go"])


def gridworld() -> TabularMDP:
    """The 4 by 3 world of Russell & Norvig (Artificial Intelligence, ch. 17), begun at (1, 1).

    A wall at (2, 2); (4, 3) ends with +1 and (4, 2) with -1; each step costs 0.04. A move goes
    where it should with chance 0.8, and to either side of that with 0.1.
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
