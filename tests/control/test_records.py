"""Episodes step by step: what they add up to, and that every key is documented."""

import pytest
import torch

from rlhf_pg.control.config import preset
from rlhf_pg.control.records import episodes
from rlhf_pg.control.train import train
from rlhf_pg.core.returns import gae
from rlhf_pg.runs import EPISODE, TOKEN


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs: with named actions, with real-valued ones, and without a critic."""
    made = {}
    for name, algorithm, env in (
        ("cartpole", "ppo", "CartPole-v1"),
        ("pendulum", "ppo", "Pendulum-v1"),
        ("plain", "reinforce", "CartPole-v1"),
    ):
        config = preset(algorithm, env)
        config.total_steps, config.eval_episodes, config.environments = 500, 2, 2
        config.output = str(tmp_path_factory.mktemp(name) / "run")
        train(config)
        made[name] = tmp_path_factory.getbasetemp() / config.output
    return made


def column(record, name):
    return torch.tensor([[float(token[name]) for token in record["tokens"]]])


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "plain"])
def test_the_equations_hold_and_every_key_is_documented(runs, name):
    for record in episodes(runs[name], 2):
        assert set(record) == set(EPISODE) and set(record["tokens"][0]) <= set(TOKEN)
        rewards, values, following = (column(record, x) for x in ("reward", "value", "next_value"))
        assert record["score"] == pytest.approx(float(rewards.sum()), rel=1e-5)
        ends = torch.zeros_like(rewards)
        ends[0, -1] = 1
        expected = gae(rewards, values, following, ends, record["gamma"], record["lam"])
        if name == "plain":  # nothing is subtracted: what is still to come
            assert not values.any()
            expected = gae(rewards, values, following, ends, record["gamma"], 1.0)
        torch.testing.assert_close(column(record, "advantage"), expected, atol=1e-4, rtol=1e-4)
        delta = rewards + record["gamma"] * following - values
        torch.testing.assert_close(column(record, "delta"), delta, atol=1e-5, rtol=1e-5)
        # The next value of a step is the value of the next one.
        assert torch.equal(following[0, :-1], values[0, 1:])


def test_an_action_has_its_name_and_its_probability(runs):
    record = episodes(runs["cartpole"], 1)[0]
    assert {token["token"] for token in record["tokens"]} == {"left", "right"}
    for token in record["tokens"]:
        top = dict(token["top"])
        assert sum(top.values()) == pytest.approx(1, abs=1e-4)
        probability = float(torch.tensor(token["logprob"]).exp())
        assert top[token["token"]] == pytest.approx(probability, abs=1e-4)
    assert episodes(runs["pendulum"], 1)[0]["tokens"][0]["top"] == []


def test_falling_terminates_and_the_time_limit_truncates(runs):
    fallen = episodes(runs["cartpole"], 1)[0]
    assert fallen["finished"] and fallen["tokens"][-1]["next_value"] == 0
    assert fallen["completion"] == f"{len(fallen['tokens'])} steps, terminated"
    cut = episodes(runs["pendulum"], 1)[0]
    assert not cut["finished"] and cut["tokens"][-1]["next_value"] != 0
    assert cut["completion"] == "200 steps, cut by the time limit"


def test_the_same_seed_plays_the_same(runs):
    first, again, other = (episodes(runs["cartpole"], 2, seed) for seed in (3, 3, 4))
    assert first == again and first[0]["tokens"] != other[0]["tokens"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no control run"):
        episodes(tmp_path, 1)
