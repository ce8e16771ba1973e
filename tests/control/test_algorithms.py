"""One learner under several names: what must coincide does, and each solves what it can."""

import pytest
import torch

from rlhf_pg.control.environments import make_environments
from rlhf_pg.control.gradients import gradient_noise, policy_gradient
from rlhf_pg.control.policies import ActorCritic, PolicyConfig
from rlhf_pg.control.presets import CONTROL_ALGORITHMS, preset, tuned
from rlhf_pg.control.rollout import Collector
from rlhf_pg.control.synchronous import Synchronous
from rlhf_pg.core.learner import LearnerConfig


def weights(training: Synchronous) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.policy.parameters()])


def test_a2c_is_ppo_with_one_epoch():
    """arXiv 2205.09123: one epoch, one minibatch, advantages as they are, values unclipped."""
    shared = dict(environments=4, rollout_steps=16, gamma=0.98, lam=0.95, lr=1e-3)
    a2c = Synchronous(tuned(preset("a2c"), **shared))
    ppo = Synchronous(
        tuned(preset("ppo"), **shared, epochs=1, minibatches=1, whiten_advantages=False)
    )
    for _ in range(5):
        a2c.iterate(), ppo.iterate()
    torch.testing.assert_close(weights(a2c), weights(ppo), atol=1e-6, rtol=1e-5)


def test_actor_critic_is_a2c_with_one_step_returns():
    online = Synchronous(tuned(preset("actor-critic"), rollout_steps=8))
    settings = vars(online.config.learner)
    n_step = Synchronous(
        tuned(preset("a2c"), environments=online.config.environments, rollout_steps=8)
    )
    n_step.learner.config = LearnerConfig(**{**settings, "lam": 0.5, "n_steps": 1})
    for group in n_step.learner.optimizer.param_groups:
        group["lr"] = settings["lr"]
    for _ in range(3):
        online.iterate(), n_step.iterate()
    torch.testing.assert_close(weights(online), weights(n_step))


TARGET = dict(environments=32, hidden=[], lr=0.05, gamma=0.9, total_steps=10_000, rollout_steps=2)
FEW_PASSES = dict(epochs=2, minibatches=2)  # PPO's usual many passes are too many for so little


@pytest.mark.parametrize("kind", ["discrete", "multi", "box"])
@pytest.mark.parametrize("algorithm", ["reinforce", "actor-critic", "ppo"])
def test_every_algorithm_learns_every_kind_of_action(kind, algorithm):
    config = tuned(preset(algorithm, "Target-v0"), **TARGET, log_std=-0.5)
    config.env_options = {"kind": kind}
    if algorithm == "ppo":
        config = tuned(config, **FEW_PASSES)
    if algorithm == "reinforce":
        config.rollout_steps = None
    training = Synchronous(config)
    scores = [training.iterate()["score"] for _ in range(120)]
    before, after = sum(scores[:3]) / 3, sum(scores[-5:]) / 5
    # Of real-valued actions some noise is left, which costs.
    assert after > before + 0.15 if kind == "box" else after > 0.85 > before + 0.2


@pytest.mark.parametrize(
    "options",
    [
        {"squash": True},
        {"state_dependent_std": True},
        {"squash": True, "state_dependent_std": True},
        {"shared": True, "hidden": [16], "activation": "relu", "orthogonal": False},
        {"normalise": True, "normalise_rewards": True},
    ],
    ids=str,
)
def test_every_policy_learns_real_valued_actions(options):
    config = tuned(preset("a2c", "Target-v0"), **{**TARGET, "lr": 0.03, **options})
    config = tuned(config, log_std=-0.5, env_options={"kind": "box"})
    training = Synchronous(config)
    lines = [training.iterate() for _ in range(200)]
    assert sum(line["score"] for line in lines[-5:]) / 5 > 0.75
    assert max(line["first_ratio_drift"] for line in lines) < 1e-4


def test_multi_step_actions_have_one_log_probability_a_step():
    for kind, width in (("multi", (2,)), ("box", (1,)), ("discrete", ())):
        config = tuned(preset("ppo", "Target-v0"), env_options={"kind": kind})
        rollout = Synchronous(config).collect()
        assert rollout.logprobs.shape == rollout.mask.shape
        assert rollout.actions.shape == (*rollout.mask.shape, *width)


def cartpole_rollouts(count: int) -> tuple[ActorCritic, list]:
    environments = make_environments("CartPole-v1", 8)
    policy = ActorCritic(
        environments.single_observation_space,
        environments.single_action_space,
        PolicyConfig(hidden=[8]),
    )
    collector = Collector(environments, policy)
    return policy, [collector.episodes() for _ in range(count)]


def test_gradient_noise_by_hand():
    policy, rollouts = cartpole_rollouts(40)
    plain = LearnerConfig(baseline="none", gamma=0.99)
    estimates = torch.stack([policy_gradient(policy, r, plain) for r in rollouts])
    noise = gradient_noise(policy, rollouts, plain)
    assert noise.variance == pytest.approx(float(estimates.var(0).sum()), rel=1e-5)
    assert noise.signal == pytest.approx(
        float(estimates.mean(0).square().sum()) - noise.variance / 40, rel=1e-4
    )


def test_presets_are_complete_and_unknown_names_are_told_the_nearest():
    for name in CONTROL_ALGORITHMS:
        preset(name).check()
        preset(name, "Nobody-v7").check()
    with pytest.raises(ValueError, match="did you mean 'ppo'"):
        preset("pppo")
    with pytest.raises(TypeError):
        tuned(preset("ppo"), no_such_field=1)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"environments": 0}, "environments"),
        ({"total_steps": -5}, "total_steps"),
        ({"rollout_steps": 0}, "rollout_steps"),
        ({"gamma": 1.5}, "gamma"),
        ({"lr": -1.0}, "lr"),
        ({"baseline": "none"}, "whole episodes"),
        ({"env": "CartPole-v9"}, "CartPole-v"),
        ({"env": "Cartpole-v1"}, "did you mean 'CartPole-v1'"),
        ({"env": "Blackjack-v1"}, "observation space"),
        ({"env_options": {"wheels": 3}}, "wheels"),
    ],
)
def test_bad_settings_are_named(values, said):
    with pytest.raises(ValueError, match=said):
        Synchronous(tuned(preset("ppo"), **values))
