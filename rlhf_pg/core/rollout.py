"""The data between sampling and learning: padded episodes, and a policy's evaluation of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass
class Rollout:
    """B episodes of at most T steps, padded on the right; a row is an episode or a segment of one.

    `rollout[rows]` is the minibatch of those rows. Steps that are not transitions are masked out.
    Raises ValueError if a tensor has another shape than the mask.
    """

    inputs: Any  # what the policy needs to evaluate the actions: a tensor, or a mapping of them
    actions: Tensor  # (B, T) or (B, T, dimensions)
    logprobs: Tensor  # (B, T) of the actions, when they were sampled
    values: Tensor  # (B, T) V(s_t) at that time
    next_values: Tensor  # (B, T) V(s_{t+1}); 0 after a terminal step
    rewards: Tensor  # (B, T)
    ends: Tensor  # (B, T) 1 on the last step of an episode
    mask: Tensor  # (B, T) 1 on real steps
    ref_logprobs: Tensor | None = None  # (B, T) of the reference, for a KL in the loss
    kl_coef: float = 0.0  # of that KL
    group_size: int = 1  # K consecutive rows answer the same prompt

    def __post_init__(self) -> None:
        expected = tuple(self.mask.shape)
        for name in ("logprobs", "values", "next_values", "rewards", "ends", "ref_logprobs"):
            x = getattr(self, name)
            if x is not None and tuple(x.shape) != expected:
                raise ValueError(f"{name} is {tuple(x.shape)}, mask is {expected}")
        if tuple(self.actions.shape[:2]) != expected:
            raise ValueError(f"actions is {tuple(self.actions.shape)}, mask is {expected}")

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __getitem__(self, rows: Any) -> "Rollout":
        return self._map(lambda x: x[rows])

    def to(self, device: torch.device | str) -> "Rollout":
        return self._map(lambda x: x.to(device))

    def _map(self, f: Any) -> "Rollout":
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                changed[field.name] = {key: f(x) for key, x in value.items()}
            elif field.name == "inputs" or isinstance(value, Tensor):
                changed[field.name] = f(value)
        return replace(self, **changed)


@dataclass
class Evaluation:
    """A policy's view of a rollout's actions, each (B, T); no values without a critic."""

    logprobs: Tensor
    entropies: Tensor
    values: Tensor | None = None


class Policy(Protocol):
    """Anything with parameters that can evaluate a rollout, dropout off."""

    def evaluate(self, rollout: Rollout) -> Evaluation: ...

    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
