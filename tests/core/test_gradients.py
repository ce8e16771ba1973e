"""Step weights and weighted scores, against autograd, hand values and exact expectations."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig, algorithm
from rlhf_pg.core.gradients import (
    gradient_noise,
    policy_gradient,
    step_scores,
    step_weights,
    weighted_scores,
)
from rlhf_pg.core.rollout import Evaluation, Rollout
from support.core import policy_of, ragged_rollout

PLAIN = LearnerConfig(baseline="none")


class Coin(torch.nn.Module):
    """One action a row: 1 with probability sigmoid(theta); a second parameter does nothing."""

    def __init__(self, p):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(p, dtype=torch.float64).logit())
        self.idle = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def evaluate(self, rollout):
        logits = torch.stack([torch.zeros_like(self.theta), self.theta]).log_softmax(0)
        logprobs = logits[rollout.actions]
        return Evaluation(logprobs, torch.zeros_like(logprobs))


def flips(*actions):
    """Rewards are the actions."""
    a = torch.tensor(actions)[:, None]
    one, none = torch.ones(a.shape).double(), torch.zeros(a.shape).double()
    return Rollout(a, a, none, none, none, a.double(), one, one)


def every(policy):
    return list(policy.parameters())


def test_weighted_scores_are_the_gradient_of_the_loss():
    rollout, policy = ragged_rollout(), policy_of()
    config = algorithm("ppo", reduction="episode")
    advantages, _ = estimate_advantages(rollout, config)
    logprobs = policy.evaluate(rollout).logprobs
    loss = -(torch.where(rollout.mask, logprobs, 0) * advantages).sum() / len(rollout)
    (expected,) = torch.autograd.grad(-loss, policy.logits, retain_graph=True)
    weights = step_weights(rollout, advantages, config, logprobs)
    (actual,) = weighted_scores(logprobs, weights[None], [policy.logits])
    assert_close(actual, expected.flatten())


def test_the_scores_of_single_steps_add_to_the_whole():
    rollout, policy = ragged_rollout(), policy_of()
    logprobs = policy.evaluate(rollout).logprobs
    weights = torch.randn(3, *logprobs.shape, dtype=torch.float64) * rollout.mask
    parameters = every(policy)
    whole = weighted_scores(logprobs, weights, parameters)
    parts = torch.einsum("mbt,btp->mp", weights, step_scores(logprobs, parameters))
    assert_close(whole, parts)
    assert whole.shape == (3, sum(p.numel() for p in parameters))
    assert (whole[:, policy.logits.numel() :] == 0).all()  # the critic's values have no part


def test_the_score_of_a_coin_by_hand():
    policy = Coin(0.3)
    scores = step_scores(policy.evaluate(flips(1, 0)).logprobs, every(policy))
    assert_close(scores[:, 0, 0], torch.tensor([0.7, -0.3], dtype=torch.float64))
    assert (scores[..., 1:] == 0).all()


def test_weights_of_ppo_by_hand():
    """Ratios .5, 1, 1.5; clip .2: no weight where the clip holds what the advantage wants."""
    ratios = torch.tensor([[0.5, 1.0, 1.5]]).double().log()
    rollout = Rollout(None, ratios, torch.zeros(1, 3).double(), *[ratios] * 4, torch.ones(1, 3))
    config = LearnerConfig(clip=0.2, reduction="token")
    for advantage, expected in ((1.0, [0.5, 1.0, 0.0]), (-1.0, [0.0, -1.0, -1.5])):
        advantages = torch.full((1, 3), advantage).double()
        weights = step_weights(rollout, advantages, config, ratios)
        assert_close(weights, torch.tensor([expected]).double() / 3)


def test_padding_weighs_nothing():
    rollout = ragged_rollout()
    rollout.logprobs = torch.where(rollout.mask, rollout.logprobs, torch.inf)
    for config in (PLAIN, algorithm("ppo")):
        weights = step_weights(rollout, torch.full_like(rollout.rewards, 1e6), config)
        assert (weights[~rollout.mask] == 0).all() and (weights[rollout.mask] != 0).all()


@pytest.mark.parametrize(
    "config",
    [PLAIN, algorithm("reinforce-baseline"), algorithm("a2c", lam=1.0), replace(PLAIN, clip=0.2)],
)
def test_it_ascends_exactly_on_average(tree, config):
    policy, rollout = tree.policy(), tree.rollout(tree.some_values)
    expected = 0
    for row, probability in enumerate(tree.probs().detach()):
        one = rollout[[row]]
        expected = expected + probability * policy_gradient(policy, one, config, [policy.logits])
    assert_close(expected, tree.true_gradient().flatten(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("baseline", [0.0, 0.3, 0.7, 10.0])
def test_the_variance_of_the_bernoulli_bandit(baseline):
    """g = (a - p)(a - b); over ten draws that hold each action as often as p = .3 says."""
    p, policy = 0.3, Coin(0.3)
    rollouts = [flips(a) for a in (1, 1, 1, 0, 0, 0, 0, 0, 0, 0)]
    for rollout in rollouts:
        rollout.rewards = rollout.rewards - baseline
    noise = gradient_noise(policy, rollouts, PLAIN, every(policy))
    variance = p * (1 - p) * (1 - p - baseline) ** 2  # closed form, of one draw
    assert float(noise.mean[0]) == pytest.approx(p * (1 - p))
    assert noise.variance == pytest.approx(variance * 10 / 9, abs=1e-12)
    assert noise.signal == pytest.approx((p * (1 - p)) ** 2 - variance / 9, abs=1e-12)


def test_the_ratio_of_noise_to_signal_has_no_scale():
    policy, rollouts = Coin(0.4), [flips(1), flips(0), flips(1)]
    before = gradient_noise(policy, rollouts, PLAIN, every(policy))
    for rollout in rollouts:
        rollout.rewards = 7 * rollout.rewards
    after = gradient_noise(policy, rollouts, PLAIN, every(policy))
    assert after.variance == pytest.approx(49 * before.variance)
    assert after.ratio == pytest.approx(before.ratio)
