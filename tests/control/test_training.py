"""Training learns what it should, and leaves a whole run folder."""

import json

import pytest
import torch

from rlhf_pg.control.policies import load_policy
from rlhf_pg.control.presets import preset, tuned
from rlhf_pg.control.synchronous import Synchronous
from rlhf_pg.control.training import learn, start, train


@pytest.mark.parametrize("algorithm", ["reinforce-baseline", "ppo", "a2c"])
def test_cartpole_is_solved(algorithm):
    config = tuned(preset(algorithm), threshold=475.0, eval_interval=5_000, total_steps=300_000)
    outcome = learn(start(config), config, lambda line: None)
    assert outcome.solved
    assert outcome.score >= 475


def endless(**values) -> Synchronous:
    """Reward 1 for ever: the critic must come to 1 / (1 - gamma) = 10."""
    config = tuned(preset("a2c", "Endless-v0"), gamma=0.9, environments=4, lr=0.1, hidden=[])
    training = Synchronous(tuned(config, **values))
    for _ in range(120):
        training.iterate()
    return training


@pytest.mark.parametrize("rollout_steps", [5, None])
@pytest.mark.parametrize("lam", [0.9, 1.0])
def test_a_time_limit_is_no_end_of_the_world(rollout_steps, lam):
    """Truncated every 10 steps, V is that of an infinite horizon; cut off as terminal, 6.5."""
    training = endless(rollout_steps=rollout_steps, lam=lam, value_coef=1.0)
    assert training.policy.values(torch.ones(1)).item() == pytest.approx(10, rel=0.03)


def test_the_run_folder_is_whole(tmp_path):
    config = tuned(
        preset("ppo"), total_steps=3000, eval_interval=1000, eval_episodes=5, normalise=True
    )
    result = train(tuned(config, output=str(tmp_path / "run")))
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "policy",
        "curve.png",
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["steps"] == result.outcome.steps >= 3000
    assert any("eval_score" in line for line in lines)
    assert all(line["first_ratio_drift"] < 1e-5 for line in lines)
    training = Synchronous(config)
    spaces = training.collector.environments
    policy = load_policy(
        folder / "policy", spaces.single_observation_space, spaces.single_action_space
    )
    assert policy.normaliser is not None
    assert policy.normaliser.count > 2900  # the moments came along


def test_same_seed_same_run():
    def weights(seed: int) -> torch.Tensor:
        training = Synchronous(tuned(preset("ppo"), seed=seed))
        for _ in range(3):
            training.iterate()
        return torch.cat([p.detach().flatten() for p in training.policy.parameters()])

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))
