"""Exercise: TD errors and generalised advantage estimates."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises import episodes
from rlhf_pg.study.exercises.checks import Case, Expectation, Function


def gae(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """A_t = delta_t + gamma lam A_{t+1}, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    All tensors are (B, T). next_values holds V(s_{t+1}), which is 0 after a terminal step already.
    ends is 1 on the last step of an episode, where the sum is cut. Returns (B, T).
    """
    delta = rewards + gamma * next_values - values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * lam * (1 - ends[:, t]) * following
        advantages[:, t] = following
    return advantages


def lambda_ignored(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """lambda is ignored, so that every lambda acts as 1"""
    delta = rewards + gamma * next_values - values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * (1 - ends[:, t]) * following
        advantages[:, t] = following
    return advantages


def gamma_left_out_of_the_sum(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """the sum decays by lambda alone instead of gamma times lambda"""
    delta = rewards + gamma * next_values - values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + lam * (1 - ends[:, t]) * following
        advantages[:, t] = following
    return advantages


def not_cut(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """the sum is not cut where an episode ends"""
    delta = rewards + gamma * next_values - values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * lam * following
        advantages[:, t] = following
    return advantages


def truncation_as_end(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """the next value is dropped at every end, so a truncated episode counts as a terminated one"""
    delta = rewards + gamma * (1 - ends) * next_values - values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * lam * (1 - ends[:, t]) * following
        advantages[:, t] = following
    return advantages


def td_error_alone(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """the one-step TD error, without the later ones"""
    return rewards + gamma * next_values - values


def without_values(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """V(s_t) is not subtracted"""
    delta = rewards + gamma * next_values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * lam * (1 - ends[:, t]) * following
        advantages[:, t] = following
    return advantages


def without_next_values(
    rewards: Tensor, values: Tensor, next_values: Tensor, ends: Tensor, gamma: float, lam: float
) -> Tensor:
    """V(s_{t+1}) is left out of the TD error"""
    delta = rewards - values
    advantages, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * lam * (1 - ends[:, t]) * following
        advantages[:, t] = following
    return advantages


def _gradient(function: Function, v: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """With the critic v (7,)."""
    every = episodes.every_episode()
    rewards, values = (torch.where(every.mask, x, 0.0) for x in (every.rewards, v[every.states]))
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    advantages = function(rewards, values, following, every.ends.clone(), 1.0, lam)
    return episodes.gradient_of_weights(advantages), episodes.truth(lambda _: every.scores)


def _wrong_critic(function: Function) -> tuple[Tensor, Tensor]:
    return _gradient(function, torch.arange(7).double(), 1.0)


def _true_critic(function: Function) -> tuple[Tensor, Tensor]:
    return _gradient(function, episodes.values(), 0.0)


WRONG = [
    lambda_ignored, gamma_left_out_of_the_sum, not_cut, truncation_as_end, td_error_alone,
    without_values, without_next_values,
]  # fmt: skip
R, V, NEXT = [[0, 0, 1, 0, -0.5]], [[1, 4, -3, -2, -1]], [[4, -3, -2, -1, -1]]
NEVER = [[0, 0, 0, 0, 0]]
CHECKS = [
    Case("TD errors, lambda 0", ([[1, 2]], [[0.5, 1.5]], [[1.5, 0]], [[0, 1]], 0.9, 0.0),
         [[1.85, 0.5]]),
    Case("delta = (1, .5, -.2), gamma .9, lambda 1",
         ([[1, 0.5, -0.2]], [[0, 0, 0]], [[0, 0, 0]], [[0, 0, 1]], 0.9, 1.0),
         [[1.288, 0.32, -0.2]]),
    Case("five steps, gamma .99, lambda 1", (R, V, NEXT, NEVER, 0.99, 1.0),
         [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49]]),
    Case("five steps, gamma .99, lambda .7", (R, V, NEXT, NEVER, 0.99, 0.7),
         [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49]]),
    Case("a terminal step, and a truncation with V = 7",
         ([[1, 2, 3, 4]], [[0.5, 1, 1.5, 2]], [[1, 0, 2, 7]], [[0, 1, 0, 1]], 0.5, 0.5),
         [[1.25, 1, 3.875, 5.5]]),
    Expectation("expected gradient: any critic, lambda 1", _wrong_critic),
    Expectation("expected gradient: the true V, lambda 0", _true_critic),
]  # fmt: skip
