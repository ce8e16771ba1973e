"""Rollouts hold exactly what happened, counted against scripted environments."""

import numpy as np
import pytest
import torch

from rlhf_pg.control.collect import Collector, make_environments
from rlhf_pg.control.config import PolicyConfig
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.core.learner import LearnerConfig, estimate_advantages


def collector(env: str, count: int, seed: int = 0, **options) -> Collector:
    environments = make_environments(env, count)
    policy = ActorCritic(
        environments.single_observation_space,
        environments.single_action_space,
        PolicyConfig(hidden=[8], **options),
        seed=seed,
    )
    return Collector(environments, policy, seed)


def transitions(rollouts) -> list[tuple]:
    """Every real step as (observation, action, reward, end)."""
    return [
        (tuple(r.inputs[n, t].tolist()), int(r.actions[n, t]), float(r.rewards[n, t]), end)
        for r in rollouts
        for n, t in r.mask.nonzero().tolist()
        for end in [bool(r.ends[n, t])]
    ]


def test_segments_hold_every_transition_once_and_no_reset(counter_log):
    c = collector("Counter-v0", 3)
    collected = transitions([c.segment(7), c.segment(1), c.segment(6)])
    happened = [
        (before, action, reward, terminated or truncated)
        for _, before, action, reward, _, terminated, truncated in counter_log
    ]
    assert sorted(collected) == sorted(happened)
    assert len(collected) < 3 * 14  # the resets, which were masked out


def test_segments_bootstrap_from_the_true_next_state(counter_log):
    c = collector("Counter-v0", 2)
    rollout = c.segment(9)
    following = {entry[1]: entry[4:] for entry in counter_log}  # by state before, which is unique
    for n, t in rollout.mask.nonzero().tolist():
        after, terminated, truncated = following[tuple(rollout.inputs[n, t].tolist())]
        value = c.policy.values(torch.tensor(after)).item() if not terminated else 0.0
        assert rollout.next_values[n, t].item() == pytest.approx(value, abs=1e-6)
        assert bool(rollout.ends[n, t]) == (terminated or truncated)


def test_advantages_do_not_cross_a_reset(counter_log):
    c = collector("Counter-v0", 1)
    rollout = c.segment(9)
    config = LearnerConfig(gamma=0.9, lam=0.8)
    whole, _ = estimate_advantages(rollout, config)
    end = int(rollout.ends[0].nonzero()[0])
    first = type(rollout)(
        **{
            name: value[:, : end + 1] if isinstance(value, torch.Tensor) else value
            for name, value in vars(rollout).items()
        }
    )
    alone, _ = estimate_advantages(first, config)
    torch.testing.assert_close(whole[:, : end + 1], alone)


@pytest.mark.parametrize("env", ["Counter-v0", "CartPole-v1"])
def test_whole_episodes_are_one_of_each_environment(env):
    c = collector(env, 5)
    for _ in range(2):
        rollout = c.episodes()
        assert (rollout.ends.sum(1) == 1).all()
        lengths = rollout.mask.sum(1)
        last = rollout.ends.argmax(1)
        assert (lengths == last + 1).all()
        steps = torch.arange(rollout.mask.shape[1])
        assert ((steps < lengths[:, None]) == rollout.mask).all()
        # CartPole's rewards are 1 per step, the counter's 1, 2, ..., n; a reset has none.
        returns = lengths.float() if env == "CartPole-v1" else lengths * (lengths + 1.0) / 2
        torch.testing.assert_close(rollout.rewards.sum(1), returns)
        assert rollout.group_size == 5
    assert env != "CartPole-v1" or len(set(lengths.tolist())) > 1


def test_finished_episodes_are_scored_across_segments(counter_log):
    c = collector("Counter-v0", 1)
    for _ in range(12):
        c.segment(1)
    # Lengths 2, 3, 4 and a reset between each: 2+1+3+1+4 = 11 columns.
    assert [(e.score, e.length) for e in c.finished] == [(3.0, 2), (6.0, 3), (10.0, 4)]
    metrics = c.episode_metrics()
    assert (metrics["score"], metrics["length"]) == (pytest.approx(19 / 3), 3)
    assert c.episode_metrics() == {}


def test_fast_cartpole_is_used_and_its_reset_step_is_masked():
    c = collector("CartPole-v1", 4)
    assert type(c.environments.unwrapped).__name__ == "CartPoleVectorEnv"
    rollout = c.segment(200)
    holes = ~rollout.mask
    assert holes[:, 1:].equal(rollout.ends[:, :-1].bool())
    # A reset state is within 0.05 of the centre, and comes right after each hole.
    after = holes[:, :-1].nonzero()
    assert len(after) > 4
    assert (rollout.inputs[after[:, 0], after[:, 1] + 1].abs() <= 0.05).all()


def test_sampling_is_scoring():
    """Actions sampled in numpy have the frequencies of torch's log-probabilities."""
    c = collector("Counter-v0", 500, orthogonal=False)
    rollout = c.segment(1)
    probs = c.policy.actor(rollout.inputs[0, 0]).softmax(-1).detach()
    counts = torch.bincount(rollout.actions.flatten(), minlength=3) / 500
    torch.testing.assert_close(counts, probs, atol=0.08, rtol=0)
    torch.testing.assert_close(rollout.logprobs.exp()[:, 0], probs[rollout.actions[:, 0]])


def test_same_seed_same_rollout_and_another_seed_another():
    one, same, other = (collector("CartPole-v1", 2, seed).segment(20) for seed in (3, 3, 4))
    torch.testing.assert_close(one.inputs, same.inputs)
    assert one.actions.equal(same.actions)
    assert not one.inputs.equal(other.inputs)


def test_greedy_acting_is_the_likeliest_action():
    c = collector("CartPole-v1", 3)
    c.greedy = True
    rollout = c.segment(5)
    assert rollout.actions.equal(c.policy.actor(rollout.inputs).argmax(-1))


def test_an_episode_without_end_is_an_error(monkeypatch):
    import gymnasium

    gymnasium.register(
        "NoLimit-v0", entry_point=gymnasium.spec("Endless-v0").entry_point, max_episode_steps=None
    )
    monkeypatch.setattr(Collector, "LONGEST", 50)
    try:
        with pytest.raises(ValueError, match="NoLimit-v0 .* --env_options.max_episode_steps"):
            collector("NoLimit-v0", 1).episodes()
    finally:
        del gymnasium.registry["NoLimit-v0"]


def test_scores_do_not_depend_on_float_noise():
    c = collector("Endless-v0", 2)
    assert c.play().tolist() == [10.0, 10.0]
    assert np.isclose(c.scores, 0).all()
