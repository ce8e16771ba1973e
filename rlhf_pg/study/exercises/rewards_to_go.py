"""Exercise: rewards-to-go."""

import torch
from torch import Tensor

from rlhf_pg.study.exercises import episodes
from rlhf_pg.study.exercises.checks import Case, Expectation, Function


def rewards_to_go(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1}: the return from step t on, which action t can still change.

    rewards (B, T); ends (B, T) is 1 on the last step of an episode, where the sum is cut, and 0
    elsewhere. A row may hold several episodes. Returns (B, T).
    """
    returns, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + gamma * (1 - ends[:, t]) * following
        returns[:, t] = following
    return returns


def whole_return(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """every step has the whole return of its episode"""
    to_go = torch.zeros_like(rewards)
    following, first = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + gamma * (1 - ends[:, t]) * following
        to_go[:, t] = following
    for t in range(rewards.shape[1]):
        starts = ends[:, t - 1] if t else torch.ones_like(ends[:, 0])
        first[:, t] = torch.where(starts.bool(), to_go[:, t], first[:, t - 1])
    return first


def not_cut(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """the sum is not cut where an episode ends"""
    returns, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + gamma * following
        returns[:, t] = following
    return returns


def not_discounted(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """gamma is ignored"""
    returns, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + (1 - ends[:, t]) * following
        returns[:, t] = following
    return returns


def past_rewards(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """the sum runs over past rewards instead of later ones"""
    returns, so_far = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1]):
        goes_on = 1 - ends[:, t - 1] if t else torch.zeros_like(so_far)
        so_far = rewards[:, t] + gamma * goes_on * so_far
        returns[:, t] = so_far
    return returns


def later_rewards_alone(rewards: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """the reward of the step itself is left out"""
    returns, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        returns[:, t] = gamma * (1 - ends[:, t]) * following
        following = rewards[:, t] + returns[:, t]
    return returns


def _gradient(function: Function) -> tuple[Tensor, Tensor]:
    every = episodes.every_episode()
    rewards = torch.where(every.mask, every.rewards, 0.0)
    returns = function(rewards, every.ends.clone(), 1.0)
    return episodes.gradient_of_weights(returns), episodes.truth(lambda _: every.scores)


WRONG = [whole_return, not_cut, not_discounted, past_rewards, later_rewards_alone]
CHECKS = [
    Case("one episode by hand", ([[1, 2, 3]], [[0, 0, 1]], 0.5), [[2.75, 3.5, 3]]),
    Case("two episodes in a row", ([[1, 2, 3, 4]], [[0, 1, 0, 1]], 0.5), [[2, 2, 5, 4]]),
    Case(
        "two rows, the second without an end",
        ([[1, 2], [3, 4]], [[1, 1], [0, 0]], 0.9),
        [[1, 2], [6.6, 4]],
    ),
    Expectation("expected gradient over 15 completions, gamma 1", _gradient),
]
