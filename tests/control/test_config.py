"""Presets are complete, bad options are named, and a run's configuration can be read again."""

import subprocess
import sys

import pytest

from rlhf_pg.control.config import CONTROL_ALGORITHMS, ControlConfig, preset, read_config, tuned
from rlhf_pg.control.train import Trainer
from rlhf_pg.runs import Run


def test_options_import_nothing_heavy():
    script = "import sys, rlhf_pg.control.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    modules = done.stdout.split()
    assert "rlhf_pg.control.config" in modules
    assert not {"torch", "numpy", "gymnasium"} & set(modules)


def test_presets_are_complete_and_an_unknown_name_gets_the_nearest():
    for name in CONTROL_ALGORITHMS:
        preset(name).check()
        preset(name, "Unknown-v7").check()
    with pytest.raises(ValueError, match="did you mean 'ppo'"):
        preset("pppo")
    with pytest.raises(TypeError):
        tuned(preset("ppo"), no_such_field=1)


def test_tuned_values_go_to_the_part_that_has_the_field():
    config = tuned(preset("ppo"), seed=7, lr=0.5, hidden=[3], total_steps=9)
    assert (config.seed, config.learner.seed, config.learner.lr) == (7, 0, 0.5)
    assert (config.policy.hidden, config.total_steps) == ([3], 9)
    assert preset("ppo", "Pendulum-v1").policy.squash and not preset("ppo").policy.squash


@pytest.mark.parametrize(
    "values, message",
    [
        ({"environments": 0}, "environments"),
        ({"total_steps": -5}, "total_steps"),
        ({"rollout_steps": 0}, "rollout_steps"),
        ({"workers": 0}, "workers"),
        ({"gamma": 1.5}, "gamma"),
        ({"gamma": 0.0}, "gamma must be above 0"),
        ({"lr": -1.0}, "lr"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"baseline": "none"}, "whole episodes"),
        ({"algorithm": "a3c", "normalise": True}, "unset policy.normalise"),
        ({"algorithm": "a3c", "normalise_rewards": True}, "unset normalise_rewards"),
        ({"algorithm": "a3c", "target_entropy": 0.3}, "unset target_entropy"),
        ({"env": "CartPole-v9"}, "CartPole-v"),
        ({"env": "Cartpole-v1"}, "did you mean 'CartPole-v1'"),
        ({"env_options": {"wheels": 3}}, "wheels"),
    ],
)
def test_bad_options_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        Trainer(tuned(preset("ppo"), **values))


def test_the_configuration_of_a_run_is_read_again(tmp_path):
    config = tuned(preset("ppo", "Pendulum-v1"), seed=4)
    assert read_config(Run.create(tmp_path / "run", "run", config).path) == config


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "holds no control run: its config.yaml names no env"),
        ("env: CartPole-v1\nlearner: {momentum: 1}\n", "momentum"),
        ("env: CartPole-v1\npolicy: {depth: 1}\n", "depth"),
        ("env: CartPole-v1\nseeds: 5\n", "seeds"),
        ("algorithm: ppo\n", "holds no control run"),
    ],
)
def test_a_folder_without_a_control_run_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(tmp_path)


def test_defaults_are_those_of_ppo():
    assert ControlConfig().learner.clip == preset("ppo").learner.clip == 0.2
