"""`rlhf-pg evaluate`: measures by hand and by plain forwards, two policies side by side."""

import json
import math

import pytest
import torch
import yaml

from rlhf_pg import trust
from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.language.config import EvaluateConfig
from rlhf_pg.language.evaluate import (
    Bench,
    assess,
    distinct,
    evaluate,
    repetition,
    with_run_options,
)
from rlhf_pg.language.policy import LanguagePolicy
from support.language import PROMPTS, alone, draw, tiny_lm, write_rows


def words(completions, **_):
    return [float(len(text.split())) for text in completions]


def measured(policy, reference, tokenizer, rewards, max_new_tokens=8, columns=None, **options):
    """Means and rows of one completion of each prompt."""
    columns = {"prompt": PROMPTS} | (columns or {})
    bench = Bench(reference, tokenizer, columns, rewards, max_new_tokens)
    return evaluate(bench, policy, columns, **options)


def test_a_policy_is_measured_as_one_plain_forward_at_a_time_measures_it(lm, tokenizer):
    policy = LanguagePolicy(lm, critic="none")
    reference = LanguagePolicy(tiny_lm("llama", tokenizer, seed=3), critic="none")
    metrics, rows = measured(policy, reference, tokenizer, {"score": words}, seed=5)
    done = draw(policy, tokenizer, steps=8, seed=5)
    kl, entropies, surprise = [], [], 0.0
    for row in range(len(PROMPTS)):
        logp, tokens, _ = alone(policy, done, row)
        ref, _, _ = alone(reference, done, row)
        kl.append(float((logp - ref).gather(1, tokens[:, None]).sum()))
        surprise -= float(ref.gather(1, tokens[:, None]).sum())
        entropies += (-(logp.exp() * logp).sum(1)).tolist()
    assert metrics["kl"] == pytest.approx(sum(kl) / len(kl), abs=1e-3)
    assert metrics["entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
    perplexity = math.exp(surprise / len(entropies))
    assert metrics["ref_perplexity"] == pytest.approx(perplexity, rel=1e-3)
    assert metrics["score"] == pytest.approx(sum(words(done.texts)) / len(PROMPTS))
    assert metrics["length"] == pytest.approx(float(done.mask.sum(1).float().mean()))
    assert metrics["eos_rate"] == pytest.approx(float(done.finished.float().mean()))
    assert [row["completion"] for row in rows] == done.texts
    assert [row["kl"] for row in rows] == pytest.approx(kl, abs=1e-3)


def test_the_kl_of_a_policy_to_itself_is_0(llama, tokenizer):
    policy = LanguagePolicy(llama, critic="none")
    metrics, rows = measured(policy, policy, tokenizer, {})
    assert metrics["kl"] == pytest.approx(0, abs=1e-4) and len(rows) == len(PROMPTS)


def test_columns_reach_the_rewards(llama, tokenizer):
    def answer(answer, completions, **_):
        return answer

    policy = LanguagePolicy(llama, critic="none")
    columns = {"answer": [1.0, 2.0, 3.0, 4.0, 5.0]}
    metrics, rows = measured(policy, policy, tokenizer, {"gold": answer}, columns=columns)
    assert metrics["gold"] == 3.0 and [row["gold"] for row in rows] == columns["answer"]


def test_evaluation_leaves_no_gradient_and_changes_nothing(llama, tokenizer):
    policy = LanguagePolicy(llama)
    before = [p.clone() for p in policy.parameters()]
    measured(policy, policy, tokenizer, {"score": words})
    assert all(p.grad is None for p in policy.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_repetition_and_distinct_by_hand():
    assert distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert repetition(["a b c d a b c d a", "a b"]) == pytest.approx((2 / 6 + 0) / 2)
    assert repetition([]) == distinct([], 2) == distinct(["a", ""], 2) == 0.0


def test_a_policy_beside_itself_has_no_kl_and_its_perplexity_is_that_of_its_own_text(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.1), critic="none")
    columns = {"prompt": PROMPTS * 40}
    means, rows = measured(policy, policy, tokenizer, {"score": words}, 12, columns)
    assert means["kl"] == pytest.approx(0, abs=1e-5)
    # E[-log pi] is the entropy: the two agree up to the noise of 200 completions
    assert torch.log(torch.tensor(means["ref_perplexity"])) == pytest.approx(
        means["entropy"], abs=0.1
    )
    assert means["score"] == pytest.approx(sum(r["score"] for r in rows) / len(rows))


def test_batches_keep_the_columns_of_their_rows(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer), critic="none")
    column = list(range(len(PROMPTS)))

    def number_of(prompts, completions, number, **_):
        assert [PROMPTS[i] for i in number] == prompts
        return number

    counts = []
    means, rows = measured(
        policy, policy, tokenizer, {"score": number_of}, columns={"number": column},
        batch_size=2, progress=counts.append,
    )  # fmt: skip
    assert [row["score"] for row in rows] == column and counts == [2, 4, 5]


