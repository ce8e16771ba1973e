"""Algorithms side by side, with the noise of their gradients at the same policy."""

import json
import xml.etree.ElementTree as xml
from statistics import stdev

import pytest
import torch

from rlhf_pg.control.collect import Collector, make_environments
from rlhf_pg.control.compare import compare, draw, gradient_noise
from rlhf_pg.control.config import CompareConfig, PolicyConfig
from rlhf_pg.control.policy import ActorCritic
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.gradients import GradientNoise, policy_gradient


def test_comparison_of_three(tmp_path, capsys):
    config = CompareConfig(
        algorithms=["reinforce", "reinforce-baseline", "actor-critic"],
        seeds=2,
        total_steps=1500,
        eval_interval=700,
        eval_episodes=4,
        gradient_batches=20,
        probe_steps=6000,
        output=str(tmp_path / "c"),
    )
    rows = {row.algorithm: row for row in compare(config)}
    noise = {name: row.gradient_noise for name, row in rows.items()}
    assert rows["reinforce"].gradient_variance > rows["reinforce-baseline"].gradient_variance
    assert noise["reinforce"] > noise["reinforce-baseline"]
    assert rows["reinforce-baseline"].gradient_cosine == pytest.approx(1)
    names = {path.name for path in (tmp_path / "c").iterdir()} - {".lock"}
    assert names == {"config.yaml", "config.signature", "table.md", "results.json", "curves.svg"}
    saved = json.loads((tmp_path / "c" / "results.json").read_text())
    assert len(saved["runs"]["reinforce"]) == 2
    last = [run["scores"][-1] for run in saved["runs"]["reinforce"]]
    assert rows["reinforce"].score == pytest.approx(sum(last) / 2)
    assert rows["reinforce"].score_std == pytest.approx(stdev(last))
    steps = [run["steps"][-1] for run in saved["runs"]["reinforce"]]
    assert rows["reinforce"].steps == sum(steps) / 2 >= 1500
    assert "| reinforce | 0/2 |" in (tmp_path / "c" / "table.md").read_text()
    # In the terminal, a table without Markdown; 475 is CartPole's own threshold.
    printed = capsys.readouterr().out
    assert "CartPole-v1, 2 seeds, solved at 475" in printed and "|---" not in printed
    assert "each, all at one policy" in printed and " ± " in printed


def test_one_seed_has_no_deviation_and_a_lost_signal_no_ratio(tmp_path, capsys, monkeypatch):
    common = dict(total_steps=64, eval_episodes=2, algorithms=["ppo"], seeds=1)
    (row,) = compare(CompareConfig(**common, gradient_batches=0, output=str(tmp_path / "a")))
    assert row.score_std is None and row.gradient_cosine is None
    assert "gradients:" not in capsys.readouterr().out
    lost = GradientNoise(torch.ones(3), variance=4.0, signal=-0.5)
    assert lost.ratio == float("inf")
    learners = []
    monkeypatch.setattr(
        "rlhf_pg.control.compare.gradient_noise",
        lambda policy, rollouts, learner: learners.append(learner) or lost,
    )
    common["algorithms"] = ["grpo"]
    (row,) = compare(CompareConfig(**common, probe_steps=1, output=str(tmp_path / "b")))
    assert [learner.baseline for learner in learners] == ["critic", "group"]
    assert {learner.gamma for learner in learners} == {0.98}  # the probe's, not each preset's
    assert (row.gradient_variance, row.gradient_noise) == (4.0, None)
    saved = (tmp_path / "b" / "results.json").read_text()
    assert "±" not in capsys.readouterr().out and "Infinity" not in saved
    assert (tmp_path / "b" / "table.md").read_text().splitlines()[2].endswith("| 4 | – | 1 |")


def test_curves_are_the_mean_and_the_range_over_seeds():
    """Until a run ends; from then on its last score counts."""
    runs = [
        {"steps": [10.0, 20.0], "scores": [0.0, 100.0]},
        {"steps": [10.0, 40.0], "scores": [100.0, 100.0]},
    ]
    picture = draw(CompareConfig(threshold=50.0, seeds=2), {"ppo": runs})
    root = xml.fromstring(picture)
    nodes = {}
    for node in root.iter():
        nodes.setdefault(node.tag.split("}")[-1], []).append(node)
    mean = [tuple(map(float, p.split(","))) for p in nodes["polyline"][0].get("points").split()]
    # Mean 50 at 10 steps, and 100 from 20 to 40.
    assert len(mean) == 3 and mean[0][1] > mean[1][1] == mean[2][1]
    threshold = nodes["polyline"][1].get("points").split()
    assert {float(p.split(",")[1]) for p in threshold} == {mean[0][1]}
    edges = [p.split(",") for p in nodes["polygon"][0].get("points").split()]
    at_ten = sorted(float(y) for x, y in edges if float(x) == mean[0][0])
    assert at_ten[0] == mean[1][1] and at_ten[1] - at_ten[0] == 2 * (mean[0][1] - mean[1][1])
    labels = ["".join(node.itertext()) for node in nodes["text"]]
    assert any(label.startswith("ppo") for label in labels) and "threshold 50" in labels
    one = draw(CompareConfig(seeds=1), {"ppo": runs[:1]})
    assert "polygon" not in one and "threshold" not in one


def test_gradient_noise_by_hand():
    environments = make_environments("CartPole-v1", 8)
    policy = ActorCritic(
        environments.single_observation_space,
        environments.single_action_space,
        PolicyConfig(hidden=[8]),
    )
    collector = Collector(environments, policy)
    rollouts = [collector.episodes() for _ in range(40)]
    plain = LearnerConfig(baseline="none", gamma=0.99)
    estimates = torch.stack(
        [policy_gradient(policy, r, plain, policy.actor_parameters()) for r in rollouts]
    )
    # The loss is the plain policy gradient's, whatever the algorithm's is.
    clipped = LearnerConfig(baseline="none", gamma=0.99, clip=0.2, reduction="token")
    noise = gradient_noise(policy, rollouts, clipped)
    assert noise.variance == pytest.approx(float(estimates.var(0).sum()), rel=1e-5)
    assert noise.signal == pytest.approx(
        float(estimates.mean(0).square().sum()) - noise.variance / 40, rel=1e-4
    )


def test_bad_names_stop_it_before_anything_is_written(tmp_path):
    for values in ({"algorithms": ["pppo"]}, {"env": "Nowhere-v0"}, {"seeds": 0}):
        with pytest.raises(ValueError):
            compare(CompareConfig(**values, output=str(tmp_path / "c")))
    assert not (tmp_path / "c").exists()
