"""Advantages and value targets of a rollout, as a LearnerConfig defines them."""

from typing import get_args

from torch import Tensor

from rlhf_pg.core import baselines, returns
from rlhf_pg.core.algorithms import Baseline, LearnerConfig
from rlhf_pg.core.masked import Reduce, alone, masked_mean, masked_var, whiten, zero_padding
from rlhf_pg.core.rollout import Rollout


def estimate_advantages(
    rollout: Rollout, config: LearnerConfig, constant: float = 0.0, reduce: Reduce = alone
) -> tuple[Tensor, Tensor]:
    """Advantages and value targets, each (B, T), detached, 0 on padding.

    With a critic: GAE, or n-step returns minus V. Without: rewards-to-go minus a number (zero, the
    batch's mean score, or `constant`, the learner's moving average) or, if K samples of a prompt
    are compared, the score of the whole episode. Targets are computed before any whitening. A row
    without any real step has no score, and is left out of every mean and deviation.
    """
    mask = rollout.mask.bool()
    rewards = zero_padding(rollout.rewards.detach(), mask)
    # A step before padding ends its row too, so that n-step returns bootstrap there.
    ends = returns.with_row_ends(rollout.ends, mask)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, reduce=reduce)

    if config.baseline == "critic":
        values = zero_padding(rollout.values.detach(), mask)
        next_values = zero_padding(rollout.next_values.detach(), mask)
        if config.n_steps is not None:
            bootstrapped = returns.n_step_returns(
                rewards, next_values, ends, config.gamma, config.n_steps
            )
            advantages = bootstrapped - values
        else:
            advantages = returns.gae(rewards, values, next_values, ends, config.gamma, config.lam)
        targets = advantages + values
    else:
        targets = returns.rewards_to_go(rewards, ends, config.gamma)
        advantages = _without_critic(targets, rollout, config.baseline, constant, reduce)

    advantages = zero_padding(advantages, mask)
    if config.divide_by_batch_std:
        scores = returns.rewards_to_go(rewards, ends, config.gamma)[:, 0]
        spread = masked_var(scores, mask.any(1), reduce).sqrt()
        advantages = advantages / (spread + 1e-4)
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, reduce=reduce)
    return advantages, zero_padding(targets, mask)


def _without_critic(
    to_go: Tensor, rollout: Rollout, baseline: Baseline, constant: float, reduce: Reduce
) -> Tensor:
    """Advantages (B, T) from rewards-to-go (B, T), whose first column is each row's score."""
    scores = to_go[:, 0].reshape(-1, rollout.group_size)  # (N, K)
    scored = rollout.mask.bool().any(1).reshape(scores.shape)
    if baseline == "none":
        return to_go
    if baseline in ("moving-average", "optimal"):
        return to_go - constant
    if baseline == "batch-mean":
        return to_go - masked_mean(scores, scored, reduce)
    if baseline == "leave-one-out":
        compared = baselines.leave_one_out(scores, scored)
    elif baseline in ("group", "group-centred"):
        compared = baselines.group_normalise(scores, baseline == "group", scored=scored)
    else:
        raise ValueError(f"unknown baseline {baseline!r}: use one of {get_args(Baseline)}")
    return compared.reshape(-1, 1).expand_as(to_go)
