"""A run opened again says what it said when it was saved."""

import json

import pytest
import torch
import yaml
from rlhf_pg.language.settings import preset
from rlhf_pg.language.trained import open_trained
from rlhf_pg.language.training import train

from rlhf_pg.runs import read_jsonl

from .conftest import PROMPTS


def likes_good(completions, **_):
    return [float(text.split().count("good")) for text in completions]


@pytest.fixture
def run(base, tmp_path):
    def trained(**changes):
        path = tmp_path / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
        config = preset("a2c")
        config.model, config.data, config.output = base, str(path), str(tmp_path / "run")
        config.iterations, config.rows, config.max_new_tokens, config.device = 3, 8, 6, "cpu"
        config.reward, config.temperature, config.samples_kept = "good", 0.8, 3
        config.samples_every, config.learner.lr = 1, 1e-2
        for key, value in changes.items():
            setattr(config, key, value)
        return train(config, likes_good).path

    return trained


def load_reward(spec):
    assert spec in ("good", "film-notes-gold")  # the gold score of the data that is shipped
    return likes_good


@pytest.mark.parametrize("critic", ["shared", "detached", "separate"])
def test_policy_critic_and_reference_come_back(run, critic, base):
    path = run(critic=critic)
    opened = open_trained(str(path), load_reward)
    assert opened.policy.critic == critic and opened.policy.temperature == 0.8
    generator = torch.Generator().manual_seed(0)
    answers = opened.task.answer(opened.policy, opened.prompts, generator, opened.kl_coef)
    assert answers.rollout.values.abs().max() > 1e-3  # a critic that has learned something
    assert answers.drift.abs().max() > 1e-3  # and a policy that has left the reference
    # The record of the last iteration was made before its update; one more makes the run's own.
    # So the parameters themselves must be those that were saved.
    from safetensors.torch import load_file

    state = opened.policy.model.state_dict()
    for name, tensor in load_file(path / "policy" / "model.safetensors").items():
        assert torch.equal(state[name], tensor)
    origin = load_file(f"{base}/model.safetensors")
    assert all(
        torch.equal(opened.task.reference.model.state_dict()[n], x) for n, x in origin.items()
    )


def test_a_run_opens_by_the_model_inside_it(run):
    path = run()
    assert open_trained(str(path / "policy"), load_reward).path == path


def test_options_replace_the_runs(run):
    opened = open_trained(str(run()), load_reward, max_new_tokens=3, reference=None)
    assert opened.task.config.max_new_tokens == 3 and opened.task.config.temperature == 0.8


def test_an_adaptive_coefficient_is_taken_where_it_ended(run):
    path = run(kl_target=0.001, kl_horizon=20.0)
    last = read_jsonl(path / "metrics.jsonl")[-1]["kl_coef"]
    assert open_trained(str(path), load_reward).kl_coef == last != 0.2


def test_a_model_that_is_no_run_needs_a_reward(base):
    with pytest.raises(ValueError, match="give --reward"):
        open_trained(base, load_reward)
    opened = open_trained(base, load_reward, reward="good")
    assert opened.policy.critic == "none" and opened.prompts["prompt"]


def test_options_of_another_version_are_named(run):
    path = run()
    options = yaml.safe_load((path / "config.yaml").read_text())
    options["learner"]["momentum"] = 1
    (path / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(ValueError, match="config.yaml has options unknown .*: momentum"):
        open_trained(str(path), load_reward)


def test_a_run_whose_beginning_is_gone_says_where_to_look(run, base):
    import shutil

    path = run()
    shutil.rmtree(base)
    with pytest.raises(ValueError, match="go to the folder that it was trained in"):
        open_trained(str(path), load_reward)


def test_a_lost_critic_is_missed(run):
    path = run(critic="separate")
    (path / "policy" / "critic" / "value_head.safetensors").unlink()
    with pytest.raises(ValueError, match="no critic in .*value_head.safetensors is missing"):
        open_trained(str(path), load_reward)
