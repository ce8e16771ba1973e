"""The one learner: its steps, its memory, its refusals, and its deafness to padding."""

import copy
import io
import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rlhf_pg.core.algorithms import ALGORITHMS, LearnerConfig, algorithm
from rlhf_pg.core.kl import k1
from rlhf_pg.core.learner import Evaluation, Learner, Rollout, estimate_advantages
from rlhf_pg.core.losses import value_loss
from support.core import TablePolicy, policy_of, ragged_rollout

EVERYTHING = LearnerConfig(entropy_coef=0.1, value_clip=0.2, clip=0.2, whiten_advantages=True)
NAMES = list(ALGORITHMS)


def parameters(policy):
    return torch.cat([p.detach().flatten() for p in policy.parameters()])


def gradients(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def fresh(rollout, policy):
    """As if this policy had sampled the rollout's actions."""
    with torch.no_grad():
        return replace(rollout, logprobs=policy.evaluate(rollout).logprobs)


# Equalities


def test_a2c_is_ppo_with_one_epoch_one_minibatch_and_no_whitening():
    """Huang et al. 2022 (arXiv 2205.09123)."""
    a2c = algorithm("a2c", lr=0.05)
    ppo = algorithm(
        "ppo", lr=0.05, epochs=1, minibatches=1, whiten_advantages=False, value_clip=None
    )
    ppo.reduction = a2c.reduction
    learned = []
    for config in (a2c, ppo):
        policy = policy_of()
        learner = Learner(policy, config)
        for seed in range(4):
            learner.update(fresh(ragged_rollout(seed=seed), policy))
        learned.append(parameters(policy))
    assert_close(*learned, atol=1e-12, rtol=0)
    assert (learned[0] - parameters(policy_of())).abs().max() > 0.1


@pytest.mark.parametrize("micro_rows", [1, 3, 5])
@pytest.mark.parametrize("reduction", ["episode", "token", "constant"])
def test_a_step_taken_in_parts_is_the_step_taken_at_once(reduction, micro_rows):
    config = replace(EVERYTHING, reduction=reduction, max_grad_norm=0.0)
    results = []
    for size in (None, micro_rows):
        policy = policy_of()
        metrics = Learner(policy, replace(config, micro_rows=size)).update(ragged_rollout())
        results.append((gradients(policy), metrics))
    (whole, expected), (parts, actual) = results
    assert_close(parts, whole, atol=1e-12, rtol=0)
    assert actual == pytest.approx(expected, abs=1e-12)


def test_two_processes_with_half_the_rows_each_learn_what_one_learns_with_all(tmp_path):
    """Unequal halves and lengths, every algorithm: parameters and metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__)
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here.parents[2]), os.environ.get("PYTHONPATH", "")]),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, here.with_name("two_processes.py")],
            env={**shared, "RANK": str(i), "LOCAL_RANK": str(i), "OUT": str(tmp_path / f"{i}")},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    for i in range(2):
        apart = json.loads((tmp_path / f"{i}").read_text())
        assert len(apart) > len(ALGORITHMS)
        assert max(max(each) for each in apart.values()) < 1e-12, apart


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_is_the_same_run(name):
    runs = []
    for _ in range(2):
        policy = policy_of()
        metrics = Learner(policy, algorithm(name)).update(ragged_rollout())
        runs.append((parameters(policy), metrics))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_another_seed_is_another_order_of_minibatches():
    policies = [policy_of(), policy_of()]
    for seed, policy in enumerate(policies):
        Learner(policy, algorithm("ppo", seed=seed)).update(ragged_rollout())
    assert not torch.equal(*map(parameters, policies))


def test_every_epoch_sees_every_row_once_in_a_new_order():
    policy, seen = policy_of(), []
    evaluate = policy.evaluate

    def listening(rollout):
        seen.append(rollout.rewards[:, 0].tolist())
        return evaluate(rollout)

    policy.evaluate = listening
    rollout = ragged_rollout()
    metrics = Learner(policy, algorithm("ppo", epochs=3, minibatches=2)).update(rollout)
    assert metrics["gradient_steps"] == len(seen) == 6
    epochs = [seen[i] + seen[i + 1] for i in (0, 2, 4)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(rollout.rewards[:, 0].tolist())
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("minibatches", [3, 5, 20])
def test_no_row_is_left_out_where_minibatches_do_not_divide_the_rows(minibatches):
    policy, seen = policy_of(), []
    evaluate = policy.evaluate
    policy.evaluate = lambda part: seen.append(part.rewards[:, 0].tolist()) or evaluate(part)
    rollout = ragged_rollout()  # 8 rows
    Learner(policy, algorithm("a2c", minibatches=minibatches)).update(rollout)
    assert sorted(sum(seen, [])) == sorted(rollout.rewards[:, 0].tolist())
    sizes = [len(part) for part in seen]
    assert len(sizes) == min(minibatches, 8) and max(sizes) - min(sizes) <= 1


# Options


def test_weight_decay_shrinks_what_has_no_gradient():
    """AdamW: a parameter loses lr * weight_decay of itself in each step."""
    policy = policy_of()
    before = policy.logits.detach().clone()
    config = LearnerConfig(lr=0.1, weight_decay=0.5, entropy_coef=0.0)
    rollout = ragged_rollout()
    rollout.inputs.clamp_(max=3)  # states 4 and 5 do not occur
    Learner(policy, config).update(rollout)
    assert_close(policy.logits[4:].detach(), before[4:] * (1 - 0.1 * 0.5))


def test_the_learning_rate_falls_linearly_to_zero_and_stays_there():
    policy = policy_of()
    learner = Learner(policy, LearnerConfig(lr=0.4, lr_decay_updates=4))
    rates = []
    for _ in range(6):
        before = parameters(policy)
        rates.append(learner.update(ragged_rollout())["learning_rate"])
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0])
    assert torch.equal(before, parameters(policy))


def test_the_gradient_is_held_to_its_norm_and_the_log_says_what_it_was():
    def update(limit):
        policy = policy_of()
        metrics = Learner(policy, LearnerConfig(max_grad_norm=limit)).update(ragged_rollout())
        return metrics["grad_norm"], gradients(policy)

    norm, free = update(limit=0.0)
    assert_close(free.norm().item(), norm)
    assert norm > 0.1
    logged, held = update(limit=0.01)
    assert logged == norm
    assert_close(held.norm().item(), 0.01, atol=1e-6, rtol=0)
    assert_close(held, free * 0.01 / norm, atol=1e-6, rtol=0)
    assert torch.equal(update(limit=1e9)[1], free)


def test_epochs_stop_once_the_policy_has_gone_far_enough():
    def steps(**options):
        config = algorithm("ppo", lr=0.1, epochs=10, minibatches=1, **options)
        return Learner(policy_of(), config).update(ragged_rollout())["gradient_steps"]

    assert steps() == 10
    assert 1 < steps(target_kl=0.01) < 10
    # The first pass has ratio 1, so KL 0; the second has moved.
    assert steps(target_kl=1e-12) == 2


def test_in_a_critics_warm_up_only_the_critic_learns():
    policy = policy_of()
    config = replace(EVERYTHING, critic_warmup=2, weight_decay=0.1, lr=0.1)
    learner = Learner(policy, config)
    start, values = policy.logits.detach().clone(), policy.values.detach().clone()
    for _ in range(2):
        learner.update(ragged_rollout())
        assert torch.equal(policy.logits, start)
        assert not torch.equal(policy.values, values)
    learner.update(ragged_rollout())
    assert not torch.equal(policy.logits, start)


def test_a_warm_up_without_a_critic_takes_no_step():
    policy = policy_of()
    before = parameters(policy)
    Learner(policy, algorithm("reinforce", critic_warmup=1)).update(ragged_rollout())
    assert torch.equal(parameters(policy), before)


def test_frozen_parameters_stay():
    policy = policy_of()
    policy.values.requires_grad_(False)
    before = policy.values.clone()
    Learner(policy, algorithm("ppo", weight_decay=0.1)).update(ragged_rollout())
    assert torch.equal(policy.values, before)


def test_an_optimiser_from_outside_takes_the_steps():
    policy = policy_of()
    before = parameters(policy)
    optimizer = torch.optim.SGD(policy.parameters())
    config = algorithm("reinforce-baseline", lr=0.3, max_grad_norm=0.0)
    Learner(policy, config, optimizer=optimizer).update(ragged_rollout())
    assert_close(parameters(policy), before - 0.3 * gradients(policy))


def test_the_moving_average_is_of_the_batches_before():
    learner = Learner(policy_of(), LearnerConfig(baseline="moving-average"))
    assert learner.average.value == 0
    rollout = ragged_rollout()
    learner.update(rollout)
    returns = torch.where(rollout.mask, rollout.rewards, 0).sum(1)
    assert learner.average.value == pytest.approx(returns.mean().item())


def test_the_optimal_constant_weighs_scores_by_the_squared_gradients_of_episodes_before():
    """Two arms with pi = (1/4, 3/4): |grad log pi|^2 is 2 (3/4)^2 for the rare and 2 (1/4)^2."""
    policy = Arms(torch.tensor([0.25, 0.75]).log())
    arms = torch.tensor([[0], [1], [1], [1]])
    rollout = policy.rollout(arms, rewards=torch.tensor([[8.0], [0.0], [0.0], [0.0]]))
    learner = Learner(policy, LearnerConfig(baseline="optimal"))
    assert learner.average.value == 0
    learner.update(rollout)
    assert learner.average.value == pytest.approx(8 * 9 / (9 + 3 * 1))


class Arms(torch.nn.Module):
    """A softmax over arms, pulled once an episode."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def evaluate(self, rollout):
        logprobs = self.logits.log_softmax(0)
        entropy = -(logprobs.exp() * logprobs).sum()
        return Evaluation(logprobs[rollout.actions], entropy.expand(rollout.actions.shape))

    def rollout(self, arms, rewards):
        zeros, ones = torch.zeros_like(rewards), torch.ones_like(rewards)
        logprobs = self.logits.detach().log_softmax(0)[arms]
        return Rollout(arms, arms, logprobs, zeros, zeros, rewards, ones, ones)


# Metrics


def test_before_the_first_step_the_policy_is_the_one_that_sampled():
    policy = policy_of()
    config = algorithm("ppo", epochs=1, minibatches=1)
    metrics = Learner(policy, config).update(fresh(ragged_rollout(), policy))
    for name in ("first_ratio_drift", "ratio_drift", "update_kl", "clip_fraction"):
        assert metrics[name] == 0


def test_a_policy_that_is_not_the_one_that_sampled_shows_in_the_first_drift():
    rollout = ragged_rollout()
    rollout.logprobs = rollout.logprobs - 0.5
    config = algorithm("ppo", epochs=1, minibatches=1)
    metrics = Learner(policy_of(), config).update(rollout)
    drift = math.exp(0.5) - 1
    assert metrics["first_ratio_drift"] == pytest.approx(drift)
    assert metrics["update_kl"] == pytest.approx(drift - 0.5)
    assert metrics["clip_fraction"] == 1


def test_new_values_are_held_near_those_of_the_rollout():
    policy, rollout = policy_of(), ragged_rollout()
    config = LearnerConfig(value_clip=0.1)
    _, targets = estimate_advantages(rollout, config)
    new = policy.values[rollout.inputs].detach()
    held = value_loss(new, targets, rollout.mask, rollout.values, 0.1).item()
    free = value_loss(new, targets, rollout.mask).item()
    metrics = Learner(policy, config).update(rollout)
    assert metrics["value_loss"] == pytest.approx(held) != pytest.approx(free)


def test_the_first_drift_is_that_before_any_step():
    policy = policy_of()
    config = algorithm("ppo", epochs=3, minibatches=2, lr=0.1)
    metrics = Learner(policy, config).update(fresh(ragged_rollout(), policy))
    assert metrics["first_ratio_drift"] == 0 < metrics["ratio_drift"]


def test_the_logged_entropy_is_the_mean_over_real_steps():
    policy, rollout = policy_of(), ragged_rollout()
    p = policy.logits[rollout.inputs].softmax(-1)
    expected = -(p * p.log()).sum(-1)[rollout.mask].mean().item()
    assert Learner(policy, LearnerConfig()).update(rollout)["entropy"] == pytest.approx(expected)


@pytest.mark.parametrize("right, expected", [(True, 1.0), (False, 0.0)])
def test_a_perfect_critic_explains_all_variance_and_a_constant_one_none(right, expected):
    rollout = ragged_rollout()
    real = torch.where(rollout.mask, rollout.rewards, 0)
    to_go = real.flip(1).cumsum(1).flip(1)
    after = torch.cat([to_go[:, 1:], torch.zeros_like(to_go[:, :1])], dim=1)
    rollout.values = to_go if right else torch.full_like(to_go, 3.0)
    rollout.next_values = after if right else (1 - rollout.ends) * 3.0
    metrics = Learner(policy_of(), LearnerConfig(lam=1.0)).update(rollout)
    assert metrics["explained_variance"] == pytest.approx(expected, abs=1e-9)


# Refusals


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["rewards", "logprobs", "values", "next_values", "ref_logprobs"])
def test_a_number_that_is_none_is_refused_with_its_row_and_step(name, bad):
    policy, rollout = policy_of(), ragged_rollout()
    before = parameters(policy)
    row, step = [int(i) for i in rollout.mask.nonzero()[7]]
    getattr(rollout, name)[row, step] = bad
    with pytest.raises(FloatingPointError, match=f"^{name} of row {row}, step {step} is {bad}$"):
        Learner(policy, EVERYTHING).update(rollout)
    assert torch.equal(parameters(policy), before)


