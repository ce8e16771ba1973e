"""Rows whose reward does not apply have no real step, and no part in anything."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.core.baselines import MovingAverage, batch_mean, group_normalise, leave_one_out
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.losses import denominator
from support.core import policy_of, ragged_rollout

CONFIGS = {
    **{name: algorithm(name) for name in ALGORITHMS},
    "batch mean": LearnerConfig(baseline="batch-mean"),
    "moving average": LearnerConfig(baseline="moving-average"),
    "optimal": LearnerConfig(baseline="optimal"),
    "constant, whitened": LearnerConfig(
        reduction="constant", whiten_rewards=True, whiten_advantages=True, entropy_coef=0.1
    ),
    "in parts": algorithm("grpo", micro_rows=2, minibatches=2),
    "more minibatches than rows": algorithm("ppo", minibatches=8, epochs=2),
}


def without_scores(rollout, rows):
    mask = rollout.mask.clone()
    mask[list(rows)] = False
    return replace(rollout, mask=mask)


def learned(config, rollouts):
    """Parameters and metrics after an update from each rollout."""
    policy = policy_of()
    learner = Learner(policy, replace(config, lr=0.05, max_grad_norm=0.0))
    metrics = [learner.update(rollout) for rollout in rollouts]
    return torch.cat([p.detach().flatten() for p in policy.parameters()]), metrics


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_with_rows_without_scores_is_the_batch_without_those_rows(name):
    """Groups of two: the third and fourth lose one row or both."""
    rollouts = [ragged_rollout(rows=8, seed=seed) for seed in range(2)]
    some = [without_scores(rollout, [4, 6, 7]) for rollout in rollouts]
    if CONFIGS[name].baseline in ("leave-one-out", "group", "group-centred"):
        fewer = [lone_in_its_group(rollout) for rollout in rollouts]
    else:
        fewer = [replace(rollout[[0, 1, 2, 3, 5]], group_size=1) for rollout in rollouts]
    found, metrics = learned(CONFIGS[name], some)
    expected, without = learned(CONFIGS[name], fewer)
    assert_close(found, expected, atol=1e-9, rtol=0)
    assert metrics == [pytest.approx(each, abs=1e-9) for each in without]
    assert (found - learned(CONFIGS[name], rollouts)[0]).abs().max() > 1e-4


def lone_in_its_group(rollout):
    """The rows 0 to 3 and 5, and a twin of 5 without steps: groups have two rows.

    Row 5 is compared with no other, so its advantage is 0, but it has a KL.
    """
    rows = rollout[[0, 1, 2, 3, 5, 5]]
    return without_scores(rows, [5])


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_three_scores_of_four_are_a_group_of_three(name):
    rollout = replace(ragged_rollout(rows=8), group_size=4)
    some = without_scores(rollout, [3, 7])
    three = replace(rollout[[0, 1, 2, 4, 5, 6]], group_size=3)
    assert_close(learned(algorithm(name), [some])[0], learned(algorithm(name), [three])[0])


def test_a_sample_without_a_score_is_in_no_mean_and_no_deviation():
    scores = torch.tensor([[-1.0, -1.0, -1.0, 9.0], [1.0, 3.0, 9.0, 9.0], [5.0, 9.0, 9.0, 9.0]])
    scored = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    loo = [[0, 0, 0, 0], [-2, 2, 0, 0], [0, 0, 0, 0]]
    assert leave_one_out(scores, scored).tolist() == loo
    centred = torch.tensor([[0, 0, 0, 0], [-1, 1, 0, 0], [0, 0, 0, 0.0]])
    assert_close(group_normalise(scores, scale=False, scored=scored), centred)
    # Sample deviation of (1, 3): sqrt 2; of the population: 1.
    assert_close(group_normalise(scores, scored=scored, eps=1e-9), centred / 2**0.5)
    population = group_normalise(scores, population=True, scored=scored)
    assert_close(population, centred / (1 + 1e-4))
    # The mean of -1, -1, -1, 1, 3 and 5 is 1.
    expected = torch.where(scored, scores - 1, 0)
    assert_close(batch_mean(scores, scored), expected)
    nan = torch.where(scored, scores, torch.nan)
    assert torch.equal(leave_one_out(nan, scored), leave_one_out(scores, scored))


def test_denominators_count_rows_that_have_steps():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    counts = [denominator(mask, reduction) for reduction in ("episode", "token", "constant")]
    assert counts == [2, 3, 6]


def test_a_rollout_without_any_score_changes_nothing():
    policy = policy_of()
    learner = Learner(policy, algorithm("ppo"))
    learner.update(ragged_rollout())  # so that Adam has momentum
    before = [p.detach().clone() for p in policy.parameters()]
    assert learner.update(without_scores(ragged_rollout(), range(8))) == {}
    assert all(map(torch.equal, before, policy.parameters()))
    assert learner.updates == 1


def test_an_average_of_past_scores_skips_rows_without_one():
    learner = Learner(policy_of(), LearnerConfig(baseline="moving-average"))
    rollout = without_scores(ragged_rollout(), [0, 1])
    learner.update(rollout)
    expected = MovingAverage()
    expected.update(torch.where(rollout.mask, rollout.rewards, 0).sum(1)[2:])
    assert learner.average.value == pytest.approx(expected.value)


@pytest.mark.parametrize("real", [8, 5, 2, 0])
def test_every_process_has_as_many_minibatches_whatever_its_rows(real):
    mask = torch.arange(8) < real
    learner = Learner(policy_of(), algorithm("ppo", minibatches=4))
    parts = list(learner._minibatches(mask))
    assert len(parts) == 4 and all(len(part) for part in parts)
    assert sorted(int(i) for part in parts for i in part if mask[i]) == list(range(real))
