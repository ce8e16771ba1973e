"""A text task of three tokens, all of whose completions are enumerated, for the exercises.

Tokens are EOS, "a" and "b". A completion has at most three of them, so there are 15; a state is the
prefix, so there are 7. Truths are autograd's gradients of sums over all completions.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import POISON

EOS, LENGTH = 0, 3


class Episodes(NamedTuple):
    """Every completion (N), with one column of padding more than the longest needs."""

    tokens: Tensor  # (N, T)
    states: Tensor  # (N, T) number of the prefix before each token
    mask: Tensor  # (N, T)
    ends: Tensor  # (N, T) 1 on the last token
    rewards: Tensor  # (N, T) of every token, for returns; POISON on padding
    scores: Tensor  # (N,) of the whole completion, for rewards that come at the end
    logits: Tensor  # (7, 3) of the policy
    ref_logits: Tensor  # (7, 3) of the reference


@cache
def every_episode() -> Episodes:
    """The task, with random numbers in its tables."""
    prefixes = [p for n in range(LENGTH) for p in product((1, 2), repeat=n)]
    rows = [[*p, EOS] for p in prefixes]
    rows += [[*p] for p in product((1, 2), repeat=LENGTH)]
    columns = LENGTH + 1
    mask = torch.tensor([[t < len(row) for t in range(columns)] for row in rows])
    ends = torch.tensor([[float(t == len(row) - 1) for t in range(columns)] for row in rows])
    tokens = torch.tensor([row + [EOS] * (columns - len(row)) for row in rows])
    states = torch.zeros_like(tokens)
    for n, row in enumerate(rows):
        for t in range(len(row)):
            states[n, t] = prefixes.index(tuple(row[:t]))
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(3, len(prefixes), 3, generator=generator).double()
    rewards = torch.where(mask, tables[2][states, tokens], POISON)
    scores = torch.where(mask, rewards, 0.0).sum(1)
    return Episodes(tokens, states, mask, ends.double(), rewards, scores, tables[0], tables[1])


def logprobs(logits: Tensor) -> Tensor:
    """log pi of every token (N, T), POISON on padding."""
    every = every_episode()
    chosen = logits.log_softmax(-1)[every.states, every.tokens]
    return torch.where(every.mask, chosen, POISON)


def probs(logits: Tensor) -> Tensor:
    """The probability of every completion, (N,)."""
    return torch.where(every_episode().mask, logprobs(logits), 0.0).sum(1).exp()


def truth(returns: Callable[[Tensor], Tensor]) -> Tensor:
    """The exact gradient of J = E[returns], by the logits; `returns` (N,) may depend on them."""
    logits = every_episode().logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(probs(logits) @ returns(logits), logits)
    return gradient


def gradient_of_loss(loss: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Minus the expected gradient of a loss whose batch is one completion.

    `loss` takes log pi (1, T) of a completion, and its number.
    """
    logits = every_episode().logits.clone().requires_grad_()
    logp, weights = logprobs(logits), probs(logits).detach()
    total = sum(p * loss(logp[i : i + 1], i) for i, p in enumerate(weights))
    if not isinstance(total, Tensor) or not total.requires_grad:
        return torch.zeros_like(logits)
    return -torch.autograd.grad(total, logits)[0]


def gradient_of_weights(weights: Tensor) -> Tensor:
    """E[sum_t w_t grad log pi(a_t|s_t)] by the logits, with weights w (N, T)."""
    every = every_episode()
    logits = every.logits.clone().requires_grad_()
    weighted = torch.where(every.mask, weights.detach() * logprobs(logits), 0.0).sum(1)
    return torch.autograd.grad(probs(logits).detach() @ weighted, logits)[0]


def returns_to_go() -> Tensor:
    """The sum of rewards from every token on (N, T), written down without a recursion."""
    every = every_episode()
    rewards = torch.where(every.mask, every.rewards, 0.0)
    return rewards.sum(1, keepdim=True) - rewards.cumsum(1) + rewards


def values() -> Tensor:
    """The true V of every state, (7,): the mean return from it on."""
    every = every_episode()
    rest = torch.where(every.mask, logprobs(every.logits), 0.0)
    chances = (rest.sum(1, keepdim=True) - rest.cumsum(1) + rest).exp()  # of the rest, from t on
    v = torch.zeros(len(every.logits)).double()
    return v.index_put_(
        (every.states[every.mask],), (chances * returns_to_go())[every.mask], accumulate=True
    )
