"""All completions of a small task, and the optimal policy on it."""

import pytest
import torch

from rlhf_pg.language import models
from rlhf_pg.language.enumeration import enumerable, every_completion, optima
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import reference_logprobs
from support.language import tiny_lm


def length(completions, **_):
    return [float(len(text.split())) for text in completions]


@pytest.fixture
def letters():
    """<pad>, <eos>, <unk>, a and b."""
    return models.train_tokenizer(["a b", "b a"], "word")


@pytest.fixture
def policy(letters):
    return LanguagePolicy(tiny_lm("llama", letters, spread=0.1), critic="none")


def test_every_completion_is_there_once_with_probabilities_that_add_to_one(letters, policy):
    done = every_completion(policy, letters, "a", 3)
    assert len(done.texts) == 1 + 4 + 16 + 64
    rows = {tuple(ids[mask].tolist()) for ids, mask in zip(done.ids, done.mask, strict=True)}
    assert len(rows) == len(done.texts)
    logp = reference_logprobs(policy, done).masked_fill(~done.mask, 0).sum(1)
    assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert int(done.finished.sum()) == 1 + 4 + 16


def test_the_optimum_is_beta_log_z_and_no_other_policy_is_better(letters, policy):
    columns = {"prompt": ["a", "b a"]}
    (best,) = optima(policy, letters, columns, length, 3, [0.5])
    values = []
    for prompt in columns["prompt"]:
        done = every_completion(policy, letters, prompt, 3)
        ref = reference_logprobs(policy, done).masked_fill(~done.mask, 0).sum(1).double()
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


def test_the_exact_frontier_rises_and_bends(letters, policy):
    found = optima(policy, letters, {"prompt": ["a"]}, length, 3, [0.1, 0.3, 1.0, 3.0, 0.0])
    assert [row.kl_coef for row in found] == [3.0, 1.0, 0.3, 0.1]  # 0 has no finite optimum
    assert [row.kl for row in found] == sorted(row.kl for row in found)
    slopes = torch.tensor([[row.kl, row.score] for row in found]).diff(dim=0)
    slopes = slopes[:, 1] / slopes[:, 0]
    assert (slopes > 0).all() and (slopes.diff() < 0).all()


def test_a_prompts_own_columns_reach_the_reward(letters, policy):
    def first_is_wanted(completions, wanted, **_):
        assert len(set(wanted)) == 1
        return [float(text.strip().startswith(wanted[0])) for text in completions]

    columns = {"prompt": ["a", "a"], "wanted": ["b", "a"]}
    (row,) = optima(policy, letters, columns, first_is_wanted, 2, [0.01])
    assert row.score == pytest.approx(1, abs=1e-4)


def test_what_is_too_large_to_enumerate():
    assert enumerable(5, 3, 4) and not enumerable(200, 40, 1) and not enumerable(5, 3, 10_000)
