"""Options of reward-model training. Imports neither torch nor transformers."""

import math
from dataclasses import dataclass, field, fields

from reward_models import RewardError


@dataclass
class PreferenceConfig:
    """How a reward model is trained on preference pairs."""

    lr: float = field(default=1e-3, metadata={"at_least": 0})
    """AdamW's peak learning rate, annealed linearly to 0; 1e-5 (large LMs) to 1e-3 (tiny ones)."""
    batch_size: int = field(default=32, metadata={"at_least": 1})
    """Pairs per gradient step, usually 16 to 64."""
    epochs: int = field(default=1, metadata={"at_least": 1, "at_most": 1000})
    """Passes over the pairs, usually 1: a second one overfits."""
    margin: float = field(default=0.0, metadata={"at_least": 0})
    """Score difference required of every pair, usually 0 to 1; a column `margin` overrides it."""
    centring: float = field(default=0.0, metadata={"at_least": 0})
    """Weight of (r_chosen + r_rejected)^2, which fixes the free offset, usually 0 to 0.01."""
    weight_decay: float = field(default=0.0, metadata={"at_least": 0})
    """AdamW's weight decay, usually 0 to 0.1."""
    max_grad_norm: float = field(default=1.0, metadata={"at_least": 0})
    """Largest gradient norm; larger gradients are scaled down to it, usually 1; 0 does not."""
    held_out: float = field(default=0.1, metadata={"at_least": 0, "below": 1})
    """Share of the pairs held out for testing if no test pairs are given, usually 0.05 to 0.2."""
    seed: int = field(default=0, metadata={"at_least": 0})
    """Random seed of the split, the order of the batches and dropout."""

    def __post_init__(self) -> None:
        """Raise RewardError if an option is not finite, not whole or not in its field's range."""
        for item in fields(self):
            value, limits = getattr(self, item.name), item.metadata
            whole = item.type is int
            if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
                wanted = "a whole number" if whole else "a number"
                raise RewardError(f"{item.name} must be {wanted}, not {value!r}")
            low, below = limits["at_least"], limits.get("below", math.inf)
            if not (low <= value < below and value <= limits.get("at_most", math.inf)):  # or NaN
                text = " and ".join(f"{name.replace('_', ' ')} {x}" for name, x in limits.items())
                raise RewardError(f"{item.name} must be {text}, not {value}")
