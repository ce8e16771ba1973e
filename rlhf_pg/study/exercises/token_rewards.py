"""Exercise: the rewards of tokens."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises import episodes
from rlhf_pg.study.exercises.checks import POISON, Case, Expectation, Function


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """-beta (log pi - log ref) on every real token, and the score on the last one besides.

    scores (B,) are those of whole completions. logprobs, ref_logprobs and mask are (B, T); mask is
    True on real tokens, which stand at the left of a row, EOS included. What stands elsewhere must
    not matter. Returns (B, T), 0 on padding.
    """
    rewards = torch.where(mask, -beta * (logprobs - ref_logprobs), 0.0)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return rewards


def score_on_the_pad(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """the score on the pad: one step after the last token (bug score-on-pad)"""
    rewards = torch.where(mask, -beta * (logprobs - ref_logprobs), 0.0)
    rewards[torch.arange(len(scores)), mask.sum(1).clamp(max=mask.shape[1] - 1)] += scores
    return rewards


def score_in_the_last_column(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """the score in the last column, which is padding in shorter rows"""
    rewards = torch.where(mask, -beta * (logprobs - ref_logprobs), 0.0)
    rewards[:, -1] += scores
    return rewards


def sign_turned(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """the KL is added instead of subtracted: leaving the reference is rewarded (bug kl-sign)"""
    rewards = torch.where(mask, beta * (logprobs - ref_logprobs), 0.0)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return rewards


def kl_on_padding(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """padding has a KL penalty"""
    rewards = -beta * (logprobs - ref_logprobs)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return rewards


def score_on_every_token(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """the score on every token, so a longer completion gets it more often"""
    return torch.where(mask, scores[:, None] - beta * (logprobs - ref_logprobs), 0.0)


def kl_on_the_last_token(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """the whole KL on the last token: unbiased, but an early token pays for later ones"""
    rewards = torch.zeros_like(logprobs)
    kl = torch.where(mask, logprobs - ref_logprobs, 0.0).sum(1)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores - beta * kl
    return rewards


def clamped(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """log pi - log ref is clamped at 0"""
    rewards = torch.where(mask, -beta * (logprobs - ref_logprobs).clamp(min=0), 0.0)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return rewards


def kl_missing(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """the KL penalty is missing"""
    rewards = torch.zeros_like(logprobs)
    rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
    return rewards


BETA = 0.5


def _gradient(function: Function) -> tuple[Tensor, Tensor]:
    """By REINFORCE with these rewards, beside that of E[score] - beta KL."""
    every = episodes.every_episode()
    logp, ref = (episodes.logprobs(x) for x in (every.logits, every.ref_logits))
    rewards = function(every.scores.clone(), logp.clone(), -ref.abs(), every.mask.clone(), BETA)
    if rewards.shape != every.mask.shape:
        raise ValueError(f"shape {tuple(every.mask.shape)} expected, not {tuple(rewards.shape)}")
    rewards = torch.where(every.mask, rewards, 0.0)
    to_go = rewards.sum(1, keepdim=True) - rewards.cumsum(1) + rewards

    def objective(logits: Tensor) -> Tensor:
        ratio = torch.where(every.mask, episodes.logprobs(logits) - ref, 0.0)
        return every.scores - BETA * ratio.sum(1)

    return episodes.gradient_of_weights(to_go), episodes.truth(objective)


WRONG = [
    score_on_the_pad, score_in_the_last_column, sign_turned, kl_on_padding, score_on_every_token,
    kl_on_the_last_token, clamped, kl_missing,
]  # fmt: skip
CHECKS = [
    Case(
        "one completion by hand",
        ([2], [[-1, -2, -3]], [[-1.5, -2, -2]], [[True, True, True]], 0.1),
        [[-0.05, 0, 2.1]],
    ),
    Case(
        "two completions, padding of one million",
        (
            [2, 3],
            [[-1, -2, -3], [-1, POISON, POISON]],
            [[-1.5, -2, -2], [-2, -POISON, -POISON]],
            [[True, True, True], [True, False, False]],
            0.1,
        ),
        [[-0.05, 0, 2.1], [2.9, 0, 0]],
    ),
    Expectation("expected gradient of E[score] - beta KL over 15 completions", _gradient),
]