def broken(policy, factor, times):
    """The next `times` evaluations give log-probabilities times a factor."""
    evaluate, left = policy.evaluate, iter(range(times))

    def evaluate_or_break(rollout):
        new = evaluate(rollout)
        return new if next(left, None) is None else replace(new, logprobs=new.logprobs * factor)

    policy.evaluate = evaluate_or_break


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e200])
def test_a_gradient_that_is_no_number_is_refused_and_no_step_is_taken(factor):
    """With max_skipped_steps 2, the third in a row is an error; a step that is taken counts anew"""
    policy, config = policy_of(), LearnerConfig(max_grad_norm=0.0, max_skipped_steps=2)
    learner, before = Learner(policy, config), parameters(policy)
    moments = copy.deepcopy(learner.optimizer.state_dict())
    broken(policy, factor, times=2)
    for _ in range(2):
        metrics = learner.update(ragged_rollout())
        assert (metrics["skipped_steps"], metrics["gradient_steps"]) == (1, 0)
        assert all(map(math.isfinite, metrics.values())) and "grad_norm" not in metrics
    assert torch.equal(parameters(policy), before)
    assert learner.optimizer.state_dict() == moments
    metrics = learner.update(ragged_rollout())
    assert (metrics["skipped_steps"], metrics["gradient_steps"]) == (0, 1)
    taken = parameters(policy)
    assert not torch.equal(taken, before) and torch.isfinite(taken).all()
    broken(policy, factor, times=9)
    learner.update(ragged_rollout())
    # The count is part of a checkpoint.
    resumed = Learner(policy, config)
    resumed.load_state_dict(learner.state_dict())
    resumed.update(ragged_rollout())
    with pytest.raises(FloatingPointError, match="in 3 steps in a row, the last in update 5 .*lr"):
        resumed.update(ragged_rollout())
    assert torch.equal(parameters(policy), taken)


