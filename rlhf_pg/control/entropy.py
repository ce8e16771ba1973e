"""Entropy as part of the reward.

The maximum-entropy objective E[sum r_t + temperature * H(pi(.|s_t))] needs no new learner: a reward
of -temperature * log pi(a_t|s_t) has exactly its gradient, as k1 in the reward has the KL's. Unlike
the bonus in the loss, it also favours states in which the policy's later entropy is high.
"""

import math
from dataclasses import replace
from typing import Any

from rlhf_pg.core.rollout import Rollout


class Temperature:
    """The weight of the entropy in the reward, tuned to keep the entropy near a `target` if given.

    log temperature += rate * (target - entropy), the error clamped to one nat: the dual ascent of
    Haarnoja et al. (2018, eq. 18). `value` 0 without a target leaves rewards unchanged. Raises
    ValueError for a negative value, or for a target with value 0.
    """

    def __init__(self, value: float, target: float | None = None, rate: float = 0.05) -> None:
        if value < 0 or (target is not None and value == 0):
            bound = "at least 0" if target is None else "above 0 to be tuned"
            raise ValueError(f"entropy_temperature must be {bound}, not {value}")
        self.value, self.target, self.rate = value, target, rate

    def shape(self, rollout: Rollout) -> Rollout:
        """The rollout with -temperature * log pi(a_t|s_t) added to its rewards."""
        if self.value == 0:
            return rollout
        return replace(rollout, rewards=rollout.rewards - self.value * rollout.logprobs)

    def update(self, entropy: float) -> None:
        """Move the temperature, given the policy's mean entropy in nats per action."""
        if self.target is not None:
            error = min(max(self.target - entropy, -1.0), 1.0)
            self.value *= math.exp(self.rate * error)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
