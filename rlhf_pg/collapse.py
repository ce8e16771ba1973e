"""A warning when the entropy of a policy collapses early in training, for text and control."""

import math
from typing import Any


class CollapseMonitor:
    """Warns once, in the first half of training, when the policy has almost stopped exploring.

    For discrete actions, when the entropy falls below a tenth of its first value; for real-valued
    ones, whose entropy has no zero, when it falls by log 10 per dimension, that is, when standard
    deviations are a tenth of their first value. `remedy` names the options to change.
    """

    def __init__(self, dimensions: int | None, remedy: str) -> None:
        self.dimensions = dimensions  # of real-valued actions; None for discrete ones
        self.remedy = remedy
        self.start: float | None = None
        self.warned = False

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.warned = state["start"], state["warned"]

    def check(self, entropy: float, fraction: float) -> str | None:
        """The warning, if it is due now; `fraction` of training is done, 0 to 1."""
        if self.start is None:
            self.start = entropy
        if self.dimensions is None:
            floor = self.start / 10
        else:
            floor = self.start - self.dimensions * math.log(10)
        if self.warned or fraction > 0.5 or entropy >= floor:
            return None
        self.warned = True
        return (
            f"entropy collapsed early: {entropy:.3g} nats from {self.start:.3g} after "
            f"{fraction:.0%} of training; {self.remedy}"
        )
