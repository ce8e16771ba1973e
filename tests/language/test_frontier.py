"""The frontier: laws recovered from their own points, the optimum by enumeration, a whole sweep."""

import json
import math
import xml.etree.ElementTree as xml

import pytest
import torch
from rlhf_pg.language.overoptimisation import Law, fit
from torch.testing import assert_close

from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.language.enumeration import enumerable, every_completion, optima
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import reference_logprobs

from .conftest import tiny_lm

TEXT = ["a b", "b a"]


def length(completions, **_):
    return [float(len(text.split())) for text in completions]


@pytest.fixture
def letters():
    """<pad>, <eos>, <unk>, a and b."""
    return models.train_tokenizer(TEXT, "word")


@pytest.fixture
def speaker(letters):
    return LanguagePolicy(tiny_lm("llama", letters, spread=0.1), critic="none")


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_law_is_found_again_from_its_own_points(logarithmic):
    true = Law(1.3, 0.4, logarithmic, 0.0)
    bend = math.log if logarithmic else float
    points = [(d, d * (1.3 - 0.4 * bend(d))) for d in (0.2, 0.7, 1.5, 3.0)]
    assert [true.gain(d) for d, _ in points] == pytest.approx([gain for _, gain in points])
    found = fit([(0.0, 0.0), *points], logarithmic)
    assert (found.alpha, found.beta) == pytest.approx((1.3, 0.4))
    assert found.residual == pytest.approx(0, abs=1e-9) and found.gain(0.0) == 0.0


def test_a_law_needs_two_distances():
    assert fit([(0.0, 0.0), (1.0, 2.0)], True) is None


def test_every_completion_is_there_once_with_probabilities_that_add_to_one(letters, speaker):
    done = every_completion(speaker, letters, "a", 3)
    assert len(done.texts) == 1 + 4 + 16 + 64
    rows = {tuple(ids[mask].tolist()) for ids, mask in zip(done.ids, done.mask, strict=True)}
    assert len(rows) == len(done.texts)
    logp = reference_logprobs(speaker, done).masked_fill(~done.mask, 0).sum(1)
    assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert int(done.finished.sum()) == 1 + 4 + 16


def test_the_optimum_is_beta_log_z_and_no_other_policy_is_better(letters, speaker):
    columns = {"prompt": ["a", "b a"]}
    (best,) = optima(speaker, letters, columns, length, 3, [0.5])
    values = []
    for prompt in columns["prompt"]:
        done = every_completion(speaker, letters, prompt, 3)
        ref = reference_logprobs(speaker, done).masked_fill(~done.mask, 0).sum(1).double()
        scores = torch.tensor(length(done.texts)).double()
        values.append(0.5 * float((ref + scores / 0.5).logsumexp(0)))
        generator = torch.Generator().manual_seed(0)
        for size in (0.0, 0.1, 1.0):  # any other: pi* disturbed, and the reference itself
            noise = size * torch.randn(len(ref), generator=generator)
            for logits in (ref + scores / 0.5 + noise, ref + noise):
                logp = logits.log_softmax(0)
                other = float((logp.exp() * (scores - 0.5 * (logp - ref))).sum())
                assert other <= values[-1] + 1e-6
    assert best.objective == pytest.approx(sum(values) / 2, abs=1e-6)
    assert best.objective == pytest.approx(best.score - 0.5 * best.kl)


def test_the_exact_frontier_rises_and_bends(letters, speaker):
    found = optima(speaker, letters, {"prompt": ["a"]}, length, 3, [0.1, 0.3, 1.0, 3.0, 0.0])
    assert [row.kl_coef for row in found] == [3.0, 1.0, 0.3, 0.1]  # 0 has no finite optimum
    assert [row.kl for row in found] == sorted(row.kl for row in found)
    slopes = torch.tensor([[row.kl, row.score] for row in found]).diff(dim=0)
    slopes = slopes[:, 1] / slopes[:, 0]
    assert (slopes > 0).all() and (slopes.diff() < 0).all()


