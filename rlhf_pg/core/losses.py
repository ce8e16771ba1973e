"""Loss functions. Every tensor is (B, T) and every loss a scalar.

Padding may hold anything, so it is replaced by zero before any computation: an infinity that is
masked only afterwards still makes the gradient NaN.

`reduction` sets the denominator of the sum, and so the objective:
"episode"   sum over steps, mean over rows: the exact policy gradient;
"token"     mean over all real steps. The denominator depends on the lengths, which the policy
            itself chose: a biased gradient, usual for PPO;
"constant"  sum / (B * T): the exact gradient times 1/T, whatever the lengths;
"row"       mean over a row's steps, then over rows, as in the papers of GRPO and GSPO: a biased
            gradient, in which an episode weighs 1/length.
A row without any real step counts in no denominator.
"""

from typing import get_args

import torch
from torch import Tensor

from rlhf_pg.core.algorithms import LearnerConfig, RatioLevel, Reduction
from rlhf_pg.core.masked import masked_mean, zero_padding

__all__ = [
    "Reduction",
    "aggregate",
    "denominator",
    "entropy_loss",
    "importance_ratio",
    "policy_gradient_loss",
    "policy_loss",
    "ppo_clip_loss",
    "value_loss",
]


def denominator(mask: Tensor, reduction: Reduction) -> Tensor:
    """The denominator of a sum over the real entries, a scalar; it adds over parts of a batch."""
    if reduction == "token":
        return mask.sum().float()
    rows = mask.bool().any(1).sum().float()
    if reduction in ("episode", "row"):
        return rows
    if reduction == "constant":
        return rows * mask.shape[1]
    raise ValueError(f"unknown reduction {reduction!r}: use one of {get_args(Reduction)}")


def aggregate(x: Tensor, mask: Tensor, reduction: Reduction) -> Tensor:
    """The sum of the real entries of `x` over `denominator(mask, reduction)`."""
    x = zero_padding(x, mask)
    if reduction == "row":
        x = x / mask.sum(1, keepdim=True).clamp(min=1)
    return x.sum() / denominator(mask, reduction).clamp(min=1)


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
    *,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    ratio: RatioLevel = "token",
    clip_weights: bool = False,
) -> Tensor:
    """max(-A * ratio, -A * clip(ratio, 1-clip, 1+clip)), ratio = pi/pi_old (Schulman et al. 2017).

    At ratio 1 its gradient is that of `policy_gradient_loss`. Elsewhere it is biased twice: by
    clipping, on purpose, and because a step's ratio ignores how the probabilities of the other
    steps of its episode changed. `clip` is usually 0.1 to 0.3. Variants, each the same at ratio 1:

    clip_high     1 + clip_high is the upper limit (DAPO's clip-higher, Yu et al. 2025)
    dual_clip     c > 1: where A < 0, at most -c * A (dual clip, Ye et al. 2020)
    ratio         "sequence": one for all steps of a row (see `importance_ratio`; GSPO)
    clip_weights  -clip(ratio) * A * log pi, the clipped ratio a constant: every token keeps a
                  gradient (CISPO, MiniMax-M1 2025; a clip of 1 is no lower limit)
    """
    ratios = importance_ratio(logprobs, old_logprobs, mask, ratio)
    advantages = zero_padding(advantages.detach(), mask)
    clipped = ratios.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    if clip_weights:
        weighted = -clipped.detach() * advantages * zero_padding(logprobs, mask)
        return aggregate(weighted, mask, reduction)
    terms = torch.maximum(-advantages * ratios, -advantages * clipped)
    if dual_clip is not None:
        terms = torch.where(advantages < 0, terms.minimum(-dual_clip * advantages), terms)
    return aggregate(terms, mask, reduction)


def importance_ratio(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: RatioLevel = "token"
) -> Tensor:
    """pi/pi_old of every step (B, T), 1 on padding.

    At level "sequence" it is exp of the mean of log pi - log pi_old over the steps of the row, with
    the gradient of the step's own log pi: GSPO-token, which is GSPO where a row has one advantage
    (Zheng et al. 2025, arXiv 2507.18071).
    """
    log_ratio = zero_padding(logprobs - old_logprobs, mask)
    if level == "sequence":
        mean = log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        own = zero_padding(logprobs, mask)
        log_ratio = zero_padding(mean.detach() + own - own.detach(), mask)
    return log_ratio.exp()


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    config: LearnerConfig,
) -> Tensor:
    """The loss that a configuration asks for: PPO's, or a variant, if it clips."""
    if config.clip is None:
        return policy_gradient_loss(logprobs, advantages, mask, config.reduction)
    return ppo_clip_loss(
        logprobs,
        old_logprobs,
        advantages,
        mask,
        config.clip,
        config.reduction,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
        ratio=config.ratio,
        clip_weights=config.clip_weights,
    )


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
