"""Episodes step by step: what they add up to, and that every key is documented."""

import json
import shutil

import pytest
import torch

from rlhf_pg.control.collect import Collector
from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.records import episodes
from rlhf_pg.control.train import train
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.returns import gae
from rlhf_pg.runs import EPISODE, TOKEN, read_jsonl


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Short runs: named actions, real-valued ones, no critic, shaped rewards, moving average."""
    made = {}
    for name, algorithm, env, options in (
        ("cartpole", "ppo", "CartPole-v1", {}),
        ("pendulum", "ppo", "Pendulum-v1", {}),
        ("plain", "reinforce", "CartPole-v1", {}),
        ("compared", "rloo", "CartPole-v1", {}),
        ("average", "reinforce", "CartPole-v1", {"baseline": "moving-average"}),
        ("shaped", "a2c", "CartPole-v1", {"normalise_rewards": True, "target_entropy": 0.3,
                                          "entropy_temperature": 0.1}),
        ("whitened", "a2c", "Pendulum-v1", {"whiten_rewards": True}),
    ):  # fmt: skip
        config = tuned(preset(algorithm, env), **options)
        config.total_steps, config.eval_episodes, config.environments = 500, 2, 2
        config.output = str(tmp_path_factory.mktemp(name) / "run")
        train(config)
        made[name] = tmp_path_factory.getbasetemp() / config.output
    return made


def column(record, name):
    return torch.tensor([[float(token[name]) for token in record["tokens"]]])


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "plain", "shaped"])
def test_the_equations_hold_and_every_key_is_documented(runs, name):
    for record in episodes(runs[name], 2):
        assert set(record) == set(EPISODE) and set(record["tokens"][0]) <= set(TOKEN)
        rewards, values, following = (column(record, x) for x in ("reward", "value", "next_value"))
        assert record["score"] == pytest.approx(float(column(record, "score").sum()), rel=1e-5)
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


def last_metrics(run):
    return read_jsonl(run / "metrics.jsonl")[-1]


@pytest.mark.parametrize("name", ["pendulum", "shaped"])
def test_rewards_are_those_that_the_critic_was_trained_on(runs, name):
    """Scaled and shaped as at the end of the run, beside the environment's own."""
    last = last_metrics(runs[name])
    scale, temperature = last["reward_scale"], last.get("entropy_temperature", 0.0)
    assert 0 < scale < 1 and (name == "pendulum" or temperature > 0)
    for record in episodes(runs[name], 2):
        assert record["reward_scale"] == scale and record["entropy_temperature"] == temperature
        raw, logprobs = column(record, "score"), column(record, "logprob")
        expected = (raw * scale).clamp(-10, 10) - temperature * logprobs
        torch.testing.assert_close(column(record, "reward"), expected, atol=1e-5, rtol=1e-5)


def test_the_recorded_scale_is_that_of_the_learners_last_rollout(monkeypatch, tmp_path):
    config = tuned(preset("a2c", "Pendulum-v1"), normalise_rewards=True, total_steps=64,
                   environments=2, eval_episodes=1)  # fmt: skip
    config.output = str(tmp_path / "run")
    seen = []
    collect, update = Collector.collect, Learner.update
    monkeypatch.setattr(
        Collector, "collect", lambda self, n: seen.append(collect(self, n)) or seen[-1]
    )
    monkeypatch.setattr(Learner, "update", lambda self, r: seen.append(r) or update(self, r))
    train(config)
    raw, given = seen[-2].rewards, seen[-1].rewards
    scale = episodes(tmp_path / "run", 1)[0]["reward_scale"]
    torch.testing.assert_close(given, (raw * scale).clamp(-10, 10))


def test_whitened_rewards_stand_beside_the_critic_of_whitened_ones(runs):
    records = episodes(runs["whitened"], 3)
    rewards, raw = (
        torch.cat([column(record, name)[0] for record in records]) for name in ("reward", "score")
    )
    assert float(rewards.var(correction=0)) == pytest.approx(1, abs=1e-3)
    assert float(rewards.mean()) == pytest.approx(float(raw.mean()), rel=1e-4)
    assert records[0]["reward_scale"] == pytest.approx(1 / float(raw.std(correction=0)), rel=1e-3)


def test_without_a_critic_the_advantage_is_that_of_the_runs_baseline(runs):
    records, returns = episodes(runs["compared"], 2), []  # as many as the run's environments
    for record in records:
        total = 0.0
        for token in reversed(record["tokens"]):
            total = token["reward"] + record["gamma"] * total
        returns.append(total)
    for i, record in enumerate(records):
        expected = torch.full_like(column(record, "advantage"), returns[i] - returns[1 - i])
        torch.testing.assert_close(column(record, "advantage"), expected, atol=1e-4, rtol=1e-5)
    one = episodes(runs["compared"], 1)[0]  # also if fewer are shown than are compared
    assert one["tokens"][0]["advantage"] == records[0]["tokens"][0]["advantage"]
    average = last_metrics(runs["average"])["constant_baseline"]
    last = episodes(runs["average"], 1)[0]["tokens"][-1]
    assert last["advantage"] == pytest.approx(last["reward"] - average, rel=1e-5)


def test_a_run_that_did_not_record_its_scale_is_refused(runs, tmp_path):
    copy = shutil.copytree(runs["pendulum"], tmp_path / "run")
    lines = read_jsonl(copy / "metrics.jsonl")
    for line in lines:
        del line["reward_scale"]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="no reward_scale"):
        episodes(copy, 1, trust=True)


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
