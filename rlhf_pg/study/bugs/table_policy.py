"""A policy over texts written as a table: a row of logits for every prefix."""

import torch
from torch import Tensor

from rlhf_pg.core.rollout import Evaluation, Rollout


def token_logprobs(logits: Tensor, temperature: float) -> Tensor:
    """log pi of every token, as `LanguagePolicy` has it."""
    return (logits / temperature).log_softmax(-1)


class TablePolicy(torch.nn.Module):
    """A softmax with its own logits, and a critic with its own value, after every prefix."""

    def __init__(self, logits: Tensor, temperature: float = 1.0) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())  # (prefixes, V)
        self.values = torch.nn.Parameter(torch.zeros_like(logits[:, 0]))
        self.temperature = temperature

    def evaluate(self, rollout: Rollout) -> Evaluation:
        """As any policy; the states are read off the actions."""
        states = prefixes(rollout.actions, self.logits)[:, :-1]
        logp = token_logprobs(self.logits, self.temperature)[states]
        chosen = logp.gather(-1, rollout.actions[..., None])[..., 0]
        return Evaluation(chosen, -(logp.exp() * logp).sum(-1), self.values[states])


def prefixes(actions: Tensor, table: Tensor) -> Tensor:
    """The row of the table before each action and after the last, (B, T + 1), numbered as a heap.

    Padding beyond the table reads its last row, which no completion does.
    """
    rows, vocabulary = table.shape
    states = [torch.zeros_like(actions[:, 0])]
    for action in actions.unbind(1):
        states.append((states[-1] * vocabulary + 1 + action).clamp(max=rows - 1))
    return torch.stack(states, 1)
