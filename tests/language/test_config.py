"""Options of the text commands: an algorithm's settings, and what contradicts."""

from dataclasses import replace

import pytest

from rlhf_pg.core.algorithms import ALGORITHMS, algorithm
from rlhf_pg.language.config import TrainConfig, check, preset, train_config


@pytest.mark.parametrize(
    ("name", "critic", "samples", "epochs"),
    [
        ("reinforce", "none", 1, 1),
        ("reinforce-baseline", "shared", 1, 1),
        ("actor-critic", "shared", 1, 1),
        ("a2c", "shared", 1, 1),
        ("ppo", "shared", 1, 2),
        ("rloo", "none", 4, 1),
        ("grpo", "none", 4, 1),
        ("dapo", "none", 4, 1),
        ("gspo", "none", 4, 1),
        ("cispo", "none", 4, 1),
    ],
)
def test_a_config_has_the_settings_of_its_algorithm(name, critic, samples, epochs):
    """From Python as on the command line: no algorithm runs with the settings of another."""
    config = TrainConfig(algorithm=name)
    assert config == preset(name)
    assert (config.critic, config.samples_per_prompt) == (critic, samples)
    lr = {"dapo": 2.5e-4, "cispo": 1.25e-4}.get(name, 5e-4)
    assert config.learner == replace(ALGORITHMS[name], lr=lr, gamma=1.0, epochs=epochs)
    check(config)


def test_options_that_are_given_stay():
    learner = algorithm("rloo", lr=0.1)
    config = TrainConfig(algorithm="rloo", critic="detached", samples_per_prompt=2, learner=learner)
    assert (config.critic, config.samples_per_prompt) == ("detached", 2)
    assert config.learner is learner
    assert replace(config, rows=8).learner is learner


def test_a_learner_decides_what_else_is_needed():
    config = TrainConfig(learner=algorithm("grpo"))
    assert (config.critic, config.samples_per_prompt) == ("none", 4)


def test_configs_do_not_share_a_learner():
    first, second = TrainConfig(), TrainConfig()
    first.learner.lr = 1.0
    assert second.learner.lr == 5e-4 and ALGORITHMS["ppo"].lr != 1.0


def test_an_unknown_algorithm_is_an_error():
    with pytest.raises(ValueError, match="unknown algorithm 'rlo'.*did you mean 'rloo'"):
        TrainConfig(algorithm="rlo")


def test_a_runs_config_is_read_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("algorithm: rloo\nrows: 8\nlearner:\n  lr: 0.5\n  baseline: leave-one-out\n")
    config = train_config(tmp_path)
    assert (config.rows, config.learner.lr, config.learner.baseline) == (8, 0.5, "leave-one-out")
    path.write_text("algorithm: rloo\nrowz: 8\n")
    with pytest.raises(ValueError, match="config.yaml has options unknown .*: rowz"):
        train_config(tmp_path)
