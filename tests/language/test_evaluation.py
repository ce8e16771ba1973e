"""What is reported of a policy: by hand, and against plain forwards of the model."""

import pytest
import torch
from rlhf_pg.language.evaluation import distinct, evaluate

from rlhf_pg.language.policy import LanguagePolicy

from .conftest import PROMPTS, alone, draw, tiny_lm


def words(completions, **_):
    return [float(len(text.split())) for text in completions]


def test_a_policy_is_measured_as_one_plain_forward_at_a_time_measures_it(lm, tokenizer):
    policy = LanguagePolicy(lm, critic="none")
    reference = LanguagePolicy(tiny_lm("llama", tokenizer, seed=3), critic="none")
    metrics, rows = evaluate(
        policy, reference, tokenizer, PROMPTS, {"score": words}, max_new_tokens=8, seed=5
    )
    done = draw(policy, tokenizer, steps=8, seed=5)
    kl, entropies = [], []
    for row in range(len(PROMPTS)):
        logp, tokens, _ = alone(policy, done, row)
        ref, _, _ = alone(reference, done, row)
        kl.append(float((logp - ref).gather(1, tokens[:, None]).sum()))
        entropies += (-(logp.exp() * logp).sum(1)).tolist()
    assert metrics["kl"] == pytest.approx(sum(kl) / len(kl), abs=1e-3)
    assert metrics["entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-4)
    assert metrics["score"] == pytest.approx(sum(words(done.texts)) / len(PROMPTS))
    assert metrics["length"] == pytest.approx(float(done.mask.sum(1).float().mean()))
    assert metrics["eos_rate"] == pytest.approx(float(done.finished.float().mean()))
    assert [row["completion"] for row in rows] == done.texts
    assert [row["kl"] for row in rows] == pytest.approx(kl, abs=1e-3)


def test_a_policy_is_no_nats_from_itself(llama, tokenizer):
    policy = LanguagePolicy(llama, critic="none")
    metrics, rows = evaluate(policy, policy, tokenizer, PROMPTS, {}, 8)
    assert metrics["kl"] == pytest.approx(0, abs=1e-4) and len(rows) == len(PROMPTS)


def test_columns_reach_the_rewards(llama, tokenizer):
    def answer(answer, completions, **_):
        return answer

    policy = LanguagePolicy(llama, critic="none")
    columns = {"answer": [1.0, 2.0, 3.0, 4.0, 5.0]}
    metrics, rows = evaluate(policy, policy, tokenizer, PROMPTS, {"gold": answer}, 4, columns)
    assert metrics["gold"] == 3.0 and [row["gold"] for row in rows] == columns["answer"]


def test_evaluation_leaves_no_gradient_and_changes_nothing(llama, tokenizer):
    policy = LanguagePolicy(llama)
    before = [p.clone() for p in policy.parameters()]
    evaluate(policy, policy, tokenizer, PROMPTS, {"score": words}, 4)
    assert all(p.grad is None for p in policy.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_distinct_counts_different_word_pairs_over_all_texts():
    assert distinct(["a b a b", "a b"], 1) == 2 / 6
    assert distinct(["a b a b", "a b"], 2) == 2 / 4
    assert distinct(["a", ""], 2) == 0.0
