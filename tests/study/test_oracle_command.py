"""What `rlhf-pg study oracle` prints and saves, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.study import oracle_command
from rlhf_pg.study.mdp import gridworld
from rlhf_pg.study.oracle import language_oracle
from rlhf_pg.study.oracle_command import OracleConfig, main
from rlhf_pg.study.tasks import opinion, random_llama, small_task


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def said(monkeypatch):
    """What is printed, as one text of 100 columns."""
    from rich.console import Console

    from rlhf_pg.study import oracle_display

    console = Console(width=100, record=True, highlight=False, soft_wrap=True, quiet=False)
    monkeypatch.setattr(oracle_command, "console", console)
    monkeypatch.setattr(oracle_display, "console", console)
    return lambda: console.export_text(clear=False)


def widest(text):
    return max(len(line) for line in text.splitlines() if not line.startswith("saved in"))


def no_reward(spec):
    raise AssertionError("the small task has a reward of its own")


def test_the_small_task_is_printed_and_saved(tmp_path, said):
    config = OracleConfig(max_new_tokens=3, kl_coef=0.3, output=str(tmp_path / "run"))
    run = main(config, no_reward)
    task = small_task(0, 3)
    truth = language_oracle(
        task.policy, task.reference, task.tokenizer, "film", opinion, 3, kl_coef=0.3
    )
    told = json.loads((run.path / "oracle.json").read_text())["prompts"][0]
    assert told["objective"] == pytest.approx(truth.objective)
    assert told["best_objective"] == pytest.approx(truth.best_objective)
    gap = told["best_objective"] - told["objective"]
    assert gap == pytest.approx(0.3 * told["kl_to_best"], abs=1e-5)  # an identity
    assert sum(c["p"] for c in told["completions"]) == pytest.approx(1, abs=1e-5)
    for completion in told["completions"]:
        words = [w for w in completion["text"].split() if not w.startswith("<")]
        assert opinion([" ".join(words)]) == [completion["score"]]
    saved = load_file(run.path / "oracle.safetensors")
    assert torch.equal(saved["0.gradient"], truth.gradient)
    assert torch.equal(saved["0.advantages"], truth.advantages)

    text = said()
    assert f"{truth.objective:.3f}" in text and f"{truth.best_objective:.3f}" in text
    assert "400 completions" in text and "likeliest under π*" in text
    likeliest = truth.episodes.actions[truth.probs.argmax()]
    assert task.tokenizer.decode(likeliest[:1]) in text
    assert widest(text) <= 100


def test_a_model_of_ones_own_with_several_prompts(tmp_path, said):
    tokenizer = models.train_tokenizer(["a b c"], "word")
    models.save(tmp_path / "model", random_llama(tokenizer, 1), tokenizer)
    asked = []

    def load_reward(spec):
        asked.append(spec)
        return lambda completions, **_: [float(text.count("b")) for text in completions]

    run = main(
        OracleConfig(
            model=str(tmp_path / "model"),
            reward="count-b",
            prompt=["a", "b c"],
            max_new_tokens=2,
            kl_coef=0.0,
            temperature=0.7,
            output=str(tmp_path / "run"),
        ),
        load_reward,
    )
    assert asked == ["count-b"]
    told = json.loads((run.path / "oracle.json").read_text())["prompts"]
    policy = LanguagePolicy(models.load(str(tmp_path / "model"))[0], temperature=0.7)
    truth = language_oracle(policy, None, tokenizer, "b c", load_reward(""), 2)
    assert told[1]["objective"] == pytest.approx(truth.objective)
    assert told[0]["best_objective"] == 2 and told[0]["kl"] == 0
    text = said()
    mean = sum(row["objective"] for row in told) / 2
    assert "their mean" in text and f"{mean:.3f}" in text and "best by score" in text


def test_the_gridworld_is_russell_and_norvigs(tmp_path, said):
    run = main(OracleConfig(mdp="gridworld", output=str(tmp_path / "run")), no_reward)
    told = json.loads((run.path / "oracle.json").read_text())
    best = gridworld().optimum()
    assert told["best"]["objective"] == pytest.approx(best.objective)
    assert len(told["q_values"]) == 9 and len(told["q_values"][0]) == 4
    assert "0.705" in said() and "right 1.00" in said()
    assert widest(said()) <= 100


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mdp": "maze"}, "choose among two-state, gridworld"),
        ({"mdp": "two-state", "model": "runs/base"}, "choose one"),
        ({"max_new_tokens": 6}, "137,257 completions"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"prompt": " "}, "none that is empty"),
        ({"prompt": []}, "at least one"),
        ({"model": "somewhere"}, "needs a --reward"),
        ({"model": "somewhere", "reward": "length"}, "needs a --prompt"),
        ({"kl_coef": -1.0}, "kl_coef must not be below 0"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(OracleConfig(**{"output": str(tmp_path / "run"), **options}), no_reward)
    assert not (tmp_path / "run").exists()
