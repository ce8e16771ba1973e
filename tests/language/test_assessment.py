"""`rlhf-pg evaluate`: the measures by hand, two policies side by side, and what is written."""

import json

import pytest
import torch
import yaml
from rlhf_pg.language.assessment import EvaluateConfig, assess, with_run_options
from rlhf_pg.language.bench import spread
from rlhf_pg.language.evaluation import distinct, evaluate, repetition

from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy

from .conftest import PROMPTS, tiny_lm


def words(completions, **_):
    return [float(len(text.split())) for text in completions]


@pytest.fixture
def run(tmp_path, tokenizer, base):
    """A run that began from `base`, was paid for short completions, and is another model now."""
    folder = tmp_path / "run"
    models.save(folder / "policy", tiny_lm("llama", tokenizer, seed=5, spread=0.3), tokenizer)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    asked = {"algorithm": "ppo", "model": base, "reward": "length:target=3", "data": str(prompts)}
    (folder / "config.yaml").write_text(yaml.safe_dump({**asked, "max_new_tokens": 8}))
    return folder


def test_repetition_and_distinct_by_hand():
    assert distinct(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert repetition(["a b c d a b c d a", "a b"]) == pytest.approx((2 / 6 + 0) / 2)
    assert repetition([]) == distinct([], 2) == 0.0


def test_a_policy_beside_itself_has_no_kl_and_its_perplexity_is_that_of_its_own_text(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.1), critic="none")
    means, rows = evaluate(policy, policy, tokenizer, PROMPTS * 40, {"score": words}, 12)
    assert means["kl"] == pytest.approx(0, abs=1e-5)
    # E[-log pi] is the entropy: the two agree up to the noise of 200 completions
    assert torch.log(torch.tensor(means["ref_perplexity"])) == pytest.approx(
        means["entropy"], abs=0.1
    )
    assert means["score"] == pytest.approx(sum(r["score"] for r in rows) / len(rows))


def test_batches_change_nothing_but_the_draws(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer), critic="none")
    column = list(range(len(PROMPTS)))

    def asked(prompts, completions, number, **_):
        assert [PROMPTS[i] for i in number] == prompts
        return number

    told = []
    means, rows = evaluate(
        policy, policy, tokenizer, PROMPTS, {"score": asked}, 6, {"number": column},
        batch_size=2, progress=told.append,
    )  # fmt: skip
    assert [row["score"] for row in rows] == column and told == [2, 4, 5]


def test_a_run_brings_its_own_options_and_ours_come_first(run, base):
    filled = with_run_options(EvaluateConfig(model=str(run), max_new_tokens=5))
    assert (filled.base, filled.reward, filled.max_new_tokens) == (base, "length:target=3", 5)
    assert filled.temperature == 1.0


def test_a_model_that_is_no_run_is_its_own_base(base):
    filled = with_run_options(EvaluateConfig(model=base))
    assert filled.base == base and filled.data == "film-notes"


def test_the_command_measures_both_and_writes_the_run(run, capsys):
    assert main(["evaluate", str(run), "--best_of", "8", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "win rate against the base by reward" in said and "Wilson" in said
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
    config = with_run_options(EvaluateConfig(model=base, data=prompts, best_of=0, device="cpu"))
    config.max_new_tokens = 8
    found = assess(config, {"score": words})
    assert "win_rate" not in found and "best_of_n" not in found
    assert not (tmp_path / "base" / "evaluation.json").exists()
    config.output = str(tmp_path / "new" / "result.json")
    assert assess(config, {"score": words}) == json.loads(
        (tmp_path / "new/result.json").read_text()
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompts", "0"], "prompts must be at least 1"),
        (["--best_of", "-1"], "best_of must be 0 or more"),
        (["--reward", "lenght"], "length"),
        (["--base", "nowhere/at-all/there"], "nowhere/at-all/there"),
        (["--max_new_tokens", "500"], "context"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, options, said, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["evaluate", str(run), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "\n" not in error
    assert not (run / "evaluation.json").exists()


def test_no_reward_at_all_is_named(base, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "the film"}\n')
    assert main(["evaluate", base, "--data", str(tmp_path / "p.jsonl")]) == 2
    assert "--reward" in capsys.readouterr().err


def test_prompts_are_spread_over_the_data():
    rows = {"prompt": list("abcdefghij"), "x": list(range(10))}
    assert spread(rows, 3) == {"prompt": ["a", "d", "g"], "x": [0, 3, 6]}
    assert spread(rows, 99) == rows
