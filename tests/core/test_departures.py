"""Habits that leave the policy gradient, each shown to do so beside the variant that does not.

As in test_exactness.py, expectations are taken over all completions, with no sampling error. What
the group's deviation, the token mean, whitening, the clip, lambda and the discount do is there.
"""

import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.losses import entropy_loss, policy_gradient_loss, ppo_clip_loss

BETA = 0.3


def cosine(a, b):
    return float(cosine_similarity(a.flatten(), b.flatten(), dim=0))


def assert_exact(actual, truth):
    assert_close(actual, truth, atol=1e-9, rtol=0)


def expected_under(old, loss, tree):
    """Minus the gradient of E[loss], completions drawn with probabilities `old`."""
    every = torch.arange(len(old))[:, None]
    return -tree.gradient(old @ torch.vmap(loss)(every))


@pytest.fixture
def elsewhere(tree):
    """Log-probabilities of every token, and of every completion, under an older policy."""
    old = tree.logprobs(tree.logits + 0.7 * tree.ref_logits).detach()
    return old, tree.total(old).exp()


def test_a_tokens_ratio_leaves_out_the_tokens_around_it(tree, elsewhere):
    """Nothing is clipped here: PPO's surrogate off policy is still not the gradient, and with the
    ratio of the whole completion it is."""
    old, probs = elsewhere
    rollout = tree.rollout()
    to_go, _ = estimate_advantages(rollout, algorithm("reinforce"))

    def of_a_token(rows):
        new = tree.logprobs()[rows]
        return ppo_clip_loss(new, old[rows], to_go[rows], tree.mask[rows], 1e9, "episode")

    def of_the_whole(rows):
        ratio = (tree.total(tree.logprobs()).detach() - tree.total(old)).exp()[rows, None]
        return policy_gradient_loss(tree.logprobs()[rows], to_go[rows] * ratio, tree.mask[rows])

    truth = tree.true_gradient()
    assert cosine(expected_under(probs, of_a_token, tree), truth) < 0.99
    assert_exact(expected_under(probs, of_the_whole, tree), truth)


def test_a_second_pass_without_a_ratio_takes_old_samples_for_new_ones(tree, elsewhere):
    _, probs = elsewhere
    to_go, _ = estimate_advantages(tree.rollout(), algorithm("reinforce"))

    def loss(rows):
        return policy_gradient_loss(tree.logprobs()[rows], to_go[rows], tree.mask[rows])

    assert cosine(expected_under(probs, loss, tree), tree.true_gradient()) < 0.99
    assert_exact(expected_under(tree.probs().detach(), loss, tree), tree.true_gradient())


@pytest.mark.parametrize("limit", [0.0, 0.5])
def test_clipping_the_gradients_norm_gives_large_gradients_less_weight(tree, limit):
    policy = tree.policy()
    learner = Learner(policy, algorithm("reinforce", lr=0.0, max_grad_norm=limit))
    rollout, expected = tree.rollout(), 0
    for row, probability in enumerate(tree.probs().detach()):
        learner.update(rollout[[row]])
        expected = expected - probability * policy.logits.grad
    if limit:
        assert cosine(expected, tree.true_gradient()) < 0.99
    else:
        assert_exact(expected, tree.true_gradient())


def test_the_entropy_bonus_is_not_the_entropy_of_completions(tree):
    """The gradient of that also leads to where the entropy is high."""
    per_state = -(tree.logits.softmax(-1) * tree.logits.log_softmax(-1)).sum(-1)
    per_step = per_state[tree.states]
    truth = tree.gradient(-(tree.probs() * tree.probs().log()).sum())
    steps = tree.mask.sum(1)

    def bonus(rows):  # sums over steps, so that lengths play no part in the comparison
        return entropy_loss(per_step[rows], tree.mask[rows]) * steps[rows].sum()

    visited = expected_under(tree.probs().detach(), bonus, tree)
    led = tree.gradient(tree.probs() @ tree.total(per_step.detach()))
    assert cosine(visited, truth) < 0.99
    assert_exact(visited + led, truth)


def kl_in_loss(tree, baseline, weight=1.0):
    """E[gradient] of a batch of two: compared scores, and k2 of the completions in the loss."""
    rollout, config = tree.rollout(group_size=2), algorithm("grpo", baseline=baseline)
    ref = tree.total(tree.logprobs(tree.ref_logits))

    def loss(rows):
        batch = rollout[rows]
        advantages, _ = estimate_advantages(batch, config)
        new = tree.logprobs()[rows]
        drift = torch.where(batch.mask, new, 0).sum(1) - ref[rows]
        policy = policy_gradient_loss(new, advantages, batch.mask)
        return policy + weight * BETA * (drift**2 / 2).mean()

    return -tree.expected_gradient(loss, 2)


def regularised(tree, beta):
    """The gradient of E[r] - beta KL."""
    return tree.gradient(tree.probs() @ tree.total(tree.rewards) - beta * tree.kl())


def test_a_centred_group_with_the_kl_in_the_loss_has_another_coefficient(small_tree):
    """Its own sample in the mean shrinks the score's part by (K-1)/K and leaves the KL's."""
    truth = regularised(small_tree, BETA)
    assert_exact(kl_in_loss(small_tree, "leave-one-out"), truth)
    centred = kl_in_loss(small_tree, "group-centred")
    assert_exact(centred, regularised(small_tree, 2 * BETA) / 2)
    assert cosine(centred, truth) < 0.999


def test_the_groups_deviation_with_the_kl_in_the_loss_departs_too(small_tree):
    assert cosine(kl_in_loss(small_tree, "group"), regularised(small_tree, BETA)) < 0.99


def test_scores_that_are_clipped_are_another_objective(tree):
    """And its gradient is exact: the departure is in what is asked."""
    rewards = torch.zeros_like(tree.rewards)
    scores = tree.total(tree.rewards)
    clipped = scores.clamp(-0.5, 0.5)
    last = tree.mask.sum(1) - 1
    rewards[torch.arange(len(last)), last] = clipped
    to_go, _ = estimate_advantages(tree.rollout(rewards=rewards), algorithm("reinforce"))

    def loss(rows):
        return policy_gradient_loss(tree.logprobs()[rows], to_go[rows], tree.mask[rows])

    found = -tree.expected_gradient(loss)
    assert_exact(found, tree.gradient(tree.probs() @ clipped))
    assert cosine(found, tree.true_gradient()) < 0.99
