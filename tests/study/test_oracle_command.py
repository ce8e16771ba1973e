"""What `rlhf-pg study oracle` prints and saves, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.progress import console
from rlhf_pg.study.config import OracleConfig
from rlhf_pg.study.mdp import gridworld
from rlhf_pg.study.oracle import language_oracle
from rlhf_pg.study.oracle_command import main
from rlhf_pg.study.tasks import opinion, random_llama, small_task


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def run_oracle(tmp_path, **options):
    """Run the command; returns oracle.json, the run's folder and what was printed."""
    with console.capture() as capture:
        run = main(OracleConfig(output=str(tmp_path / "run"), **options))
    lines = [line for line in capture.get().splitlines() if not line.startswith("saved in")]
    assert max(map(len, lines)) <= 100
    return json.loads((run.path / "oracle.json").read_text()), run.path, "\n".join(lines)


def test_the_small_task_is_printed_and_saved(tmp_path):
    saved, path, text = run_oracle(tmp_path, max_new_tokens=3, kl_coef=0.3)
    task = small_task(0, 3)
    truth = language_oracle(
        task.policy, task.reference, task.tokenizer, "film", opinion, 3, kl_coef=0.3
    )
    (row,) = saved["prompts"]
    assert row["objective"] == pytest.approx(truth.objective)
    assert row["score"] == pytest.approx(float(truth.probs @ truth.episodes.rewards.sum(1)))
    assert row["best_objective"] == pytest.approx(truth.best_objective)
    gap = row["best_objective"] - row["objective"]
    assert gap == pytest.approx(0.3 * row["kl_to_best"], abs=1e-5)  # an identity
    assert row["length"] == pytest.approx(float(truth.probs @ truth.episodes.mask.sum(1).double()))

    tensors = load_file(path / "oracle.safetensors")
    for name in ("gradient", "advantages", "probs", "best"):
        assert torch.equal(tensors[f"0.{name}"], getattr(truth, name))
    assert len(row["completions"]) == len(truth.probs)
    for completion, score in zip(row["completions"], tensors["0.scores"].tolist(), strict=True):
        words = [word for word in completion.split() if not word.startswith("<")]
        assert opinion([" ".join(words)]) == [score]

    assert f"−{-truth.objective:.4g}" in text and f"{truth.best_objective:.4g}" in text
    assert "400 completions of at most 3 tokens. J = E[score] - 0.3 KL" in text


def test_the_tree_shows_values_and_advantages_of_the_likeliest_tokens(tmp_path):
    _, _, text = run_oracle(tmp_path, max_new_tokens=3, kl_coef=0.3, show=6)
    task = small_task(0, 3)
    truth = language_oracle(
        task.policy, task.reference, task.tokenizer, "film", opinion, 3, kl_coef=0.3
    )
    lines = text[text.index(f"film   V {float(truth.values[0, 0]):+.3f}") :].splitlines()
    first = {}  # by token: a row that begins with it
    for row, ids in enumerate(truth.episodes.actions[:, 0].tolist()):
        first.setdefault(ids, row)
    order = sorted(first, key=lambda token: -float(truth.logprobs[first[token], 0]))

    def shown(token, row, step):
        numbers = (x[row, step] for x in (truth.logprobs.exp(), truth.q_values, truth.advantages))
        p, q, a = map(float, numbers)
        return f"── {task.tokenizer.decode([token]):<10}p {p:.3f}   Q {q:+.3f}   A {a:+.3f} "

    top = [line for line in lines if line.startswith(("├", "└"))]
    assert len(top) == 7 and "2 more" in top[-1]
    for line, token in zip(top, order[:6], strict=False):
        assert shown(token, first[token], 0) in line
    # Below the likeliest token: the tokens that follow it, and no other's.
    likeliest = [r for r, ids in enumerate(truth.episodes.actions.tolist()) if ids[0] == order[0]]
    second = {
        truth.episodes.actions[r, 1].item(): r for r in likeliest if truth.episodes.mask[r, 1]
    }
    ahead = sorted(second, key=lambda token: -float(truth.logprobs[second[token], 1]))
    for line, token in zip(lines[2:7], ahead, strict=False):
        assert line.startswith("│   ") and shown(token, second[token], 1) in line
    assert "3 more" in lines[7]


def test_a_model_of_ones_own_with_several_prompts(tmp_path):
    tokenizer = models.train_tokenizer(["a b c"], "word")
    models.save(tmp_path / "model", random_llama(tokenizer, 1), tokenizer)
    reward = tmp_path / "mine.py"
    reward.write_text("def b(completions, **_): return [float(t.count('b')) for t in completions]")
    saved, _, text = run_oracle(
        tmp_path,
        model=str(tmp_path / "model"),
        reward=f"{reward}:b",
        prompt=["a", "b c"],
        max_new_tokens=2,
        kl_coef=0.0,
        temperature=0.7,
    )
    rows = saved["prompts"]
    policy = LanguagePolicy(models.load(str(tmp_path / "model"))[0], temperature=0.7)
    truths = [
        language_oracle(
            policy,
            None,
            tokenizer,
            p,
            lambda completions, **_: [t.count("b") for t in completions],
            2,
        )
        for p in ("a", "b c")
    ]
    assert rows[1]["objective"] == pytest.approx(truths[1].objective)
    assert rows[0]["best_objective"] == 2 and rows[0]["kl"] == 0 and "kl_to_best" not in rows[0]
    (mean,) = [line for line in text.splitlines() if "mean" in line]
    gradient = (truths[0].gradient + truths[1].gradient) / 2
    assert f"{sum(t.objective for t in truths) / 2:.4g}" in mean
    assert f"{float(gradient.norm()):.4g}" in mean
    assert "b c   V " in text


def test_the_gridworld_is_russell_and_norvigs(tmp_path):
    saved, _, text = run_oracle(tmp_path, mdp="gridworld")
    best = gridworld().optimum()
    assert saved["best"]["objective"] == pytest.approx(best.objective)
    assert len(saved["q_values"]) == 9 and len(saved["q_values"][0]) == 4
    uniform = gridworld().exact(torch.zeros(9, 4))
    assert f"J −{-uniform.objective:.3g}" in text and "J* 0.705" in text
    assert "(1, 1)    V -1.587   V* +0.705   π* up 1.00" in text
    assert "right     p 0.250   Q +0.637   A +0.953 ████" in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mdp": "maze"}, "choose among two-state, gridworld"),
        ({"mdp": "two-state", "model": "runs/base"}, "not both"),
        ({"max_new_tokens": 6}, "137,257 completions"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"show": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature must be at least"),
        ({"prompt": " "}, "none that is empty"),
        ({"prompt": []}, "at least one"),
        ({"model": "somewhere"}, "needs a --reward"),
        ({"model": "somewhere", "reward": "length"}, "needs a --prompt"),
        ({"kl_coef": -1.0}, "kl_coef must be at least 0"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(OracleConfig(**{"output": str(tmp_path / "run"), **options}))
    assert not (tmp_path / "run").exists()
