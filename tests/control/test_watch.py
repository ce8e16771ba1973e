"""A trained agent is recorded as a GIF; errors name what is missing."""

import importlib.util

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

import rlhf_pg
from rlhf_pg.control.config import WatchConfig, preset, tuned
from rlhf_pg.control.policy import encode
from rlhf_pg.control.train import train
from rlhf_pg.control.watch import Agent, watch


def trained(folder, env: str) -> str:
    config = tuned(
        preset("a2c", env), total_steps=100, eval_episodes=2, hidden=[4], output=str(folder)
    )
    return str(train(config).path)


def test_an_animation_of_the_agent(tmp_path):
    path = watch(WatchConfig(trained(tmp_path / "run", "Counter-v0"), episodes=2))
    assert path == tmp_path / "run" / "watch.gif"
    with Image.open(path) as picture:
        # Two episodes, of two steps and three.
        assert (picture.n_frames, picture.size) == (5, (30, 20))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "Target-v0"])
def test_an_agent_acts_in_an_environment(tmp_path, env):
    run = trained(tmp_path / "run", env)
    agent, same = rlhf_pg.load(run), Agent.load(run)
    environment = gymnasium.make(env)
    observation, _ = environment.reset(seed=1)
    actions = [agent.act(observation) for _ in range(50)]
    assert all(environment.action_space.contains(action) for action in actions)
    np.testing.assert_array_equal(actions, [same.act(observation) for _ in range(50)])
    assert len(np.unique(actions)) > 1
    greedy = [agent.act(observation, greedy=True) for _ in range(5)]
    outputs = agent.policy.outputs(torch.from_numpy(encode(agent.space, np.array([observation]))))
    if env != "Pendulum-v1":
        offset = agent.policy.distribution.start
        assert set(map(int, greedy)) == {int(outputs.argmax()) + offset}
    assert len(np.unique(greedy)) == 1


def test_a_missing_package_is_named(tmp_path):
    run = trained(tmp_path / "run", "CartPole-v1")
    if importlib.util.find_spec("pygame") is None:
        with pytest.raises(ValueError, match="rlhf-pg\\[render"):
            watch(WatchConfig(run))
    else:
        assert watch(WatchConfig(run, max_frames=5)).stat().st_size > 0


def test_a_folder_that_is_no_run_and_a_damaged_one(tmp_path):
    with pytest.raises(ValueError, match="holds no control run"):
        watch(WatchConfig(str(tmp_path)))
    run = trained(tmp_path / "run", "Counter-v0")
    (tmp_path / "run" / "policy" / "policy.safetensors").write_bytes(b"not a policy")
    with pytest.raises(ValueError, match="damaged"):
        watch(WatchConfig(run))
    (tmp_path / "run" / "policy" / "policy.safetensors").unlink()
    with pytest.raises(ValueError, match="no control policy"):
        watch(WatchConfig(run))
