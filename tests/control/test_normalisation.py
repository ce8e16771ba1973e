"""Moments are those of all the data, in whatever portions it came."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_pg.control.normalisation import Moments, RewardScale


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


def test_plain_is_the_same_on_arrays():
    moments = Moments(3)
    moments.update(torch.randn(50, 3) * 4 + 1)
    x = torch.randn(20, 3) * 100
    torch.testing.assert_close(torch.from_numpy(moments.plain()(x.numpy())), moments(x))
    assert moments(x).abs().max() == 10


def test_reward_scale_by_hand():
    scale = RewardScale(1, gamma=0.5)
    rewards = torch.tensor([[1.0, 2.0, 99.0, 4.0]])
    ends = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, True]])
    scale.update(rewards, ends, mask)
    # Returns so far: 1, .5 + 2, (no transition), 4 in the new episode.
    returns = torch.tensor([1.0, 2.5, 4.0]).double()
    torch.testing.assert_close(scale.moments.var[0], returns.var(correction=0))
    scale.update(torch.tensor([[2.0]]), torch.zeros(1, 1), torch.ones(1, 1))
    assert scale.running.tolist() == [0.5 * 4 + 2]
    torch.testing.assert_close(
        scale(torch.ones(1)), scale.moments.var.rsqrt().float(), atol=1e-6, rtol=0
    )
