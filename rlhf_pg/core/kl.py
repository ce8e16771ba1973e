"""KL between policy and reference: estimators, the exact value, and the penalty's coefficient.

Samples come from the policy; k1, k2 and k3 estimate KL(policy || reference) per token, in nats
(Schulman 2020, "Approximating KL divergence"). As penalties they differ. The exact gradient of
KL(policy || reference) comes from **k1 in the reward** or from **k2 of the whole completion's
log-probability in the loss**; k2 per token ignores the effect of early tokens on later ones. k1 in
the loss has expected gradient zero. k3 in the loss has the gradient of KL(reference || policy), per
token at the policy's own prefixes; k3 in the reward has neither gradient. Hence k1 is the default,
and k3 and `categorical_kl` are used for logging.
"""

from typing import Any

import torch
from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log pi - log ref: unbiased. It is negative on some samples; do not clamp it."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log pi - log ref)^2 / 2: biased, but its gradient is exact for a whole completion."""
    return (logprobs - ref_logprobs) ** 2 / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """ref/pi - 1 - log(ref/pi): unbiased, never negative, low variance."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def categorical_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """The exact KL(policy || reference) over the last dimension, which it removes."""
    logp, ref = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    probs = logp.exp()
    # 0 * (-inf - x) counts as 0: an action that the policy never samples adds nothing.
    return torch.where(probs > 0, probs * (logp - ref), torch.zeros_like(probs)).sum(-1)


class FixedKL:
    """A constant coefficient. `coef` is usually 0.01 to 0.2; 0 removes the penalty."""

    def __init__(self, coef: float) -> None:
        self.coef = coef

    def update(self, kl: float, episodes: int) -> None:
        """Does nothing: the coefficient is constant."""

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.coef = state["coef"]


class AdaptiveKL(FixedKL):
    """A coefficient adapted to keep the KL of a completion near `target` nats.

    err = clip(kl/target - 1, -0.2, 0.2); coef *= 1 + err * episodes/horizon (Ziegler et al. 2019,
    eq. 4). Their values: coef 0.15, target 6, horizon 10,000 episodes.
    """

    def __init__(self, coef: float = 0.15, target: float = 6.0, horizon: float = 10_000) -> None:
        super().__init__(coef)
        if coef <= 0 or target <= 0 or horizon <= 0:
            raise ValueError(
                "AdaptiveKL needs coef, target and horizon above 0, "
                f"not {coef}, {target} and {horizon}"
            )
        self.target, self.horizon = target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Adapt to the mean KL of `episodes` completions (sum over tokens, mean over rows)."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon
