"""Moments are those of all the data, in whatever portions it came."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_pg.control.normalise import Moments, RewardScale
from rlhf_pg.core.rollout import Rollout


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 10_000))
def test_moments_of_portions_are_moments_of_the_whole(portions, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [5 + 3 * torch.randn(n, 2, generator=generator).double() for n in portions]
    moments, whole = Moments(2), torch.cat(parts)
    for part in parts:
        moments.update(part)
    if len(whole):
        torch.testing.assert_close(moments.mean, whole.mean(0))
        torch.testing.assert_close(moments.var, whole.var(0, correction=0))
    assert moments.count == len(whole)


def test_scaled_observations_are_clamped():
    moments = Moments(3)
    data = torch.randn(50, 3) * 4 + 1
    moments.update(data)
    expected = (data - data.mean(0)) / data.std(0, correction=0)
    torch.testing.assert_close(moments(data), expected, atol=1e-4, rtol=1e-4)
    assert moments(data * 100).abs().max() == 10


def rollout(rewards, ends, mask):
    rewards, ends = torch.tensor([rewards]), torch.tensor([ends])
    nothing = torch.zeros_like(rewards)
    return Rollout(None, nothing, nothing, nothing, nothing, rewards, ends, torch.tensor([mask]))


def test_reward_scale_by_hand():
    scale = RewardScale(1, gamma=0.5)
    first = rollout([1.0, 2.0, 99.0, 4.0], [0.0, 1.0, 0.0, 0.0], [True, True, False, True])
    shaped = scale.shape(first)
    # Returns so far: 1, .5 + 2, (no transition), 4 in the new episode.
    returns = torch.tensor([1.0, 2.5, 4.0]).double()
    std = returns.std(correction=0).float()
    torch.testing.assert_close(scale.moments.var[0], returns.var(correction=0))
    torch.testing.assert_close(shaped.rewards[first.mask], first.rewards[first.mask] / std)
    assert shaped.rewards.max() == 10 and first.rewards.max() == 99
    # The open episode continues in the next rollout.
    scale.shape(rollout([2.0], [0.0], [True]))
    assert scale.running.tolist() == [0.5 * 4 + 2]