def test_a_prompts_own_columns_reach_the_reward(letters, speaker):
    def asked(completions, wanted, **_):
        assert len(set(wanted)) == 1
        return [float(text.strip().startswith(wanted[0])) for text in completions]

    columns = {"prompt": ["a", "a"], "wanted": ["b", "a"]}
    (row,) = optima(speaker, letters, columns, asked, 2, [0.01])
    assert row.score == pytest.approx(1, abs=1e-4)


def test_what_is_too_large_to_enumerate():
    assert enumerable(5, 3, 4) and not enumerable(200, 40, 1) and not enumerable(5, 3, 10_000)


@pytest.fixture
def sweep(tmp_path, letters):
    """A sweep over a task that can be enumerated."""
    models.save(tmp_path / "base", tiny_lm("llama", letters, spread=0.1), letters)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (tmp_path / "long.py").write_text(
        "def words(completions, **_):\n    return [float(len(t.split())) for t in completions]\n"
    )

    def run(*options):
        return main(
            ["frontier", "--model", f"{tmp_path}/base", "--data", f"{tmp_path}/prompts.jsonl",
             "--reward", f"{tmp_path}/long.py:words", "--gold", "length:target=2",
             "--device", "cpu",
             "--max_new_tokens", "3", "--missing_eos_penalty", "0", "--best_of", "16",
             "--algorithm", "rloo", "--output", str(tmp_path / "out"), *options]
        )  # fmt: skip

    return run


def test_a_sweep_lies_under_the_optimum_and_best_of_n_with_it(sweep, tmp_path, capsys):
    options = ["--coefficients", "[0.3, 1.0]", "--iterations", "30", "--rows", "64", "--lr", "0.01"]
    assert sweep(*options, "--samples_per_prompt", "64") == 0
    found = json.loads((tmp_path / "out" / "frontier.json").read_text())
    far, near = found["trained"]
    assert far["kl_coef"] == 0.3 and far["kl"] > near["kl"] and far["score"] > near["score"]
    exact = {round(row["kl_coef"], 6): row for row in found["optimum"]}
    for row in (far, near):
        objective = row["score"] - row["kl_coef"] * row["kl"]
        best = exact[row["kl_coef"]]["objective"]
        start = found["base"]["score"]
        assert objective <= best + 0.15  # up to the noise of 128 completions
        assert objective - start > 0.7 * (best - start)
    for row in found["best_of_n"]:
        above = min(best["score"] for best in found["optimum"] if best["kl"] >= row["kl"])
        assert row["score"] <= above + 0.1
    law = found["laws"]["score"]["best_of_n"]
    assert law["alpha"] > 0 and not law["logarithmic"]
    said = capsys.readouterr().out
    assert "optimum, KL coefficient 0.3" in said and "gains d (" in said


def test_the_picture_is_an_svg_of_both_scores(sweep, tmp_path):
    assert sweep("--coefficients", "[0.5]", "--iterations", "1", "--rows", "8") == 0
    picture = xml.parse(tmp_path / "out" / "frontier.svg").getroot()
    texts = [node.text for node in picture.iter() if node.tag.endswith("text")]
    assert {"reward", "gold", "trained", "best of n", "optimum", "√KL to the base"} <= set(texts)
    assert len([node for node in picture.iter() if node.tag.endswith("circle")]) == 2 * (1 + 5)
    # a run of its own for each coefficient, that can be sampled from and repeated
    assert (tmp_path / "out" / "kl-0.5" / "policy" / "config.json").is_file()


@pytest.mark.parametrize(
    ("coefficients", "said"),
    [("[]", "coefficients"), ("[0.1, 0.1]", "differ"), ("[-1]", "negative")],
)
def test_coefficients_that_make_no_sweep_are_named(sweep, tmp_path, coefficients, said, capsys):
    assert sweep("--coefficients", coefficients) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_gains_are_counted_from_best_of_one():
    """One sample is the base itself: nothing gained at distance 0."""
    assert_close(torch.tensor(Law(2.0, 1.0, False, 0.0).gain(1.0)), torch.tensor(1.0))
