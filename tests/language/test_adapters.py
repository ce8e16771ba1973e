"""With LoRA the policy carries its reference in itself, and is saved as a plain model."""

import sys

import pytest
import torch
from rlhf_pg.language.actors import policy_and_reference
from rlhf_pg.language.adapters import merged, with_lora
from rlhf_pg.language.settings import TrainConfig, check
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import (
    exact_kl,
    language_rollout,
    reference_logprobs,
)

from .conftest import PROMPTS, draw, tiny_lm

pytest.importorskip("peft")
ROWS = PROMPTS * 4


def begun(lm, tokenizer, **options):
    config = TrainConfig(algorithm="a2c", lora_rank=4, **options)
    return policy_and_reference(config, lm, tokenizer, torch.device("cpu"))


def updated(policy, reference, tokenizer, updates=3):
    learner = Learner(policy, algorithm("a2c", lr=1e-2))
    for seed in range(updates):
        done = draw(policy, tokenizer, ROWS, seed=seed)
        scores = torch.linspace(-1, 1, len(ROWS))
        refs = reference_logprobs(reference, done)
        metrics = learner.update(language_rollout(done, scores, refs, kl_coef=0.1))
        assert metrics["first_ratio_drift"] < 1e-5
    return policy


def test_it_begins_as_the_model_was(lm, tokenizer):
    policy, reference = begun(lm, tokenizer)
    done = draw(policy, tokenizer, ROWS)
    drift = (done.logprobs - reference_logprobs(reference, done))[done.mask]
    assert drift.abs().max() < 1e-5
    assert exact_kl(policy, reference, done).abs().max() < 1e-5


def test_only_adapters_and_critic_learn_and_the_reference_stays(tokenizer, lm):
    before = {name: x.clone() for name, x in lm.state_dict().items()}
    plain = LanguagePolicy(type(lm)(lm.config), critic="none")
    plain.model.load_state_dict(before)
    policy, reference = begun(lm, tokenizer)
    learning = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all("lora" in name or "value_head" in name for name in learning)
    updated(policy, reference, tokenizer)
    done = draw(policy, tokenizer, ROWS)
    refs = reference_logprobs(reference, done)
    assert_close(refs, reference_logprobs(plain, done), atol=1e-6, rtol=0)
    assert (done.logprobs - refs)[done.mask].abs().max() > 1e-2  # and the policy moved


def test_what_is_saved_is_a_plain_model_that_says_the_same(tmp_path, tokenizer, lm):
    policy, reference = begun(lm, tokenizer)
    updated(policy, reference, tokenizer)
    models.save(tmp_path, merged(policy.model), tokenizer)
    again = LanguagePolicy(AutoModelForCausalLM.from_pretrained(tmp_path), critic="none")
    done = draw(policy, tokenizer, ROWS)
    again_said = reference_logprobs(again, done)[done.mask]
    assert_close(again_said, done.logprobs[done.mask], atol=1e-4, rtol=0)
    assert policy.model.peft_config  # merging left the policy as it was


def test_a_critic_of_its_own_learns_with_all_its_weights(tokenizer, llama):
    policy, _ = begun(llama, tokenizer, critic="separate")
    assert all(p.requires_grad for p in policy.own_critic.parameters())
    assert not any("lora" in name for name, _ in policy.own_critic.named_parameters())


def test_another_reference_may_be_named(base, tokenizer, llama):
    _, reference = begun(llama, tokenizer, reference=base)
    assert not any(p.requires_grad for p in reference.parameters())


def test_without_peft_it_is_said_how_to_get_it(monkeypatch, llama):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'rlhf-pg\[peft\]'"):
        with_lora(llama, 4)


def test_a_rank_of_none_is_an_error():
    with pytest.raises(ValueError, match="lora_rank must be at least 1"):
        check(TrainConfig(lora_rank=0))


def test_a_plain_model_is_already_merged(llama):
    assert merged(llama) is llama


def test_the_exact_kl_is_the_mean_of_k1_and_of_less_noise(tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, seed=0, spread=0.1), critic="none")
    reference = LanguagePolicy(tiny_lm("llama", tokenizer, seed=3, spread=0.1), critic="none")
    done = draw(policy, tokenizer, ["the film"] * 2000, steps=4)
    exact = exact_kl(policy, reference, done)
    k1 = (done.logprobs - reference_logprobs(reference, done)).masked_fill(~done.mask, 0).sum(1)
    noise = float(k1.std() / len(k1) ** 0.5)
    assert float(exact.mean()) == pytest.approx(float(k1.mean()), abs=4 * noise)
    assert exact.std() < 0.5 * k1.std() and (exact >= 0).all()
    assert_close(exact, exact_kl(policy, reference, done, rows=999))


def test_the_exact_kl_of_a_row_is_the_sum_over_its_states(tokenizer, lm):
    """Each row alone, by plain calls of both models."""
    policy = LanguagePolicy(lm, temperature=0.7, critic="none")
    reference = LanguagePolicy(tiny_lm("gpt2", tokenizer, seed=3), 0.7, critic="none")
    done = draw(policy, tokenizer)
    for row, found in enumerate(exact_kl(policy, reference, done)):
        prompt = done.prompt_ids[row][done.prompt_mask[row].bool()]
        tokens = done.ids[row][done.mask[row].bool()]
        states = slice(len(prompt) - 1, -1)
        with torch.no_grad():
            p, q = (
                (who.model(torch.cat([prompt, tokens])[None]).logits[0, states] / 0.7).log_softmax(
                    -1
                )
                for who in (policy, reference)
            )
        assert float(found) == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-4, abs=1e-5)
