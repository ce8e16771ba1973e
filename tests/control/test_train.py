"""One loop under several names: algorithms coincide where they must, learn, and leave a run."""

import json

import pytest
import torch

from rlhf_pg.control.config import preset, tuned
from rlhf_pg.control.policy import load_policy
from rlhf_pg.control.train import (
    EVALUATION_SEED,
    WORKER_SEED,
    RunState,
    Trainer,
    learn,
    surely_reaches,
    train,
)
from rlhf_pg.core.learner import LearnerConfig


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.policy.parameters()])


# -- one learner -----------------------------------------------------------------------------------


def test_a2c_is_ppo_with_one_epoch():
    """arXiv 2205.09123: one epoch, one minibatch, no whitening, values unclipped."""
    shared = dict(environments=4, rollout_steps=16, gamma=0.98, lam=0.95, lr=1e-3)
    a2c = Trainer(tuned(preset("a2c"), **shared))
    ppo = Trainer(tuned(preset("ppo"), **shared, epochs=1, minibatches=1, whiten_advantages=False))
    for _ in range(5):
        a2c.step(), ppo.step()
    torch.testing.assert_close(weights(a2c), weights(ppo), atol=1e-6, rtol=1e-5)


def test_actor_critic_is_a2c_with_one_step_returns():
    online = Trainer(tuned(preset("actor-critic"), rollout_steps=8))
    settings = vars(online.config.learner)
    n_step = Trainer(tuned(preset("a2c"), environments=online.config.environments, rollout_steps=8))
    n_step.learner.config = LearnerConfig(**{**settings, "lam": 0.5, "n_steps": 1})
    for group in n_step.learner.optimizer.param_groups:
        group["lr"] = settings["lr"]
    for _ in range(3):
        online.step(), n_step.step()
    torch.testing.assert_close(weights(online), weights(n_step))


def test_same_seed_same_run():
    def trained(seed: int) -> tuple[torch.Tensor, list[dict[str, float]]]:
        trainer = Trainer(tuned(preset("ppo"), seed=seed))
        metrics = [trainer.step() for _ in range(3)]
        return weights(trainer), metrics

    first, again, other = trained(1), trained(1), trained(2)
    assert first[0].equal(again[0]) and first[1] == again[1]
    assert not first[0].equal(other[0]) and first[1] != other[1]


