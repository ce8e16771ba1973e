"""The hand-written decode step samples what the model's own forward samples."""

import pytest
import torch

from reward_models.lora import with_lora
from rlhf_pg.language import decode, sampling
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import unscored
from rlhf_pg.language.sampling import choose
from support.language import PROMPTS, draw, tiny_lm, with_values

MANY = PROMPTS * 6


def both_ways(monkeypatch, policy, tokenizer):
    """Completions by the hand-written step, and by the model's own forward."""
    assert decode.supports(policy.model)
    fast = draw(policy, tokenizer, MANY)
    monkeypatch.setattr(decode, "supports", lambda _: False)
    return fast, draw(policy, tokenizer, MANY)


def assert_same(fast, plain):
    """Same tokens for the same random numbers; log-probabilities and values to 1e-5."""
    assert fast.ids.equal(plain.ids) and fast.mask.equal(plain.mask)
    assert fast.texts == plain.texts and len(set(fast.mask.sum(1).tolist())) >= 4
    torch.testing.assert_close(fast.logprobs, plain.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(fast.values, plain.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("options", [{}, {"activation_function": "relu", "hidden_act": "gelu"}])
def test_the_same_tokens_for_the_same_random_numbers(monkeypatch, tokenizer, kind, options):
    policy = with_values(LanguagePolicy(tiny_lm(kind, tokenizer, **options), 0.8))
    assert_same(*both_ways(monkeypatch, policy, tokenizer))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_adapters_take_part(monkeypatch, tokenizer, kind):
    pytest.importorskip("peft")
    model = with_lora(tiny_lm(kind, tokenizer), 2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    policy = LanguagePolicy(model, critic="none")
    fast, plain = both_ways(monkeypatch, policy, tokenizer)
    assert_same(fast, plain)
    with model.disable_adapter():
        assert not draw(policy, tokenizer, MANY).ids.equal(plain.ids)


def test_several_query_heads_share_a_key_head(monkeypatch, tokenizer):
    model = tiny_lm("llama", tokenizer)
    assert model.config.num_attention_heads == 2 * model.config.num_key_value_heads
    policy = LanguagePolicy(model, critic="none")
    assert_same(*both_ways(monkeypatch, policy, tokenizer))


def test_other_architectures_and_settings_use_their_own_forward(tokenizer):
    assert not decode.supports(tiny_lm("qwen2", tokenizer))
    assert not decode.supports(tiny_lm("gpt2", tokenizer, scale_attn_weights=False))
    assert not decode.supports(tiny_lm("gpt2", tokenizer, reorder_and_upcast_attn=True))


def test_a_prompt_of_several_rows_is_read_once(monkeypatch, tokenizer):
    policy = LanguagePolicy(tiny_lm("llama", tokenizer), critic="none")
    read = []
    original = LanguagePolicy.forward

    def counted(self, ids, *others, **options):
        read.append(len(ids))
        return original(self, ids, *others, **options)

    monkeypatch.setattr(LanguagePolicy, "forward", counted)
    done = draw(policy, tokenizer, MANY)
    assert read == [len(PROMPTS)]
    alone = [draw(policy, tokenizer, [prompt], greedy=True).texts[0] for prompt in PROMPTS]
    assert draw(policy, tokenizer, MANY, greedy=True).texts == alone * 6
    assert len(set(done.texts)) > len(PROMPTS)  # but each row samples its own


def test_what_a_row_samples_does_not_depend_on_the_others_ends(tokenizer):
    """Each row has its own random numbers, whether rows are dropped or not."""
    policy = LanguagePolicy(tiny_lm("gpt2", tokenizer), critic="none")
    whole = draw(policy, tokenizer, MANY)

    class Never(sampling.OwnForward):
        can_drop = property(lambda self: False, lambda self, value: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "supports", lambda _: False)
        patch.setattr(sampling, "OwnForward", Never)
        assert draw(policy, tokenizer, MANY).ids.equal(whole.ids)


def test_a_token_is_chosen_by_the_inverse_of_the_cumulative_distribution():
    logprobs = torch.tensor([[0.5, 0.0, 0.25, 0.25, 0.0]]).log().expand(6, 5)
    uniforms = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert choose(logprobs, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_bf16_samples_near_what_fp32_does(tokenizer, kind):
    """The cast weights are the model's: log-probabilities of the same tokens, to bf16's digits."""
    model = tiny_lm(kind, tokenizer, spread=0.2)
    policy = LanguagePolicy(model, critic="none", bf16=True)
    done = draw(policy, tokenizer, MANY)
    exact = LanguagePolicy(model, critic="none").evaluate(unscored(done)).logprobs
    assert 1e-4 < (exact - done.logprobs)[done.mask].abs().max() < 0.1
