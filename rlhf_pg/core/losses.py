"""Loss functions. Every tensor is (B, T) and every loss a scalar.

Padding may hold anything, so it is replaced by zero before any computation: an infinity that is
masked only afterwards still makes the gradient NaN.

`reduction` sets the denominator of the sum, and so the objective:
"episode"   sum over steps, mean over rows: the exact policy gradient;
"token"     mean over all real steps. The denominator depends on the lengths, which the policy
            itself chose: a biased gradient, usual for PPO;
"constant"  sum / (B * T): the exact gradient times 1/T, whatever the lengths.
A row without any real step counts in no denominator.
"""

import torch
from torch import Tensor

from rlhf_pg.core.algorithms import Reduction
from rlhf_pg.core.masked import masked_mean, zero_padding

__all__ = [
    "Reduction",
    "aggregate",
    "denominator",
    "entropy_loss",
    "policy_gradient_loss",
    "ppo_clip_loss",
    "value_loss",
]


def denominator(mask: Tensor, reduction: Reduction) -> Tensor:
    """The denominator of a sum over the real entries, a scalar; it adds over parts of a batch."""
    if reduction == "token":
        return mask.sum().float()
    rows = mask.bool().any(1).sum().float()
    if reduction == "episode":
        return rows
    if reduction == "constant":
        return rows * mask.shape[1]
    raise ValueError(f"unknown reduction {reduction!r}: use 'episode', 'token' or 'constant'")


def aggregate(x: Tensor, mask: Tensor, reduction: Reduction) -> Tensor:
    """The sum of the real entries of `x` over `denominator(mask, reduction)`."""
    return zero_padding(x, mask).sum() / denominator(mask, reduction).clamp(min=1)


def policy_gradient_loss(
    logprobs: Tensor, advantages: Tensor, mask: Tensor, reduction: Reduction = "episode"
) -> Tensor:
    """-log pi(a_t|s_t) * A_t, whose gradient is REINFORCE's (Williams 1992)."""
    advantages = zero_padding(advantages.detach(), mask)
    return aggregate(-zero_padding(logprobs, mask) * advantages, mask, reduction)


def ppo_clip_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float = 0.2,
    reduction: Reduction = "token",
) -> Tensor:
    """max(-A * ratio, -A * clip(ratio, 1-clip, 1+clip)), ratio = pi/pi_old (Schulman et al. 2017).

    At ratio 1 its gradient is that of `policy_gradient_loss`. Elsewhere it is biased twice: by
    clipping, on purpose, and because a step's ratio ignores how the probabilities of the other
    steps of its episode changed. `clip` is usually 0.1 to 0.3.
    """
    ratio = zero_padding(logprobs - old_logprobs, mask).exp()
    advantages = zero_padding(advantages.detach(), mask)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return aggregate(torch.maximum(-advantages * ratio, -advantages * clipped), mask, reduction)


def value_loss(
    values: Tensor,
    targets: Tensor,
    mask: Tensor,
    old_values: Tensor | None = None,
    clip: float | None = None,
) -> Tensor:
    """Half the mean squared error of the critic over real steps.

    With `old_values` and `clip`, the larger of that and the error of the value clipped to within
    `clip` of the old one (Schulman et al. 2017, reference code).
    """
    values, targets = zero_padding(values, mask), zero_padding(targets.detach(), mask)
    error = (values - targets) ** 2
    if old_values is not None and clip is not None:
        old = zero_padding(old_values.detach(), mask)
        held = old + (values - old).clamp(-clip, clip)
        error = torch.maximum(error, (held - targets) ** 2)
    return 0.5 * masked_mean(error, mask)


def entropy_loss(entropies: Tensor, mask: Tensor) -> Tensor:
    """Minus the mean entropy of the policy over real steps, in nats (Williams & Peng 1991).

    Its gradient is that of the entropy at the visited states, not of the entropy of episodes, which
    also depends on which states the policy reaches.
    """
    return -masked_mean(entropies, mask)
