"""Estimators in environments of one step, whose gradient is a sum over states and actions."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlhf_pg.control.collect import make_environments
from rlhf_pg.control.config import ControlConfig, PolicyConfig, preset, tuned
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.control.train import train
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.study.config import EstimatorsConfig
from rlhf_pg.study.estimators.measure import estimate
from rlhf_pg.study.estimators.methods import methods
from rlhf_pg.study.estimators.sources import (
    Environment,
    actor_parameters,
    control_run,
    trained_environment,
)
from rlhf_pg.study.estimators.statistics import known

CONFIG = EstimatorsConfig(rows=8, truth_rows=4000, critic_batches=10, estimates=40)
STATES, ACTIONS = 3, 2


class Guess(gymnasium.Env):
    """One step: in state s action a pays PAYS[s][a], and every state is as likely."""

    PAYS = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 1.0]])
    observation_space = spaces.Discrete(STATES)
    action_space = spaces.Discrete(ACTIONS)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(STATES))
        return self.state, {}

    def step(self, action):
        return self.state, float(self.PAYS[self.state, action]), True, False, {}


class Endless(gymnasium.Env):
    """Every step pays 1 and nothing ends but by the time limit of 5 steps."""

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action):
        return np.ones(1, dtype=np.float32), 1.0, False, False, {}


@pytest.fixture(scope="module", autouse=True)
def environments():
    gymnasium.register("Guess-v0", entry_point=Guess)
    gymnasium.register("Endless5-v0", entry_point=Endless, max_episode_steps=5)
    yield
    del gymnasium.registry["Guess-v0"], gymnasium.registry["Endless5-v0"]


LINEAR = PolicyConfig(hidden=[])


def new_policy(env, config=LINEAR, critic=True):
    vector = make_environments(env, 1)
    vector.close()
    return ActorCritic(vector.single_observation_space, vector.single_action_space, config, critic)


def environment(env, policy, gamma=1.0):
    run = ControlConfig(env=env, learner=LearnerConfig(gamma=gamma))
    return Environment(CONFIG, run, policy, "")


def guessing(critic=True):
    """A linear policy whose probabilities are far from even, and a critic that is wrong."""
    policy = new_policy("Guess-v0", critic=critic)
    with torch.no_grad():
        policy.actor[0].weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.5, 0.3]]))
    return environment("Guess-v0", policy, gamma=0.9)


def by_hand(source):
    """grad J, and E g and E|g|^2 of an episode with the critic's baseline, by all six episodes."""
    policy, parameters = source.policy, actor_parameters(source.policy)
    states = torch.eye(STATES)
    logprobs = policy.actor(states).log_softmax(-1)
    pays = torch.tensor(Guess.PAYS, dtype=torch.float32)
    values = policy.values(states).detach()

    def flat(x):
        gradients = torch.autograd.grad(x, parameters, retain_graph=True)
        return torch.cat([g.flatten() for g in gradients]).double()

    truth = flat((logprobs.exp() * pays).sum() / STATES)
    mean, square = 0.0, 0.0
    for s in range(STATES):
        for a in range(ACTIONS):
            probability = float(logprobs[s, a].detach().exp()) / STATES
            g = flat(logprobs[s, a]) * float(pays[s, a] - values[s])
            mean, square = mean + probability * g, square + probability * float(g @ g)
    return truth, mean, square


def test_a_sampled_truth_is_the_sum_over_states_and_actions():
    source = guessing()
    truth = source.truth(source.policy)
    expected, mean, _ = by_hand(source)
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
    away = float((truth.mean.double() - expected).norm() / expected.norm())
    assert 0.2 * truth.relative_error < away < 2.5 * truth.relative_error < 0.3
    assert truth.episodes == CONFIG.truth_rows


def test_of_one_step_all_bootstraps_are_one_estimator_with_the_variance_by_hand():
    source = guessing()
    batches = [source.batch() for _ in range(200)]
    truth = source.truth(source.policy)
    chosen = [
        method
        for method in methods(source.gamma, source.ppo, {"own": [0.0, 0.5, 1.0]})
        if method.family == "gae" or method.name == "critic (own), λ=1"
    ]
    entries = estimate(source.policy, batches, chosen, {}, truth)
    expected, mean, square = by_hand(source)
    exact = known(mean, square, CONFIG.rows, type(truth)(expected[None], 6), False)
    for entry in entries:
        assert entry["bias_squared"] < 3 * entry["bias_squared_se"]
        assert entry["variance"] == pytest.approx(entries[0]["variance"], rel=1e-4)
        for name in ("variance", "snr"):
            assert abs(entry[name] - exact[name]) < 4 * entry[f"{name}_se"], name