def test_the_first_run_of_a_process_is_the_same_as_a_later_one(monkeypatch):
    """The first one begins with as many threads as there are cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        states = [RunState(tuned(preset("ppo"), eval_episodes=2)) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert weights(states[0].trainer).equal(weights(states[1].trainer))


def test_workers_of_different_ranks_have_different_streams():
    first, second = (Trainer(preset("ppo"), rank=rank) for rank in (0, 1))
    assert weights(first).equal(weights(second))
    assert not first.collector.segment(8).inputs.equal(second.collector.segment(8).inputs)
    orders = [torch.randperm(99, generator=t.learner.generator) for t in (first, second)]
    assert not orders[0].equal(orders[1])


# -- learning --------------------------------------------------------------------------------------

TARGET = dict(environments=32, hidden=[], lr=0.05, gamma=0.9, total_steps=10_000, rollout_steps=2)
FEW_PASSES = dict(epochs=2, minibatches=2)  # PPO's usual many passes are too many for so little


@pytest.mark.parametrize("kind", ["discrete", "multi", "box"])
@pytest.mark.parametrize("algorithm", ["reinforce", "actor-critic", "ppo"])
def test_every_algorithm_learns_every_kind_of_action(kind, algorithm):
    config = tuned(preset(algorithm, "Target-v0"), **TARGET, log_std=-0.5)
    config.env_options = {"kind": kind}
    if algorithm == "ppo":
        config = tuned(config, **FEW_PASSES)
    if algorithm == "reinforce":
        config.rollout_steps = None
    trainer = Trainer(config)
    scores = [trainer.step()["score"] for _ in range(120)]
    before, after = sum(scores[:3]) / 3, sum(scores[-5:]) / 5
    # Real-valued actions keep some noise, which costs.
    assert after > before + 0.15 if kind == "box" else after > 0.85 > before + 0.2


@pytest.mark.parametrize(
    "options",
    [
        {"squash": True},
        {"state_dependent_std": True},
        {"squash": True, "state_dependent_std": True},
        {"shared": True, "hidden": [16], "activation": "relu", "orthogonal": False},
        {"normalise": True, "normalise_rewards": True},
    ],
    ids=str,
)
def test_every_policy_learns_real_valued_actions(options):
    config = tuned(preset("a2c", "Target-v0"), **{**TARGET, "lr": 0.03, **options})
    config = tuned(config, log_std=-0.5, env_options={"kind": "box"})
    trainer = Trainer(config)
    lines = [trainer.step() for _ in range(200)]
    assert sum(line["score"] for line in lines[-5:]) / 5 > 0.75
    assert max(line["first_ratio_drift"] for line in lines) < 1e-4


def test_actions_of_several_dimensions_have_one_log_probability_a_step():
    for kind, width in (("multi", (2,)), ("box", (1,)), ("discrete", ())):
        config = tuned(preset("ppo", "Target-v0"), env_options={"kind": kind})
        rollout = Trainer(config).collector.segment(5)
        assert rollout.logprobs.shape == rollout.mask.shape
        assert rollout.actions.shape == (*rollout.mask.shape, *width)


@pytest.mark.parametrize("rollout_steps", [5, None])
@pytest.mark.parametrize("lam", [0.9, 1.0])
def test_a_time_limit_is_not_a_termination(rollout_steps, lam):
    """Reward 1, truncated every 10 steps: V is 1 / (1 - gamma) = 10; 6.5 if it were terminal."""
    config = tuned(preset("a2c", "Endless-v0"), gamma=0.9, environments=4, lr=0.1, hidden=[])
    trainer = Trainer(tuned(config, rollout_steps=rollout_steps, lam=lam, value_coef=1.0))
    for _ in range(120):
        trainer.step()
    assert trainer.policy.values(torch.ones(1)).item() == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("algorithm", ["reinforce-baseline", "ppo", "a2c"])
def test_cartpole_is_solved(algorithm):
    config = tuned(preset(algorithm), threshold=475.0, eval_interval=5_000, total_steps=300_000)
    outcome = learn(RunState(config))
    assert outcome.solved
    assert outcome.score >= 475


# -- the loop --------------------------------------------------------------------------------------

SHORT = dict(environments=2, rollout_steps=10, hidden=[4], eval_episodes=3)


def test_evaluations_come_at_intervals_and_end_the_run_at_the_threshold():
    config = tuned(preset("a2c", "Counter-v0"), **SHORT, total_steps=400, eval_interval=100)
    logged = []
    state = RunState(config)
    evaluations, evaluate = [], state.evaluate
    state.evaluate = lambda: evaluations.append(evaluate()) or evaluations[-1]
    outcome = learn(state, logged.append)
    assert not outcome.lines and state.iteration == len(logged)  # the log has them
    assert logged[-1]["steps"] == outcome.steps >= 400 > logged[-2]["steps"]
    at = [line["steps"] for line in logged if "eval_score" in line]
    assert 3 <= len(at) <= 4 and min(b - a for a, b in zip([0, *at], at, strict=False)) >= 100
    assert not outcome.solved and outcome.seconds > 0
    # One more at the end, which is the score of the run.
    assert [line["eval_score"] for line in logged if "eval_score" in line] == [
        scores.mean() for scores in evaluations[:-1]
    ]
    assert outcome.score == evaluations[-1].mean() and len(evaluations[-1]) == 3
    outcome.lines = logged
    assert outcome.evaluations() == {
        "steps": [*at, outcome.steps], "scores": [scores.mean() for scores in evaluations]
    }  # fmt: skip
    # Every score is at least 3, the return of the shortest episode.
    solved = learn(RunState(tuned(config, threshold=1.0)))
    assert solved.solved and solved.steps == at[0]


def test_a_threshold_is_reached_by_two_standard_errors():
    scores = torch.tensor([4.0, 6.0] * 50).numpy()  # mean 5, standard error 0.1
    assert surely_reaches(scores, 4.79) and not surely_reaches(scores, 4.81)
    assert not surely_reaches(scores, None)


def test_evaluation_has_its_own_environments_seed_and_way_to_act():
    state = RunState(tuned(preset("a2c"), eval_episodes=32, environments=32, greedy=True))
    training, evaluation = state.trainer.collector, state.evaluation
    assert evaluation.environments is not training.environments
    assert not (evaluation.observations == training.observations).all()
    assert evaluation.policy is training.policy
    assert evaluation.greedy and not training.greedy
    assert EVALUATION_SEED % WORKER_SEED  # nor are its episodes those of an a3c worker
    state.close()


def test_the_entropy_temperature_is_in_the_reward_and_in_the_metrics():
    plain = Trainer(tuned(preset("a2c"), seed=1))
    warm = Trainer(tuned(preset("a2c"), seed=1, entropy_temperature=0.5))
    before, after = plain.step(), warm.step()
    assert after["entropy_temperature"] == 0.5 and "entropy_temperature" not in before
    assert not weights(plain).equal(weights(warm))


# -- the run folder --------------------------------------------------------------------------------


def test_the_run_folder_is_complete(tmp_path, capsys):
    config = tuned(
        preset("ppo"), total_steps=3000, eval_interval=1000, eval_episodes=5, normalise=True
    )
    outcome = train(tuned(config, output=str(tmp_path / "run"), threshold=490.0))
    folder = tmp_path / "run"
    assert outcome.path == folder
    assert {p.name for p in folder.iterdir()} - {".lock"} == {
        "config.yaml",
        "config.signature",
        "metrics.jsonl",
        "training.actions",
        "evaluation.actions",
        "best",
        "policy",
        "curve.svg",
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["steps"] == outcome.steps >= 3000
    assert any("eval_score" in line for line in lines)
    assert all(line["first_ratio_drift"] < 1e-5 for line in lines)
    assert [line["iteration"] for line in lines] == list(range(1, len(lines) + 1))
    spaces = Trainer(config).collector.environments
    policy = load_policy(
        folder / "policy", spaces.single_observation_space, spaces.single_action_space
    )
    assert policy.normaliser is not None
    assert policy.normaliser.count > 2900  # the moments are saved too
    printed = capsys.readouterr().out
    assert "the threshold of 490 was not reached" in printed
    assert f"rlhf-pg inspect {folder}" in printed and "±" in printed
    curve = (folder / "curve.svg").read_text()
    for label in ("training", "evaluation", "threshold 490", "entropy, nats per action"):
        assert label in curve


def test_one_evaluation_episode_has_no_standard_error(tmp_path, capsys):
    config = tuned(preset("a2c", "Counter-v0"), **{**SHORT, "eval_episodes": 1}, total_steps=20)
    train(tuned(config, output=str(tmp_path / "run")))
    assert "±" not in capsys.readouterr().out


def test_an_early_collapse_of_the_entropy_is_logged_once(tmp_path, capsys):
    config = tuned(preset("a2c", "Target-v0"), **TARGET, entropy_coef=0.0)
    train(tuned(config, output=str(tmp_path / "run"), eval_episodes=2, lr=1.0))
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert text.count("entropy_collapsed") == 1
    assert capsys.readouterr().out.count("warning: entropy collapsed early") == 1
