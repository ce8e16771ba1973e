"""A control run is evaluated again: the last policy, the best one, or that of a checkpoint."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rlhf_pg.checkpoint import checkpoint_folders
from rlhf_pg.cli import main
from rlhf_pg.control.collect import make_environments
from rlhf_pg.control.watch import Agent
from rlhf_pg.runs import read_jsonl

WORDS = "control --env CartPole-v1 --algorithm a2c --total_steps 6000 --eval_interval 1000 "
WORDS += "--eval_episodes 5 --checkpoint_every 3 --output run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(WORDS.split()) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def evaluated(words: str) -> dict:
    assert main(["evaluate", *words.split(), "--output", "result.json"]) == 0
    with open("result.json") as file:
        return json.load(file)


def test_the_mean_is_that_of_episodes_played_one_by_one(capsys):
    found = evaluated("run --episodes 6 --greedy")
    assert len(found["scores"]) == found["episodes"] == 6
    assert found["score"] == pytest.approx(np.mean(found["scores"]))
    assert found["standard_error"] == pytest.approx(np.std(found["scores"]) / 6**0.5)
    assert found["lengths"] == found["scores"]  # CartPole pays 1 per step
    # The same episodes, step by step by the agent in the same seeded environments.
    agent = Agent.load("run")
    environments = make_environments("CartPole-v1", 6)
    environments.reset(seed=0)
    observations, _ = environments.reset()
    scores, over = np.zeros(6), np.zeros(6, dtype=bool)
    while not over.all():
        actions = np.array([agent.act(one, greedy=True) for one in observations])
        observations, rewards, ended, cut, _ = environments.step(actions)
        scores += rewards * ~over
        over |= ended | cut
    assert scores.tolist() == found["scores"]
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "over 6 greedy episodes of CartPole-v1, seed 0" in said and "the threshold of 475" in said
    )


def test_the_seed_repeats_it_and_another_differs():
    first, again, other = (evaluated(f"run --seed {seed}")["scores"] for seed in (3, 3, 4))
    assert first == again != other and len(first) == 5  # the run's eval_episodes


def test_the_best_policy_is_that_of_the_greatest_evaluation():
    lines = [line for line in read_jsonl(Path("run/metrics.jsonl")) if "eval_score" in line]
    best = max(lines, key=lambda line: line["eval_score"])
    with open("run/best/config.json") as file:
        about = json.load(file)
    assert (about["iteration"], about["score"]) == (best["iteration"], best["eval_score"])
    same = best["iteration"] == read_jsonl(Path("run/metrics.jsonl"))[-1]["iteration"]
    assert same or evaluated("run/best")["scores"] != evaluated("run")["scores"]


def test_an_unfinished_run_is_evaluated_by_its_newest_checkpoint(folder, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "part", ignore=shutil.ignore_patterns("policy"))
    newest = checkpoint_folders(folder / "run")[0]
    assert main(["evaluate", str(tmp_path / "part")]) == 2
    assert "holds no control policy" in capsys.readouterr().err
    shutil.copytree(newest, tmp_path / "part/checkpoints" / newest.name, dirs_exist_ok=True)
    found = evaluated(str(tmp_path / "part"))
    assert f"unfinished: using iteration {int(newest.name)}" in capsys.readouterr().out
    assert found["scores"] == evaluated(f"{newest}/policy")["scores"]


def test_options_of_the_other_kind_are_refused(capsys):
    assert main("evaluate run --best_of 4".split()) == 2
    assert "is a run of `rlhf-pg control`: --best_of" in capsys.readouterr().err
    assert main("evaluate base --greedy".split()) == 2
    assert "base is no run of" in capsys.readouterr().err
