"""The frontier: laws recovered from their own points, and a whole sweep."""

import json
import math
import xml.etree.ElementTree as xml

import pytest

from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.language.config import EvaluateConfig, FrontierConfig
from rlhf_pg.language.evaluate import open_bench
from rlhf_pg.language.frontier import Law, _laws, _measuring, _training, fit
from support.language import tiny_lm, write_rows


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_law_is_recovered_from_its_own_points(logarithmic):
    true = Law(1.3, 0.4, logarithmic, 0.0)
    bend = math.log if logarithmic else float
    points = [(d, d * (1.3 - 0.4 * bend(d))) for d in (0.2, 0.7, 1.5, 3.0)]
    assert [true.gain(d) for d, _ in points] == pytest.approx([gain for _, gain in points])
    fitted = fit([(0.0, 0.0), *points], logarithmic)
    assert (fitted.alpha, fitted.beta) == pytest.approx((1.3, 0.4))
    assert fitted.residual == pytest.approx(0, abs=1e-9) and fitted.gain(0.0) == 0.0


def test_gains_by_hand():
    assert Law(2.0, 1.0, False, 0.0).gain(1.0) == 1.0 and Law(2.0, 1.0, True, 0.0).gain(1.0) == 2.0


def test_a_law_needs_two_distances():
    assert fit([(0.0, 0.0), (1.0, 2.0)], True) is None


def test_laws_are_fitted_to_the_gain_over_the_root_of_the_kl():
    """Rows made from known laws; the gain is over the base's own mean, which is n = 1."""
    true = {"best_of_n": Law(1.3, 0.4, False, 0.0), "trained": Law(0.9, -0.2, True, 0.0)}
    distances = {"best_of_n": [0.0, 0.5, 1.0, 1.5], "trained": [0.4, 2.0, 3.0]}
    result = {
        way: [{"kl": d**2, "gold": 5.0 + true[way].gain(d)} for d in distances[way]] for way in true
    }
    found = _laws(result, "gold")
    for way, law in true.items():
        assert found[way]["alpha"] == pytest.approx(law.alpha)
        assert found[way]["beta"] == pytest.approx(law.beta)
        assert found[way]["logarithmic"] == law.logarithmic


def test_runs_and_measurements_have_the_options_of_the_sweep(base):
    config = FrontierConfig(
        algorithm="rloo", model=base, reward="length", gold="distinct", data="a.jsonl",
        iterations=7, rows=12, lr=0.3, max_new_tokens=5, temperature=0.6, missing_eos_penalty=0.4,
        prompts=9, samples_per_prompt=3, best_of=2, device="cpu", seed=11,
    )  # fmt: skip
    training, measuring = _training(config, 0.7), _measuring(config, "other")
    for name in (
        "algorithm", "model", "reward", "gold", "data", "iterations", "rows", "max_new_tokens",
        "temperature", "missing_eos_penalty", "device", "seed",
    ):  # fmt: skip
        assert getattr(training, name) == getattr(config, name), name
    assert (training.kl_coef, training.learner.lr) == (0.7, 0.3)
    shared = "data", "prompts", "samples_per_prompt", "best_of", "max_new_tokens", "temperature"
    for name in (*shared, "device"):
        assert getattr(measuring, name) == getattr(config, name), name
    assert (measuring.model, measuring.base) == ("other", base)


def test_policy_and_base_are_measured_at_the_temperature(base, tmp_path, tokenizer):
    models.save(tmp_path / "other", tiny_lm("llama", tokenizer, seed=1), tokenizer)
    data = write_rows(tmp_path / "p.jsonl", [{"prompt": "the film"}])
    config = EvaluateConfig(
        model=base, base=str(tmp_path / "other"), data=data, max_new_tokens=4, temperature=0.6,
        device="cpu",
    )  # fmt: skip
    _, policy, reference = open_bench(config, {})
    assert policy is not reference and policy.temperature == reference.temperature == 0.6


@pytest.fixture
def sweep(tmp_path):
    """A sweep over a task that can be enumerated."""
    letters = models.train_tokenizer(["a b", "b a"], "word")
    models.save(tmp_path / "base", tiny_lm("llama", letters, spread=0.1), letters)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
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
    printed = capsys.readouterr().out
    assert "optimum, KL coefficient 0.3" in printed and "gains d (" in printed


def test_the_picture_is_an_svg_of_both_scores(sweep, tmp_path):
    assert sweep("--coefficients", "[0.5]", "--iterations", "1", "--rows", "8") == 0
    picture = xml.parse(tmp_path / "out" / "frontier.svg").getroot()
    texts = ["".join(node.itertext()) for node in picture.iter() if node.tag.endswith("text")]
    assert {"reward", "gold", "trained", "best of n", "optimum", "√KL to the base"} <= set(texts)
    assert len([node for node in picture.iter() if node.tag.endswith("circle")]) == 2 * (1 + 5)
    # a run of its own for each coefficient, that can be sampled from and repeated
    assert (tmp_path / "out" / "kl-0.5" / "policy" / "config.json").is_file()


@pytest.mark.parametrize(
    ("coefficients", "printed"),
    [("[]", "coefficients"), ("[0.1, 0.1]", "differ"), ("[-1]", "at least 0")],
)
def test_coefficients_that_make_no_sweep_are_named(sweep, tmp_path, coefficients, printed, capsys):
    assert sweep("--coefficients", coefficients) == 2
    assert printed in capsys.readouterr().err and not (tmp_path / "out").exists()
