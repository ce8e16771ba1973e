"""Expectations without sampling error: every completion of a small policy is written down.

The truth is the gradient of J = sum_y pi(y) R(y) by autograd. An estimator's expectation is
sum_y pi(y) * gradient of its loss(y), through the very functions that train. Where theory says
equal, they are equal to 1e-9; where it says biased, the bias is there.
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.core.kl import categorical_kl, k1, k2, k3
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.losses import policy_gradient_loss, ppo_clip_loss

REINFORCE = algorithm("reinforce")


def surrogate(tree, config, samples=1, **fields):
    """The policy's loss for the rows of a batch, as the learner computes it."""
    rollout = tree.rollout(group_size=samples, **fields)

    def loss(rows):
        batch = rollout[rows]
        advantages, _ = estimate_advantages(batch, config)
        logprobs = tree.logprobs()[rows]
        if config.clip is None:
            return policy_gradient_loss(logprobs, advantages, batch.mask, config.reduction)
        old = batch.logprobs
        return ppo_clip_loss(logprobs, old, advantages, batch.mask, config.clip, config.reduction)

    return loss


def ascent(tree, config, samples=1, **fields):
    """Where the estimator points on average."""
    return -tree.expected_gradient(surrogate(tree, config, samples, **fields), samples)


def assert_exact(actual, truth):
    assert_close(actual, truth, atol=1e-9, rtol=0)


def assert_biased(actual, truth):
    assert (actual - truth).abs().max() > 1e-3


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)


# The ground the rest stands on


def test_every_completion_is_there_once_and_their_probabilities_add_to_one(tree):
    assert len(set(tree.completions)) == len(tree.completions) == 121
    assert_exact(tree.probs().sum(), torch.ones((), dtype=torch.float64))


def test_the_true_gradient_is_that_of_finite_differences(small_tree):
    tree, step = small_tree, 1e-6
    truth = tree.true_gradient()
    returns = tree.total(tree.rewards)
    for state, token in [(0, 0), (0, 2), (3, 1)]:
        nudge = torch.zeros_like(tree.logits)
        nudge[state, token] = step
        up, down = (tree.probs(tree.logits + sign * nudge) @ returns for sign in (1, -1))
        assert_close(truth[state, token], (up - down) / (2 * step), atol=1e-8, rtol=0)


# What is exact


def test_reinforce_with_rewards_to_go_is_exact(tree):
    assert_exact(ascent(tree, REINFORCE), tree.true_gradient())


def test_reinforce_with_the_total_return_is_exact(tree):
    total = tree.total(tree.rewards)[:, None].expand_as(tree.rewards)

    def loss(rows):
        return policy_gradient_loss(tree.logprobs()[rows], total[rows], tree.mask[rows])

    assert_exact(-tree.expected_gradient(loss), tree.true_gradient())


def test_the_rewards_to_go_have_the_smaller_variance(tree):
    """Same mean; the past, which an action cannot change, is only noise."""
    total = tree.total(tree.rewards)[:, None].expand_as(tree.rewards)
    to_go, _ = estimate_advantages(tree.rollout(), REINFORCE)

    def second_moment(advantages):
        square = 0
        for row, probability in enumerate(tree.probs().detach()):
            rows = [row]
            loss = policy_gradient_loss(tree.logprobs()[rows], advantages[rows], tree.mask[rows])
            square = square + probability * tree.gradient(loss) ** 2
        return square.sum()

    assert second_moment(to_go) < second_moment(total)


@pytest.mark.parametrize("size", [1, 100])
def test_any_critic_is_a_baseline_that_leaves_reinforce_exact(tree, size):
    config = algorithm("reinforce-baseline")
    actual = ascent(tree, config, values=size * tree.some_values)
    assert_close(actual, tree.true_gradient(), atol=1e-9 * size, rtol=0)


def test_n_steps_as_long_as_a_completion_are_exact_with_any_critic(tree):
    config = algorithm("a2c", n_steps=4)
    assert_exact(ascent(tree, config, values=tree.some_values), tree.true_gradient())


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_with_the_true_values_gae_is_exact_for_every_lambda(tree, lam):
    config = algorithm("a2c", lam=lam)
    assert_exact(ascent(tree, config, values=tree.true_values()), tree.true_gradient())


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_with_the_true_values_n_step_returns_are_exact_for_every_n(tree, n_steps):
    config = algorithm("a2c", n_steps=n_steps)
    assert_exact(ascent(tree, config, values=tree.true_values()), tree.true_gradient())


