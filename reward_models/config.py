"""Options of reward-model training. Imports neither torch nor transformers."""

import math
from dataclasses import dataclass, field, fields
from typing import get_args

from reward_models import RewardError


@dataclass
class PreferenceConfig:
    """How a reward model is trained on preference pairs."""

    lr: float | None = field(default=None, metadata={"at_least": 0})
    """AdamW's peak learning rate, annealed linearly to 0. Defaults to 1e-3 for a tiny model (under
    20 million parameters) or a frozen trunk, 2e-4 for LoRA, 1e-5 for all weights of a larger
    model."""
    batch_size: int = field(default=32, metadata={"at_least": 1})
    """Pairs per gradient step, usually 16 to 64."""
    micro_rows: int | None = field(default=None, metadata={"at_least": 2})
    """Maximum texts per forward pass (a pair has two), to limit memory; the gradient is the same.
    Defaults to all."""
    steps: int | None = field(default=None, metadata={"at_least": 1})
    """Gradient steps, usually 200 to 2,000. Defaults to one pass over the pairs, or to 300 steps if
    a pass has fewer, but to no more than 10 passes."""
    epochs: int | None = field(default=None, metadata={"at_least": 1, "at_most": 1000})
    """Passes over the pairs, in place of `steps`."""
    evaluate_every: int | None = field(default=None, metadata={"at_least": 0})
    """Steps between measurements of the held-out loss; the weights of the least one are kept.
    Defaults to a tenth of the steps; 0 measures none and keeps the last weights."""
    patience: int = field(default=5, metadata={"at_least": 1})
    """Stop after so many measurements without a lower held-out loss, usually 3 to 10."""
    margin: float = field(default=0.0, metadata={"at_least": 0})
    """Score difference required of every pair, usually 0 to 1; a column `margin` overrides it."""
    centring: float = field(default=0.0, metadata={"at_least": 0})
    """Weight of (r_chosen + r_rejected)^2, which fixes the free offset, usually 0 to 0.01."""
    length_penalty: float = field(default=0.0, metadata={"at_least": 0})
    """Weight of the squared correlation between the score and length differences of the pairs of a
    forward pass, usually 0 to 3; it keeps the score from following the length."""
    weight_decay: float = field(default=0.0, metadata={"at_least": 0})
    """AdamW's weight decay, usually 0 to 0.1."""
    max_grad_norm: float = field(default=1.0, metadata={"at_least": 0})
    """Largest gradient norm; larger gradients are scaled down to it, usually 1; 0 does not."""
    held_out: float = field(default=0.1, metadata={"at_least": 0, "below": 1})
    """Share of the pairs held out for testing if no test pairs are given, usually 0.05 to 0.2.
    Pairs that share a prompt or a completion stay on one side."""
    seed: int = field(default=0, metadata={"at_least": 0})
    """Random seed of the split, the order of the batches and dropout."""

    def __post_init__(self) -> None:
        """Raise RewardError if an option is not finite, not whole or not in its field's range."""
        for item in fields(self):
            value, limits = getattr(self, item.name), item.metadata
            kinds = get_args(item.type) or (item.type,)
            if value is None and type(None) in kinds:
                continue
            whole = int in kinds
            if not isinstance(value, int if whole else int | float) or isinstance(value, bool):
                wanted = "a whole number" if whole else "a number"
                raise RewardError(f"{item.name} must be {wanted}, not {value!r}")
            low, below = limits["at_least"], limits.get("below", math.inf)
            if not (low <= value < below and value <= limits.get("at_most", math.inf)):  # or NaN
                text = " and ".join(f"{name.replace('_', ' ')} {x}" for name, x in limits.items())
                raise RewardError(f"{item.name} must be {text}, not {value}")
        if self.steps is not None and self.epochs is not None:
            raise RewardError("steps and epochs both set the length of training; give one of them")
