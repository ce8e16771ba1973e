"""The laws of reward-model over-optimisation, fitted (Gao et al. 2022, arXiv 2210.10760).

With d = sqrt(KL(policy || base)), a score gains d (alpha - beta d) by best-of-n and
d (alpha - beta log d) by reinforcement learning. alpha is the slope at the start, beta what
over-optimisation takes back; a proxy's own beta is near 0, the gold's is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass
class Law:
    """gain(d) = d (alpha - beta d), or d (alpha - beta log d) where `logarithmic`."""

    alpha: float
    beta: float
    logarithmic: bool
    residual: float  # root mean square, in units of the score

    def gain(self, d: float) -> float:
        """What the score has gained at distance d."""
        if d <= 0:
            return 0.0
        bend = float(torch.tensor(d).log()) if self.logarithmic else d
        return d * (self.alpha - self.beta * bend)


def fit(points: Sequence[tuple[float, float]], logarithmic: bool) -> Law | None:
    """The law of least squares through points (d, gain); None for fewer than two with d > 0."""
    kept = [(d, gain) for d, gain in points if d > 1e-3]
    if len({d for d, _ in kept}) < 2:
        return None
    d, gain = torch.tensor(kept, dtype=torch.float64).unbind(1)
    shapes = torch.stack([d, -d * (d.log() if logarithmic else d)], dim=1)
    found = torch.linalg.lstsq(shapes, gain[:, None]).solution[:, 0]
    residual = (shapes @ found - gain).square().mean().sqrt()
    return Law(float(found[0]), float(found[1]), logarithmic, float(residual))