def test_no_skipped_step_is_allowed_if_the_maximum_is_0():
    policy = policy_of()
    broken(policy, float("nan"), times=1)
    with pytest.raises(FloatingPointError, match="in 1 steps in a row, the last in update 0"):
        Learner(policy, LearnerConfig(max_skipped_steps=0)).update(ragged_rollout())


def test_a_skipped_minibatch_leaves_the_other_steps_as_they_are():
    """Two minibatches, the first broken: the same step as that of the second alone."""
    config = algorithm("ppo", epochs=1, minibatches=2, whiten_advantages=False, lr=0.05)
    rollout, policy = ragged_rollout(), policy_of()
    learner = Learner(policy, config)
    order = torch.randperm(len(rollout), generator=torch.Generator().manual_seed(config.seed))
    second = order.tensor_split(2)[1]
    broken(policy, float("nan"), times=1)
    metrics = learner.update(rollout)
    alone = policy_of()
    expected = Learner(alone, replace(config, minibatches=1)).update(rollout[second])
    assert_close(parameters(policy), parameters(alone), atol=1e-12, rtol=0)
    assert metrics["skipped_steps"] == metrics["gradient_steps"] == 1
    for name in ("policy_loss", "grad_norm", "update_kl"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-12)


def test_a_critic_that_is_not_there_is_asked_for():
    policy = policy_of()
    evaluate = policy.evaluate
    policy.evaluate = lambda rollout: replace(evaluate(rollout), values=None)
    with pytest.raises(ValueError, match="needs a policy with values"):
        Learner(policy, LearnerConfig()).update(ragged_rollout())
    Learner(policy, algorithm("reinforce")).update(ragged_rollout())


