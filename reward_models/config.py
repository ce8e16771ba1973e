"""Options of reward-model training. Imports neither torch nor transformers."""

from dataclasses import dataclass

from reward_models import RewardError


@dataclass
class PreferenceConfig:
    """How a reward model is trained on preference pairs."""

    lr: float = 1e-3
    """AdamW's peak learning rate, annealed linearly to 0; 1e-5 (large LMs) to 1e-3 (tiny ones)."""
    batch_size: int = 32
    """Pairs per gradient step, usually 16 to 64."""
    epochs: int = 1
    """Passes over the pairs, usually 1: a second one overfits."""
    margin: float = 0.0
    """Score difference required of every pair, usually 0 to 1; a column `margin` overrides it."""
    centring: float = 0.0
    """Weight of (r_chosen + r_rejected)^2, which fixes the free offset, usually 0 to 0.01."""
    weight_decay: float = 0.0
    """AdamW's weight decay, usually 0 to 0.1."""
    max_grad_norm: float = 1.0
    """Largest gradient norm; larger gradients are scaled down to it, usually 1."""
    held_out: float = 0.1
    """Share of the pairs held out for testing if no test pairs are given, usually 0.05 to 0.2."""
    seed: int = 0
    """Random seed of the split, the order of the batches and dropout."""

    def __post_init__(self) -> None:
        """Raise RewardError if an option is out of range."""
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise RewardError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.held_out < 1:
            raise RewardError(f"held_out must be at least 0 and below 1, not {self.held_out}")
