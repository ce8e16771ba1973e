"""The reward functions that TRL ships (extra: bench) train a policy, unchanged."""

import shutil

import pytest

from rlhf_pg.language.config import TrainConfig
from rlhf_pg.language.train import train
from rlhf_pg.runs import read_jsonl
from support.language import write_rows

pytest.importorskip("trl")
pytest.importorskip("math_verify")
from trl import rewards  # noqa: E402


def functions():
    return {
        "accuracy": rewards.accuracy_reward,
        "reasoning": rewards.reasoning_accuracy_reward,
        "think": rewards.think_format_reward,
        "cosine": rewards.get_cosine_scaled_reward(max_len=6),
        "repetition": rewards.get_repetition_penalty_reward(ngram_size=1),
        "overlong": rewards.get_soft_overlong_punishment(max_completion_len=6, soft_punish_cache=4),
    }


def test_all_reward_functions_of_trl_train_a_policy(base_with_template, tmp_path):
    """One of two problems has no solution that can be parsed: accuracy does not apply to it."""
    ask = [{"role": "user", "content": "the film"}]
    solutions = [r"$\frac{1}{3}$", ""]
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": ask, "solution": s} for s in solutions])
    config = TrainConfig(
        algorithm="grpo",
        model=base_with_template,
        data=data,
        iterations=1,
        rows=8,
        max_new_tokens=6,
        samples_every=1,
        samples_kept=8,
        device="cpu",
        output=str(tmp_path / "run"),
    )
    run = train(config, functions())
    (line,) = read_jsonl(run.path / "metrics.jsonl")
    parts = {name.removeprefix("reward/"): x for name, x in line.items() if "reward/" in name}
    assert parts.keys() == functions().keys()
    assert parts["accuracy"] == parts["think"] == 0 and parts["overlong"] < 0
    assert -1 <= parts["cosine"] <= -0.5  # always wrong
    samples = read_jsonl(run.path / "samples.jsonl")
    assert {row["extra/solution"] for row in samples} == set(solutions)


def test_problems_without_a_solution_are_left_out(base_with_template, tmp_path):
    ask = [{"role": "user", "content": "the film"}]
    rows = [{"prompt": ask, "solution": s} for s in ("$1$", "")]
    config = TrainConfig(
        algorithm="rloo",
        model=base_with_template,
        data=write_rows(tmp_path / "p.jsonl", rows),
        iterations=1,
        rows=8,
        max_new_tokens=4,
        device="cpu",
        output=str(tmp_path / "run"),
    )
    run = train(config, rewards.accuracy_reward)
    (line,) = read_jsonl(run.path / "metrics.jsonl")
    assert line["score"] == 0 and line["scored"] == 0.5


@pytest.fixture
def base_with_template(base, tmp_path):
    """The tiny model with a chat template."""
    folder = tmp_path / "chat"
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    return str(folder)