def test_batches_do_not_repeat_the_same_draws(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.1), critic="none")
    rows = measured(
        policy, policy, tokenizer, {}, columns={"prompt": ["the"] * 12}, batch_size=4
    )[1]  # fmt: skip
    texts = [row["completion"] for row in rows]
    assert texts[:4] != texts[4:8] != texts[8:] != texts[:4]


@pytest.fixture
def run(tmp_path, tokenizer, base):
    """A run that began from `base`, maximised short completions, and has another model now."""
    folder = tmp_path / "run"
    models.save(folder / "policy", tiny_lm("llama", tokenizer, seed=5, spread=0.3), tokenizer)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])
    options = {"algorithm": "ppo", "model": base, "reward": "length:target=3", "data": prompts}
    (folder / "config.yaml").write_text(yaml.safe_dump({**options, "max_new_tokens": 8}))
    trust.sign(folder)
    return folder


def test_a_run_brings_its_own_options_and_ours_come_first(run, base):
    filled = with_run_options(EvaluateConfig(model=str(run), max_new_tokens=5))
    assert (filled.base, filled.reward, filled.max_new_tokens) == (base, "length:target=3", 5)
    assert filled.temperature == 1.0


def test_a_model_that_is_no_run_is_its_own_base(base):
    filled = with_run_options(EvaluateConfig(model=base))
    assert filled.base == base and filled.data == "film-notes"


def test_the_command_measures_both_and_writes_the_run(run, capsys):
    assert main(["evaluate", str(run), "--best_of", "8", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "win rate against the base by reward" in printed and "Wilson" in printed
    found = json.loads((run / "evaluation.json").read_text())
    assert found["prompts"] == len(PROMPTS) and found["policy"]["kl"] > 0.1
    assert found["base_policy"]["kl"] == pytest.approx(0, abs=1e-4)
    won = found["win_rate"]["score"]
    assert 0 <= won["low"] <= won["rate"] <= won["high"] <= 1
    assert [row["n"] for row in found["best_of_n"]] == [1, 2, 4, 8]
    kls = [row["kl"] for row in found["best_of_n"]]
    assert kls == sorted(kls) and kls[0] == pytest.approx(0, abs=1e-9)
    # completions have few lengths, so the reward ties: less than the bound
    assert all(row["kl"] < row["kl_bound"] for row in found["best_of_n"][1:])
    scores = [row["score"] for row in found["best_of_n"]]
    assert scores == sorted(scores)


def test_the_base_alone_has_no_win_rate_and_nothing_is_written_into_a_plain_folder(base, tmp_path):
    prompts = str(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_text('{"prompt": "the film"}\n')
    options = {"data": prompts, "reward": "length", "max_new_tokens": 8, "best_of": 0}
    config = EvaluateConfig(model=base, device="cpu", **options)
    found = assess(config)
    assert "win_rate" not in found and "best_of_n" not in found
    assert not (tmp_path / "base" / "evaluation.json").exists()
    config.output = str(tmp_path / "new" / "result.json")
    assert assess(config) == json.loads((tmp_path / "new/result.json").read_text())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompts", "0"], "prompts must be at least 1"),
        (["--best_of", "-1"], "best_of must be at least 0, not -1"),
        (["--reward", "lenght"], "length"),
        (["--base", "nowhere/at-all/there"], "nowhere/at-all/there"),
        (["--max_new_tokens", "500"], "context"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(run, options, message, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["evaluate", str(run), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (run / "evaluation.json").exists()


def test_without_a_reward_the_gold_chooses_the_best(base, tmp_path):
    prompts = write_rows(tmp_path / "p.jsonl", [{"prompt": "the film"}])
    options = {"data": prompts, "gold": "length:target=3", "max_new_tokens": 8, "best_of": 4}
    found = assess(EvaluateConfig(model=base, device="cpu", **options))
    golds = [row["gold"] for row in found["best_of_n"]]
    assert "score" not in found["policy"] and golds == sorted(golds) and golds[0] < golds[-1]


def test_the_reward_chooses_the_best_and_the_gold_only_measures_it(base, tmp_path):
    (tmp_path / "longest.py").write_text(
        "def words(completions, **_):\n    return [float(len(t.split())) for t in completions]\n"
        "def fewest(completions, **_):\n    return [-x for x in words(completions)]\n"
    )
    options = {
        "data": write_rows(tmp_path / "p.jsonl", [{"prompt": "the film"}]),
        "reward": f"{tmp_path}/longest.py:words",
        "gold": f"{tmp_path}/longest.py:fewest",
    }
    found = assess(
        EvaluateConfig(model=base, device="cpu", max_new_tokens=8, best_of=4, **options)
    )  # fmt: skip
    scores = [row["score"] for row in found["best_of_n"]]
    assert scores == sorted(scores) and scores[0] < scores[-1]
    assert [row["gold"] for row in found["best_of_n"]] == pytest.approx([-x for x in scores])


def test_no_reward_at_all_is_named(base, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "the film"}\n')
    assert main(["evaluate", base, "--data", str(tmp_path / "p.jsonl")]) == 2
    assert "--reward" in capsys.readouterr().err
