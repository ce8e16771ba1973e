"""Baselines: what is subtracted from a score before it multiplies grad log pi.

`scores` are (N, K): K samples of each of N prompts. A baseline that does not depend on the sample
it is subtracted from leaves the expected gradient unchanged (Williams 1992).

`scored` (N, K) is False where a sample has no score (its reward does not apply). Such a sample
counts in no mean or deviation and has advantage 0, whatever its entry in `scores`; so have all
samples of a prompt with fewer than two scores.
"""

from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.masked import Reduce, alone, masked_mean, zero_padding


def batch_mean(scores: Tensor, scored: Tensor | None = None) -> Tensor:
    """Scores minus the mean of all scores, (N, K).

    The mean includes the sample itself, which scales the expected gradient by (NK-1)/NK; its
    direction stays if all samples come from one prompt.
    """
    scored = torch.ones_like(scores) if scored is None else scored
    return zero_padding(scores - masked_mean(scores, scored), scored)


def leave_one_out(scores: Tensor, scored: Tensor | None = None) -> Tensor:
    """Each score minus the mean of the other K-1 of its prompt, (N, K); unbiased.

    Equals K/(K-1) * (score - mean) (Kool et al. 2019; RLOO, Ahmadian et al. 2024, eq. 8).
    Raises ValueError for K < 2.
    """
    centred, count = _centred(scores, scored, "leave_one_out")
    return centred * (count / (count - 1).clamp(min=1))


def group_normalise(
    scores: Tensor,
    scale: bool = True,
    population: bool = False,
    eps: float = 1e-4,
    scored: Tensor | None = None,
) -> Tensor:
    """Scores minus their prompt's mean, divided by its standard deviation + eps, (N, K).

    GRPO (Shao et al. 2024). The deviation is the sample one (n-1) unless `population`. Dividing by
    it weights prompts by 1/std, which is not the policy gradient; `scale=False` does not divide
    (Dr. GRPO, Liu et al. 2025). Raises ValueError for K < 2.
    """
    centred, count = _centred(scores, scored, "group_normalise")
    if not scale:
        return centred
    correction = 0 if population else 1
    squares = (centred**2).sum(dim=1, keepdim=True)
    std = (squares / (count - correction).clamp(min=1)).sqrt()
    # Where all samples have scores torch's own, which may differ in the last bit.
    whole = scores.to(centred.dtype).std(dim=1, keepdim=True, correction=correction)
    return centred / (torch.where(count == scores.shape[1], whole, std) + eps)


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


def _centred(scores: Tensor, scored: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Scores minus their prompt's mean (N, K), and each prompt's number of scores (N, 1)."""
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(
            f"{name} needs scores of shape (N, K) with K >= 2 samples of each prompt, "
            f"not {tuple(scores.shape)}; raise samples_per_prompt"
        )
    if not scores.is_floating_point():
        scores = scores.to(torch.get_default_dtype())
    if scored is None:
        scored = torch.ones_like(scores)
    scores, count = zero_padding(scores, scored), scored.to(scores.dtype).sum(1, keepdim=True)
    centred = scores - scores.sum(dim=1, keepdim=True) / count.clamp(min=1)
    return zero_padding(centred, scored.bool() & (count > 1)), count
