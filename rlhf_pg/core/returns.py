"""Discounted sums: rewards-to-go, TD errors, GAE, n-step returns.

Every tensor is (B, T). `next_values[t]` is V(s_{t+1}): 0 after a terminal step, the value of the
final observation after a truncation or at the end of a segment. `ends[t]` is 1 on the last step of
an episode and cuts the recursion, so that nothing after it, padding included, has any effect.
`gamma` and `lam` are numbers, or (B, T) tensors of them. Integers are computed as floats.
"""

import torch
from torch import Tensor

Discount = float | Tensor


def discounted_sum(x: Tensor, decay: Discount) -> Tensor:
    """y_t = x_t + decay_t * y_{t+1}, with y_T = 0 beyond the last column.

    Nothing passes a decay of 0, not even an infinity.
    """
    x = x.to(torch.result_type(x, 1.0))
    decays = torch.as_tensor(decay, dtype=x.dtype, device=x.device).expand_as(x)
    passing = decays != 0
    columns: list[Tensor] = []
    y = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1] - 1, -1, -1):
        y = x[:, t] + torch.where(passing[:, t], decays[:, t] * y, 0.0)
        columns.append(y)
    return torch.stack(columns[::-1], dim=1)


def rewards_to_go(rewards: Tensor, ends: Tensor, gamma: Discount) -> Tensor:
    """G_t = r_t + gamma * G_{t+1} within an episode: the return that a_t can still influence."""
    return discounted_sum(rewards, gamma * (1 - ends.to(rewards.dtype)))


def td_errors(rewards: Tensor, values: Tensor, next_values: Tensor, gamma: Discount) -> Tensor:
    """delta_t = r_t + gamma * V(s_{t+1}) - V(s_t) (Sutton 1988)."""
    return rewards + gamma * next_values - values


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ends: Tensor,
    gamma: Discount,
    lam: Discount,
) -> Tensor:
    """Generalised advantage estimate: A_t = delta_t + gamma * lam * A_{t+1}.

    lam=0 is the one-step TD error; lam=1 is the return minus V(s_t), an unbiased gradient for any
    critic. Between them, a wrong critic biases the gradient (Schulman et al. 2016, eq. 16).
    """
    delta = td_errors(rewards, values, next_values, gamma)
    return discounted_sum(delta, gamma * lam * (1 - ends.to(rewards.dtype)))


def with_row_ends(ends: Tensor, mask: Tensor) -> Tensor:
    """`ends` as booleans, True also on steps before padding and in the last column."""
    followed = torch.cat([mask.bool()[:, 1:], torch.zeros_like(mask.bool()[:, :1])], dim=1)
    return ends.bool() | ~followed


def n_step_returns(
    rewards: Tensor,
    next_values: Tensor,
    ends: Tensor,
    gamma: Discount,
    n: int,
    mask: Tensor | None = None,
) -> Tensor:
    """r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n}), shorter if an episode ends first.

    Beyond the last column the sum stops there and bootstraps from `next_values` of that column; so
    it does at a row's last real step if `mask` is given. Without it, rows of unequal lengths need
    `ends` of 1 there. Raises ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n_step_returns needs n >= 1, not {n}")
    last = with_row_ends(ends, torch.ones_like(ends) if mask is None else mask)
    returns = rewards + gamma * next_values
    for _ in range(min(n, rewards.shape[1]) - 1):
        shifted = torch.cat([returns[:, 1:], next_values[:, -1:]], dim=1)
        returns = rewards + gamma * torch.where(last, next_values, shifted)
    return returns