def test_a_critic_is_fitted_where_there_is_none():
    source = guessing(critic=False)
    assert list(source.critics) == ["fitted"] and source.policy.critic is not None
    states = torch.eye(STATES)

    def error(policy):
        probs = policy.actor(states).softmax(-1)
        true = (probs * torch.tensor(Guess.PAYS, dtype=torch.float32)).sum(1)
        return float((policy.values(states) - true).detach().abs().mean())

    # The rate is small, but 40 steps of 0.003 go the right way.
    assert error(source.policy) < error(guessing().policy) - 0.1
    actor = guessing().policy.actor[0].weight
    assert torch.equal(source.policy.actor[0].weight, actor)


def test_a_time_limit_is_an_end_for_every_estimator():
    """The same five rewards of 1, whatever a critic would add after them."""
    policy = new_policy("Endless5-v0")
    torch.nn.init.constant_(policy.critic[0].bias, 100.0)
    source = environment("Endless5-v0", policy, gamma=0.5)
    rollout = source.batch()["own"]
    assert len(rollout) == 8 and rollout.group_size == 4
    assert (rollout.next_values[:, -1] == 0).all() and (rollout.next_values[:, 0] > 50).all()
    assert not torch.equal(rollout.logprobs, source.batch()["own"].logprobs)


def test_fitting_leaves_a_trunk_alone_that_the_critic_shares():
    policy = new_policy("Guess-v0", PolicyConfig(hidden=[4], shared=True), critic=False)
    source = environment("Guess-v0", policy)
    for name, before in policy.state_dict().items():
        assert torch.equal(source.policy.state_dict()[name], before), name
    assert all(p.requires_grad for p in source.policy.parameters())


def test_the_truth_of_another_policy_is_sampled_from_it():
    source, other = guessing(), guessing().policy
    with torch.no_grad():
        other.actor[0].weight.mul_(-2)
    source.truth(source.policy)
    truth = source.truth(other)
    expected, _, _ = by_hand(environment("Guess-v0", other))
    away = float((truth.mean.double() - expected).norm() / expected.norm())
    assert away < 2.5 * truth.relative_error < 0.5


def of_run(path):
    return control_run(replace(CONFIG, model=str(path)))


def test_a_folder_that_is_no_run_of_control_says_so(tmp_path):
    (tmp_path / "config.yaml").write_text("env: CartPole-v1\nseeds: 5\n")  # of `rlhf-pg compare`
    with pytest.raises(ValueError, match="holds no control run|options unknown"):
        of_run(tmp_path)


def test_a_policy_that_a2c_has_trained():
    config = replace(CONFIG, env="CartPole-v1", probe_steps=2_000)
    source = trained_environment(config)
    assert list(source.critics) == ["own"] and source.gamma == 0.98 and source.ppo.clip == 0.2
    assert source.ppo.gamma == 0.98
    assert "steps of a2c, γ 0.98" in source.task
    with pytest.raises(ValueError, match="CartPol-v1"):
        trained_environment(replace(config, env="CartPol-v1"))


@pytest.mark.parametrize("changes", [{}, {"normalise_rewards": True}, {"entropy_temperature": 0.1}])
def test_a_run_of_control(tmp_path, changes):
    config = tuned(preset("a2c", "Guess-v0"), total_steps=600, eval_episodes=4, rollout_steps=2)
    config = tuned(config, output=str(tmp_path / "run"), gamma=0.7, normalise=False, **changes)
    path = train(config).path
    source = of_run(path)
    assert source.gamma == source.ppo.gamma == 0.7
    # A critic of other rewards does not know these.
    assert list(source.critics) == (["fitted"] if changes else ["own"])
    truth = source.truth(source.policy)
    away = float((truth.mean.double() - by_hand(source)[0]).norm())
    assert away < 3 * truth.relative_error * truth.squared_norm**0.5
    with pytest.raises(ValueError, match="no control policy"):
        (tmp_path / "run" / "policy" / "policy.safetensors").unlink()
        of_run(path)