# Memory


@pytest.mark.parametrize("baseline", ["critic", "moving-average"])
def test_a_saved_learner_continues_bit_for_bit(baseline):
    config = algorithm("ppo", baseline=baseline, lr=0.05, lr_decay_updates=9, critic_warmup=1)

    def go_on(learner, seeds):
        return [learner.update(ragged_rollout(seed=seed)) for seed in seeds]

    policy = policy_of()
    learner = Learner(policy, config)
    go_on(learner, range(3))
    file = io.BytesIO()
    torch.save([learner.state_dict(), policy.state_dict()], file)
    expected = go_on(learner, range(3, 6))

    file.seek(0)
    saved, weights = torch.load(file, weights_only=True)
    resumed = policy_of()
    resumed.load_state_dict(weights)
    other = Learner(resumed, config)
    other.load_state_dict(saved)
    assert go_on(other, range(3, 6)) == expected
    assert torch.equal(parameters(resumed), parameters(policy))


# Learning


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_learns_a_two_armed_bandit(name):
    policy = TablePolicy(torch.zeros(1, 2))
    learner = Learner(policy, algorithm(name, lr=0.1))
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(32, 1)
    for _ in range(30):
        p = policy.logits.detach().softmax(-1)[0]
        arms = torch.multinomial(p, 32, replacement=True, generator=generator)[:, None]
        rollout = Rollout(
            inputs=torch.zeros(32, 1, dtype=torch.long),
            actions=arms,
            logprobs=p.log()[arms],
            values=policy.values.detach().expand(32, 1),
            next_values=0 * ones,
            rewards=arms.float(),
            ends=ones,
            mask=ones,
            group_size=4,
        )
        learner.update(rollout)
    assert policy.logits.softmax(-1)[0, 1] > 0.9


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_training_reaches_the_optimum_of_reward_less_kl(small_tree, kl_in):
    """pi* = ref * exp(R / beta) / Z and J* = beta * log Z, from sampled completions alone."""
    tree, beta, size = small_tree, 0.5, 256
    policy = tree.policy()
    tree.logits = policy.logits  # the tree now speaks of the policy that learns
    ref = tree.logprobs(tree.ref_logits)
    weights = tree.probs(tree.ref_logits) * (tree.total(tree.rewards) / beta).exp()
    best, optimum = beta * weights.sum().log(), weights / weights.sum()

    config = algorithm("rloo", lr=0.1, lr_decay_updates=300)
    learner = Learner(policy, config)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        rewards = tree.rewards
        options = {"ref_logprobs": ref, "kl_coef": beta}
        if kl_in == "reward":
            rewards, options = rewards - beta * k1(tree.logprobs().detach(), ref), {}
        p = tree.probs().detach()
        rows = torch.multinomial(p, size, replacement=True, generator=generator)
        learner.update(tree.rollout(rewards=rewards, group_size=size, **options)[rows])

    p = tree.probs()
    reached = p @ tree.total(tree.rewards) - beta * tree.kl()
    assert best - reached < 0.02 * abs(best)
    assert (p * (p / optimum).log()).sum() < 0.02


