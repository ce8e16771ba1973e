"""Bugs of the advantages and the loss; PPO on CartPole can have all of them."""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.masked import masked_mean, masked_var, zero_padding
from rlhf_pg.core.returns import discounted_sum, td_errors
from rlhf_pg.study.bugs.bug import Bug
from rlhf_pg.study.bugs.small_network import SmallNetwork, model_of_task
from rlhf_pg.study.bugs.small_text import PLAIN, SmallText

WHITENED = replace(PLAIN, baseline="none", whiten_advantages=True)
OF_64, PAIRS = SmallText(WHITENED, batch=64), SmallText(WHITENED, batch=2)
WIDE, LARGE = replace(OF_64, columns=24), replace(OF_64, scale=10.0)
SGD = replace(LARGE, config=replace(WHITENED, lr=2.0), sgd=True)
HALF_LAMBDA = SmallText(algorithm("a2c", lam=0.5, lr=0.1, max_grad_norm=0.0, value_coef=1.0))
WHOLE_ROW = SmallNetwork(model_of_task, columns=12, centred=True, on_padding=True)


def whiten_with_padding(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """The mean and variance of the advantages include the padding, as by x.mean().

    In a batch of some size, subtracting and dividing by the same two numbers leaves the direction
    as it is. But padding pulls the mean to 0: advantages are not centred, and the noise grows.
    """
    mean, var = x.mean(), x.var(correction=0)
    whitened = (x - mean) * torch.rsqrt(var + 1e-8)
    return whitened if shift_mean else whitened + mean


def whiten_by_multiplying(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Advantages are multiplied by their deviation instead of divided, as by torchtune's whiten.

    One factor for the whole batch: the direction stays (in pairs it is even better than with the
    right code), and Adam undoes the length. Without Adam, steps grow with the square of the scores.
    """
    mean, var = masked_mean(x, mask), masked_var(x, mask)
    whitened = (x - mean) * torch.sqrt(var + 1e-8)
    return zero_padding(whitened if shift_mean else whitened + mean, mask)


def gae_without_lambda(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """GAE's recursion decays by gamma alone, so that every lambda acts as 1.

    No bias: lambda 1 is unbiased for any critic, and with a wrong critic it is the right code that
    is biased. The smaller variance of a smaller lambda is lost.
    """
    delta = td_errors(rewards, values, next_values, gamma)
    return discounted_sum(delta, gamma * (1 - ends.to(rewards.dtype)))


def loss_of_all_entries(
    logprobs: Tensor, advantages: Tensor, mask: Tensor, reduction: str
) -> Tensor:
    """The loss is a mean over all entries of the batch, padding included.

    If advantages are 0 on padding, only the gradient's length changes. If a row's one advantage
    stands on its padding too, most of the gradient is about what to write after the end, and what
    comes before it is learned wrongly.
    """
    return (-logprobs * advantages.detach()).mean()


def clip_loss_of_all_entries(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float, reduction: str
) -> Tensor:
    """The same bug in PPO's loss."""
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantages * ratio, -advantages * clipped).mean()


BUGS = [
    Bug(
        "unmasked-whitening",
        {"whiten": whiten_with_padding},
        effect="right direction, more noise",
        gradients={
            "64 completions, nine tenths padding": WIDE,
            "64 completions, little padding": OF_64,
            "every batch of 2": PAIRS,
        },
        curves={"64 completions, nine tenths padding": WIDE},
        in_control=True,
    ),
    Bug(
        "inverted-whitening",
        {"whiten": whiten_by_multiplying},
        effect="right direction, wrong length",
        gradients={
            "64 completions, scores ten times as large": LARGE,
            "64 completions": OF_64,
            "every batch of 2": PAIRS,
        },
        curves={"Adam": OF_64, "plain gradient ascent, scores ten times as large": SGD},
        in_control=True,
    ),
    Bug(
        "lambda-ignored",
        {"gae": gae_without_lambda},
        effect="no bias, more noise",
        gradients={
            "lambda 0.5, critic zero": HALF_LAMBDA,
            "lambda 0.5, critic wrong": replace(HALF_LAMBDA, critic="wrong"),
            "lambda 0.5, critic true": replace(HALF_LAMBDA, critic="true"),
        },
        curves={"lambda 0.5, a critic that learns": HALF_LAMBDA},
        in_control=True,
    ),
    Bug(
        "mask-dropped",
        {"policy_loss": loss_of_all_entries, "clip_loss": clip_loss_of_all_entries},
        effect="padding is trained on",
        gradients={
            "one advantage for the whole row, padding included": WHOLE_ROW,
            "advantages are 0 on padding": replace(WHOLE_ROW, on_padding=False),
        },
        curves={"one advantage for the whole row, padding included": WHOLE_ROW},
        in_control=True,
    ),
]
