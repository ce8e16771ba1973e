"""Baselines: what is subtracted from a score before it multiplies grad log pi.

`scores` are (N, K): K samples of each of N prompts. A baseline that does not depend on the sample
it is subtracted from leaves the expected gradient unchanged (Williams 1992).
"""

from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.masked import Reduce, alone


def batch_mean(scores: Tensor) -> Tensor:
    """Scores minus the mean of all scores, (N, K).

    The mean includes the sample itself, which scales the expected gradient by (NK-1)/NK; its
    direction stays if all samples come from one prompt.
    """
    return scores - scores.mean()


def leave_one_out(scores: Tensor) -> Tensor:
    """Each score minus the mean of the other K-1 of its prompt, (N, K); unbiased.

    Equals K/(K-1) * (score - mean) (Kool et al. 2019; RLOO, Ahmadian et al. 2024, eq. 8).
    Raises ValueError for K < 2.
    """
    k = _samples_per_prompt(scores, "leave_one_out")
    return (scores - scores.mean(dim=1, keepdim=True)) * (k / (k - 1))


def group_normalise(
    scores: Tensor, scale: bool = True, population: bool = False, eps: float = 1e-4
) -> Tensor:
    """Scores minus their prompt's mean, divided by its standard deviation + eps, (N, K).

    GRPO (Shao et al. 2024). The deviation is the sample one (n-1) unless `population`. Dividing by
    it weights prompts by 1/std, which is not the policy gradient; `scale=False` does not divide
    (Dr. GRPO, Liu et al. 2025). Raises ValueError for K < 2.
    """
    _samples_per_prompt(scores, "group_normalise")
    centred = scores - scores.mean(dim=1, keepdim=True)
    if not scale:
        return centred
    std = scores.std(dim=1, keepdim=True, correction=0 if population else 1)
    return centred / (std + eps)


def optimal_constant(scores: Tensor, squared_norms: Tensor, reduce: Reduce = alone) -> Tensor:
    """The constant baseline of least variance, a scalar: E[|g|^2 R] / E[|g|^2], g = grad log pi.

    `squared_norms` are |g|^2 of each sample, shaped as `scores` (Greensmith et al. 2004).
    """
    return reduce((squared_norms * scores).sum()) / reduce(squared_norms.sum())


class MovingAverage:
    """An exponential moving average of past scores, corrected for its start at zero.

    `value` is the baseline of the next batch. It does not depend on that batch, so it is unbiased.
    `decay` is usually 0.9 to 0.99.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay, self.total, self.weight = decay, 0.0, 0.0

    @property
    def value(self) -> float:
        return self.total / self.weight if self.weight else 0.0

    def update(self, scores: Tensor) -> None:
        """Update the average with a batch of scores (any shape)."""
        mean = float(torch.as_tensor(scores, dtype=torch.float64).mean())
        self.total = self.decay * self.total + (1 - self.decay) * mean
        self.weight = self.decay * self.weight + (1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.weight = state["total"], state["weight"]


def _samples_per_prompt(scores: Tensor, name: str) -> int:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"{name} needs scores of shape (N, K) with K >= 2 samples of each prompt, "
            f"not {tuple(scores.shape)}; raise samples_per_prompt"
        )
    return scores.shape[1]