# Padding


def poisoned(rollout, poison):
    """Every tensor of the rollout, with something else where nothing is real."""
    changed = {"actions": torch.where(rollout.mask, rollout.actions, 1)}
    changed["inputs"] = torch.where(rollout.mask, rollout.inputs, 2)
    for field in fields(rollout):
        x = getattr(rollout, field.name)
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            changed[field.name] = torch.where(rollout.mask, x, poison)
    return replace(rollout, **changed)


def with_a_hole(rollout):
    """Some rows end early and start anew, with a step between that is no transition."""
    ends, mask = rollout.ends.clone(), rollout.mask.clone()
    ends[:4, 1] = 1
    mask[:4, 2] = False
    return replace(rollout, ends=ends, mask=mask)


@pytest.mark.parametrize("poison", [1e6, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", [*NAMES, "everything"])
@pytest.mark.parametrize("prepare", [lambda r: r, with_a_hole], ids=["right", "hole"])
def test_padding_and_holes_change_nothing_at_all(prepare, name, poison):
    config = EVERYTHING if name == "everything" else algorithm(name)
    runs = []
    for bad in (0.0, poison):
        policy = policy_of(poison=bad)
        learner = Learner(policy, replace(config, max_grad_norm=0.0))
        metrics = [
            learner.update(poisoned(prepare(ragged_rollout(seed=seed)), bad)) for seed in range(2)
        ]
        runs.append((metrics, parameters(policy)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("reduction", ["episode", "token", "constant"])
def test_columns_of_padding_more_change_a_step_only_through_the_constant_reduction(reduction):
    rollout = ragged_rollout()
    wider = {}
    for field in fields(rollout):
        x = getattr(rollout, field.name)
        if isinstance(x, torch.Tensor):
            wider[field.name] = torch.cat([x, torch.zeros_like(x)], dim=1)
    found = []
    for each in (rollout, replace(rollout, **wider)):
        policy = policy_of()
        config = algorithm("reinforce", reduction=reduction, max_grad_norm=0.0)
        Learner(policy, config).update(each)
        found.append(gradients(policy))
    factor = 2 if reduction == "constant" else 1
    assert_close(found[1] * factor, found[0], atol=1e-12, rtol=0)


def test_the_order_of_the_rows_does_not_matter():
    found = []
    for rows in (slice(None), [6, 7, 0, 1, 4, 5, 2, 3]):  # groups of two stay together
        policy = policy_of()
        Learner(policy, algorithm("rloo", max_grad_norm=0.0)).update(ragged_rollout()[rows])
        found.append(gradients(policy))
    assert_close(*found, atol=1e-12, rtol=0)


def test_updating_leaves_the_rollout_as_it_was():
    rollout, same = ragged_rollout(), copy.deepcopy(ragged_rollout())
    Learner(policy_of(), EVERYTHING).update(rollout)
    for field in fields(rollout):
        one, other = getattr(rollout, field.name), getattr(same, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_an_evaluation_needs_no_values():
    nothing = torch.zeros(1, 1)
    assert Evaluation(nothing, nothing).values is None
