"""The functions a small trainer is made of; a bug replaces one of them.

Those in `RIGHT` are the library's own, or a line of a longer one that the docstring names, which
tests hold equal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from rlhf_pg.core import kl, losses, masked, returns


def mask_of_lengths(ids: Tensor, lengths: Tensor, pad: int) -> Tensor:
    """True on the real tokens (B, T) of rows with these lengths (B,), as in `sample`."""
    return torch.arange(ids.shape[1]) < lengths[:, None]


def score_on_last_token(scores: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B, T): the score (B,) of a row on its last real token, as in `language_rollout`."""
    last = (mask.sum(1) - 1).clamp(min=0)
    return scores[:, None] * one_hot(last, mask.shape[1])


def token_logprobs(logits: Tensor, temperature: float) -> Tensor:
    """log pi of every token, as in `LanguagePolicy.forward`."""
    return (logits / temperature).log_softmax(-1)


def position_ids(mask: Tensor) -> Tensor:
    """Positions (B, T) of left-padded tokens, as in `LanguagePolicy.forward`."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def next_values(following: Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
    """V(s_{t+1}), from the critic's values of the next observations, as in `Collector`."""
    return following * ~terminated


def real_steps(resetting: Tensor) -> Tensor:
    """False on steps that only reset the environment, as in `Collector`."""
    return ~resetting


def baseline(values: Tensor, next_values: Tensor) -> Tensor:
    """What is subtracted from the return of step t, (B, T): V(s_t), as in `gae`."""
    return values


def action(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """A Gaussian action that is a number, as sampled in `Normal`."""
    return (mean + std * noise).detach()


def target_value(following: Tensor) -> Tensor:
    """V(s_{t+1}) in the critic's target, as in `value_loss`."""
    return following.detach()


def left_gradient(last: Tensor) -> Tensor:
    """What is left of the last step's gradient, as after `zero_grad` in `Learner`."""
    return torch.zeros_like(last)


Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Functions:
    """What the learner and the settings call, by name."""

    mask: Function = mask_of_lengths
    place_score: Function = score_on_last_token
    token_logprobs: Function = token_logprobs
    position_ids: Function = position_ids
    k1: Function = kl.k1
    gae: Function = returns.gae
    whiten: Function = masked.whiten
    policy_loss: Function = losses.policy_gradient_loss
    clip_loss: Function = losses.ppo_clip_loss
    value_loss: Function = losses.value_loss
    next_values: Function = next_values
    real_steps: Function = real_steps
    baseline: Function = baseline
    action: Function = action
    target_value: Function = target_value
    left_gradient: Function = left_gradient


RIGHT = Functions()
