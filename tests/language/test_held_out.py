"""Measuring on held-out prompts while a run learns: what is measured, and that it changes nothing.

A second way to the numbers: `evaluate` on the policy that the run saved.
"""

import json
import random
from pathlib import Path

import pytest

from reward_models.loading import load_reward
from rlhf_pg.checkpoint import Stopped
from rlhf_pg.language import models
from rlhf_pg.language.config import preset
from rlhf_pg.language.evaluate import Bench, evaluate
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.train import Trainer, resume, train
from rlhf_pg.runs import METRICS, read_jsonl
from support.language import PROMPTS, count_good, write_rows
from support.runs import content

TIMES = ("seconds", "tokens_per_second")


@pytest.fixture
def config_of(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("prompts.jsonl", [{"prompt": p} for p in PROMPTS[:3]])
    write_rows("held_out.jsonl", [{"prompt": p} for p in PROMPTS[2:]])

    def config_of(output, **changes):
        config = preset("rloo")
        config.model, config.data, config.output, config.device = (
            base,
            "prompts.jsonl",
            output,
            "cpu",
        )
        config.iterations, config.rows, config.max_new_tokens, config.temperature = 5, 8, 4, 0.8
        config.reward, config.gold, config.checkpoint_every = "length:target=4", "missing-eos", 2
        for name, value in ({"eval_data": "held_out.jsonl", "eval_every": 2} | changes).items():
            setattr(config, name, value)
        return config

    return config_of


def lines_of(run):
    rows = read_jsonl(Path(run) / "metrics.jsonl")
    return [{name: x for name, x in row.items() if name not in TIMES} for row in rows]


def training(line):
    return {name: x for name, x in line.items() if not name.startswith("eval_")}


def test_it_is_measured_every_few_iterations_and_at_the_end_and_changes_nothing(config_of):
    def noisy(completions, **_):  # uses a global generator
        return [len(text) + random.random() for text in completions]

    for output, changes in {"with": {}, "without": {"eval_data": None}}.items():
        random.seed(0)
        train(config_of(output, **changes), noisy)
    with_it, without = lines_of("with"), lines_of("without")
    assert [training(line) for line in with_it] == without
    measured = [line["iteration"] for line in with_it if "eval_score" in line]
    assert measured == [2, 4, 5]
    assert all({"eval_kl", "eval_gold"} <= set(with_it[i - 1]) <= set(METRICS) for i in measured)
    weights = [content(run) for run in ("with", "without")]
    name = "policy/model.safetensors"
    assert weights[0][name] == weights[1][name]


def test_the_numbers_are_those_of_the_saved_policy_on_the_held_out_prompts(config_of):
    config = config_of("run")
    train(config)
    model, tokenizer = models.load("run")
    reference = LanguagePolicy(models.load(config.model)[0], 0.8, "none")
    rewards = {"score": load_reward("length:target=4"), "gold": load_reward("missing-eos")}
    columns = {"prompt": PROMPTS[2:]}
    bench = Bench(reference, tokenizer, columns, rewards, 4)
    means, _ = evaluate(bench, LanguagePolicy(model, 0.8, "none"), columns, config.seed, 8)
    last = lines_of("run")[-1]
    for name in ("score", "gold", "kl"):
        assert last[f"eval_{name}"] == pytest.approx(means[name], abs=1e-5), name
    assert last["eval_kl"] != last["kl"]


def test_the_best_policy_is_that_of_the_greatest_held_out_score(config_of):
    config = config_of("run", iterations=5, samples_every=1, eval_every=1)
    config.learner.lr = 0.02
    train(config, lambda completions, **_: [-float(len(text)) for text in completions])
    scores = {x["iteration"]: x["eval_score"] for x in lines_of("run") if "eval_score" in x}
    best = json.loads(Path("run/best/best.json").read_text())
    assert best == {"iteration": max(scores, key=scores.get), "eval_score": max(scores.values())}
    assert len(set(scores.values())) > 1


def test_a_resumed_run_measures_and_keeps_the_same(config_of):
    train(config_of("whole"))
    with pytest.raises(Stopped):
        train(config_of("parts"), until=3)
    resume(Path("parts"))
    assert content(Path("whole")) == content(Path("parts"))


def test_other_held_out_prompts_are_refused_in_a_resumed_run(config_of):
    with pytest.raises(Stopped):
        train(config_of("run"), until=2)
    write_rows("held_out.jsonl", [{"prompt": p} for p in PROMPTS])
    with pytest.raises(ValueError, match="held_out.jsonl have changed since the run began"):
        resume(Path("run"))


def test_running_moments_of_a_reward_do_not_see_the_held_out_texts(config_of):
    trainer = Trainer(config_of("run"), "length", count_good)
    seen = []
    trainer.reward.state_dict = lambda: {"moments": len(seen)}
    trainer.reward.load_state_dict = seen.append
    measured = trainer.held_out(2)
    assert seen == [{"moments": 0}] and measured.keys() == {"eval_score", "eval_gold", "eval_kl"}
    assert abs(measured["eval_kl"]) < 1e-5 and trainer.held_out(2) == measured
    assert trainer.held_out(3) == {}