@pytest.mark.parametrize("config", [algorithm("a2c", lam=lam) for lam in (0.0, 0.5, 0.95)])
def test_with_a_wrong_critic_gae_is_biased_below_lambda_one(tree, config):
    assert_biased(ascent(tree, config, values=tree.some_values), tree.true_gradient())


def test_the_bias_of_gae_falls_as_lambda_rises(tree):
    truth = tree.true_gradient()
    biases = [
        (ascent(tree, algorithm("a2c", lam=lam), values=tree.some_values) - truth).norm()
        for lam in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert biases == sorted(biases, reverse=True)


def test_one_step_actor_critic_is_biased_by_a_wrong_critic_and_exact_with_the_true_one(tree):
    config = algorithm("actor-critic")
    assert_biased(ascent(tree, config, values=tree.some_values), tree.true_gradient())
    assert_exact(ascent(tree, config, values=tree.true_values()), tree.true_gradient())


def test_leave_one_out_is_exact(small_tree):
    actual = ascent(small_tree, algorithm("rloo"), samples=2)
    assert_exact(actual, small_tree.true_gradient())


def test_leave_one_out_of_three_is_exact(small_tree):
    actual = ascent(small_tree, algorithm("rloo"), samples=3)
    assert_exact(actual, small_tree.true_gradient())


@pytest.mark.parametrize("baseline", ["moving-average", "optimal"])
def test_a_constant_that_has_not_seen_the_batch_is_exact(tree, baseline):
    rollout = tree.rollout()

    def loss(rows):
        config = LearnerConfig(baseline=baseline)
        advantages, _ = estimate_advantages(rollout[rows], config, constant=3.0)
        return policy_gradient_loss(tree.logprobs()[rows], advantages, tree.mask[rows])

    assert_exact(-tree.expected_gradient(loss), tree.true_gradient())


def test_a_discount_is_exact_for_the_discounted_return_once_each_step_is_weighed_by_it(tree):
    """The usual estimator leaves the weight gamma^t out, and so favours early states less."""
    gamma = 0.8
    weights = gamma ** torch.arange(4, dtype=torch.float64)
    truth = tree.gradient((tree.probs() * tree.total(weights * tree.rewards)).sum())
    config = replace(REINFORCE, gamma=gamma)
    to_go, _ = estimate_advantages(tree.rollout(), config)

    def loss(rows):
        advantages = (to_go * weights)[rows]
        return policy_gradient_loss(tree.logprobs()[rows], advantages, tree.mask[rows])

    assert_exact(-tree.expected_gradient(loss), truth)
    assert_biased(ascent(tree, config), truth)


def test_a_segment_that_bootstraps_from_the_true_values_is_exact_for_its_own_steps(tree):
    """Cut after two tokens: truncation is not termination."""
    values = tree.true_values()
    whole = tree.rollout(values)
    cut = {
        name: getattr(whole, name)[:, :2]
        for name in ("actions", "logprobs", "values", "next_values", "rewards", "mask")
    }
    ends = whole.ends[:, :2].clone()
    ends[:, 1] = 1
    early = [state for prefix, state in tree.index.items() if len(prefix) < 2]
    truth = tree.true_gradient()[early]

    def first_steps(next_values):
        rollout = replace(whole, **{**cut, "next_values": next_values}, ends=ends)

        def loss(rows):
            advantages, _ = estimate_advantages(rollout[rows], algorithm("a2c", lam=1.0))
            logprobs = tree.logprobs()[rows][:, :2]
            return policy_gradient_loss(logprobs, advantages, rollout[rows].mask)

        return -tree.expected_gradient(loss)[early]

    assert_exact(first_steps(cut["next_values"]), truth)
    as_if_terminal = cut["next_values"].clone()
    as_if_terminal[:, 1] = 0
    assert_biased(first_steps(as_if_terminal), truth)


# What is scaled


def test_the_batch_mean_shrinks_the_gradient_by_one_sample_in_the_batch(small_tree):
    config = LearnerConfig(baseline="batch-mean")
    for samples in (2, 3):
        expected = small_tree.true_gradient() * (samples - 1) / samples
        assert_exact(ascent(small_tree, config, samples), expected)


def test_a_centred_group_shrinks_the_gradient_by_one_sample_in_the_group(small_tree):
    config = LearnerConfig(baseline="group-centred")
    assert_exact(ascent(small_tree, config, samples=2), small_tree.true_gradient() / 2)


def test_the_constant_reduction_is_the_gradient_over_the_length(tree):
    config = replace(REINFORCE, reduction="constant")
    assert_exact(ascent(tree, config), tree.true_gradient() / 4)


# What departs


def test_the_groups_deviation_departs_from_the_gradient_by_more_than_a_factor(small_tree):
    actual = ascent(small_tree, algorithm("grpo", reduction="episode"), samples=2)
    assert cosine(actual, small_tree.true_gradient()) < 0.999
    assert_biased(actual, small_tree.true_gradient())


def test_the_token_mean_departs_from_the_gradient_where_lengths_vary(tree):
    actual = ascent(tree, replace(REINFORCE, reduction="token"))
    assert cosine(actual, tree.true_gradient()) < 0.999


def test_whitening_departs_from_the_gradient(small_tree):
    config = replace(REINFORCE, whiten_advantages=True)
    actual = ascent(small_tree, config, samples=2)
    assert cosine(actual, small_tree.true_gradient()) < 0.999


def test_whitening_rewards_departs_from_the_gradient(small_tree):
    config = replace(REINFORCE, whiten_rewards=True)
    actual = ascent(small_tree, config, samples=2)
    assert cosine(actual, small_tree.true_gradient()) < 0.999


def test_the_clip_departs_from_the_gradient_away_from_ratio_one(tree):
    """One action a completion, drawn by another policy, whose gradient clip 1e9 leaves exact."""
    old = tree.total(tree.logprobs(tree.logits + tree.ref_logits)).detach()[:, None]
    returns = tree.total(tree.rewards)[:, None]

    def expected(clip):
        def loss(rows):
            new = tree.total(tree.logprobs())[rows, None]
            mask = torch.ones_like(new)
            return ppo_clip_loss(new, old[rows], returns[rows], mask, clip, "episode")

        every = torch.arange(len(old))[:, None]
        return -tree.gradient(old[:, 0].exp() @ torch.vmap(loss)(every))

    assert_exact(expected(clip=1e9), tree.true_gradient())
    assert_biased(expected(clip=0.2), tree.true_gradient())


# PPO's first step


@pytest.mark.parametrize("name", [n for n, c in ALGORITHMS.items() if c.clip is not None])
def test_a_clipped_algorithms_first_gradient_is_the_plain_one(small_tree, name):
    tree, config = small_tree, ALGORITHMS[name]
    clipped = ascent(tree, config, samples=2, values=tree.some_values)
    plain = ascent(tree, replace(config, clip=None), samples=2, values=tree.some_values)
    assert_exact(clipped, plain)


def test_ppos_first_gradient_is_the_true_one_once_its_habits_are_left(tree):
    config = algorithm("ppo", lam=1.0, whiten_advantages=False, reduction="episode")
    assert_exact(ascent(tree, config, values=tree.some_values), tree.true_gradient())


# The KL to the reference


def test_k1_and_k3_of_samples_are_the_kl_on_average_and_k2_is_not(tree):
    p, logp, ref = tree.probs(), tree.logprobs(), tree.logprobs(tree.ref_logits)
    for estimate in (k1, k3):
        assert_exact(p @ tree.total(estimate(logp, ref)), tree.kl())
    assert abs(p @ tree.total(k2(logp, ref)) - tree.kl()) > 1e-2


def test_the_exact_kl_of_every_step_adds_to_the_kl_of_completions(tree):
    per_state = categorical_kl(tree.logits, tree.ref_logits)
    assert_exact(tree.probs() @ tree.total(per_state[tree.states]), tree.kl())


def kl_in_reward(tree, estimate):
    """The gradient that descends on the KL, from an estimator put into the reward."""
    penalty = estimate(tree.logprobs().detach(), tree.logprobs(tree.ref_logits))
    return -ascent(tree, REINFORCE, rewards=-penalty)


def kl_in_loss(tree, estimate, whole):
    """The same, from an estimator put into the loss: of whole completions, or token by token."""
    ref = tree.logprobs(tree.ref_logits)

    def loss(rows):
        logprobs, ref_logprobs = tree.logprobs()[rows], ref[rows]
        real = tree.mask[rows]
        logprobs, ref_logprobs = torch.where(real, logprobs, 0), torch.where(real, ref_logprobs, 0)
        if whole:
            logprobs, ref_logprobs = logprobs.sum(1), ref_logprobs.sum(1)
        return estimate(logprobs, ref_logprobs).sum()

    return tree.expected_gradient(loss)


def test_k1_in_the_reward_is_exact(tree):
    assert_exact(-kl_in_reward(tree, k1), -tree.gradient(tree.kl()))


def test_a_reward_less_its_k1_has_the_gradient_of_the_regularised_objective(tree):
    """J - beta * KL, with a critic, as in training."""
    beta = 0.3
    truth = tree.gradient(tree.probs() @ tree.total(tree.rewards) - beta * tree.kl())
    penalty = k1(tree.logprobs().detach(), tree.logprobs(tree.ref_logits))
    config = algorithm("reinforce-baseline")
    rewards = tree.rewards - beta * penalty
    assert_exact(ascent(tree, config, values=tree.some_values, rewards=rewards), truth)


def test_k3_in_the_reward_points_elsewhere(tree):
    assert cosine(kl_in_reward(tree, k3), tree.gradient(tree.kl())) < 0.9


def test_k2_of_whole_completions_in_the_loss_is_exact(tree):
    assert_exact(kl_in_loss(tree, k2, whole=True), tree.gradient(tree.kl()))


def test_k2_token_by_token_in_the_loss_leaves_out_what_early_tokens_do_to_later_ones(tree):
    """It is exact for the step-wise KL at the prefixes visited, and so not for the whole."""
    actual = kl_in_loss(tree, k2, whole=False)
    assert_biased(actual, tree.gradient(tree.kl()))
    per_state = categorical_kl(tree.logits, tree.ref_logits)[tree.states]
    visited = tree.gradient(tree.probs().detach() @ tree.total(per_state))
    assert_exact(actual, visited)


def test_k1_in_the_loss_does_nothing(tree):
    for whole in (True, False):
        assert_exact(kl_in_loss(tree, k1, whole), torch.zeros_like(tree.logits))


def test_k3_of_whole_completions_in_the_loss_is_the_gradient_of_the_other_direction(tree):
    actual = kl_in_loss(tree, k3, whole=True)
    assert_exact(actual, tree.gradient(tree.reverse_kl()))
    assert_biased(actual, tree.gradient(tree.kl()))


def test_k3_token_by_token_is_the_other_direction_at_the_policys_own_prefixes(tree):
    actual = kl_in_loss(tree, k3, whole=False)
    reverse = categorical_kl(tree.ref_logits, tree.logits)[tree.states]
    assert_exact(actual, tree.gradient(tree.probs().detach() @ tree.total(reverse)))
    assert_biased(actual, tree.gradient(tree.reverse_kl()))


# The learner itself


def learned_gradient(tree, config, **fields):
    """sum_y pi(y) * the gradient that a learner leaves in the policy after seeing only y."""
    policy = tree.policy()
    learner = Learner(policy, replace(config, lr=0.0, max_grad_norm=0.0))
    rollout = tree.rollout(tree.some_values, **fields)
    expected = 0
    for row, probability in enumerate(tree.probs().detach()):
        learner.update(rollout[[row]])
        expected = expected + probability * policy.logits.grad
    return expected


@pytest.mark.parametrize(
    "config",
    [
        algorithm("reinforce"),
        algorithm("reinforce-baseline"),
        algorithm("ppo", lam=1.0, whiten_advantages=False, reduction="episode", epochs=1),
    ],
)
def test_the_learners_own_gradient_is_exact(tree, config):
    assert_exact(-learned_gradient(tree, config), tree.true_gradient())


def test_the_learners_kl_in_the_loss_is_exact(tree):
    """J - beta * KL again, the KL coming from the reference's log-probabilities."""
    beta = 0.3
    truth = tree.gradient(tree.probs() @ tree.total(tree.rewards) - beta * tree.kl())
    ref = tree.logprobs(tree.ref_logits)
    actual = learned_gradient(tree, REINFORCE, ref_logprobs=ref, kl_coef=beta)
    assert_exact(-actual, truth)


def test_the_learners_kl_over_the_length_with_the_constant_reduction(tree):
    config = replace(REINFORCE, reduction="constant")
    ref = tree.logprobs(tree.ref_logits)
    nothing = torch.zeros_like(tree.rewards)
    actual = learned_gradient(tree, config, rewards=nothing, ref_logprobs=ref, kl_coef=1.0)
    assert_exact(actual, tree.gradient(tree.kl()) / 4)


def test_the_learners_entropy_bonus_raises_the_entropy_at_the_visited_states(tree):
    config = replace(REINFORCE, entropy_coef=1.0)
    nothing = torch.zeros_like(tree.rewards)
    entropies = -(tree.logits.softmax(-1) * tree.logits.log_softmax(-1)).sum(-1)[tree.states]
    means = tree.total(entropies) / tree.mask.sum(1)
    truth = tree.gradient(tree.probs().detach() @ means)
    assert_exact(-learned_gradient(tree, config, rewards=nothing), truth)
