"""Log-probabilities in parts equal those of all logits at once, with their gradients."""

import pytest
import torch

from rlhf_pg.language import token_logprobs as module
from rlhf_pg.language.policy import LanguagePolicy, similar_lengths
from rlhf_pg.language.rollout import unscored
from rlhf_pg.language.token_logprobs import token_logprobs
from support.language import PROMPTS, draw, tiny_lm, with_values


def all_at_once(hidden, weight, bias, tokens, temperature):
    logs = (torch.nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(-1)
    return logs.gather(-1, tokens[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


@pytest.fixture(params=["kept", "computed again"])
def parts_of_eight(request, monkeypatch):
    """Eight positions at a time, their probabilities kept for the backward pass or not."""
    monkeypatch.setattr(module, "AT_ONCE", 8 * 50)
    monkeypatch.setattr(module, "KEPT", 2**26 if request.param == "kept" else 0)


@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(parts_of_eight, with_bias):
    torch.manual_seed(0)
    shapes = [(37, 16), (50, 16)] + [(50,)] * with_bias
    inputs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes]
    hidden, weight, bias = (*inputs, None)[:3]
    tokens = torch.randint(0, 50, (37,))
    by_logprob, by_entropy = torch.randn(2, 37, dtype=torch.float64)
    results = []
    for function in (all_at_once, token_logprobs):
        logprobs, entropies = function(hidden, weight, bias, tokens, 0.7)
        loss = (logprobs * by_logprob).sum() + (entropies * by_entropy).sum()
        results.append([logprobs, entropies, *torch.autograd.grad(loss, inputs)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_gradients_of_many_outputs_at_once(parts_of_eight):
    """`step_scores` takes the gradient of every log-probability by itself."""
    torch.manual_seed(0)
    inputs = [torch.randn(n, 16, dtype=torch.float64, requires_grad=True) for n in (37, 50)]
    each = torch.eye(37, dtype=torch.float64)
    results = [
        torch.autograd.grad(
            f(*inputs, None, torch.arange(37), 0.7)[0], inputs, each, is_grads_batched=True
        )
        for f in (all_at_once, token_logprobs)
    ]
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_token_of_probability_zero_adds_nothing(parts_of_eight):
    bias = torch.tensor([0.0, 0.0, -torch.inf])
    hidden = torch.zeros(2, 4, requires_grad=True)
    weight = torch.zeros(3, 4)
    logprobs, entropies = token_logprobs(hidden, weight, bias, torch.tensor([0, 1]), 1.0)
    assert entropies.tolist() == pytest.approx([torch.tensor(2.0).log().item()] * 2)
    (logprobs.sum() + entropies.sum()).backward()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_policy_scores_as_with_all_logits(monkeypatch, tokenizer, kind):
    """Rows of different lengths in groups, against one group and the model's own logits."""
    policy = with_values(LanguagePolicy(tiny_lm(kind, tokenizer), 0.7))
    rollout = unscored(draw(policy, tokenizer, PROMPTS * 6))
    monkeypatch.setattr("rlhf_pg.language.policy.GROUP_OVERHEAD", 5)
    lengths = rollout.mask.sum(1).tolist()
    groups = similar_lengths(lengths, rollout.inputs["input_ids"].shape[1])
    assert len(groups) > 2 and sorted(sum(groups, [])) == list(range(len(lengths)))
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr("rlhf_pg.language.policy.GROUP_OVERHEAD", 10**9)
            policy.__dict__["plain_head"] = None  # the model computes its logits itself
        now = policy.evaluate(rollout)
        mask = rollout.mask
        loss = (now.logprobs[mask] ** 2).sum() + now.entropies[mask].sum() + now.values[mask].sum()
        gradients = torch.autograd.grad(loss, list(policy.parameters()))
        results.append([x[mask] for x in (now.logprobs, now.entropies, now.values)])
        results[-1] += [g / max(1.0, float(g.abs().max())) for g in gradients]
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_scaled_logits_are_not_the_heads(tokenizer):
    """A model that scales its logits has no plain head, and is still scored rightly."""
    from transformers import AutoModelForCausalLM, CohereConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    ids = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    config = CohereConfig(
        vocab_size=len(tokenizer), num_attention_heads=2, logit_scale=0.25, **sizes, **ids
    )
    policy = LanguagePolicy(AutoModelForCausalLM.from_config(config), critic="none")
    assert policy.plain_head is None
    done = draw(policy, tokenizer, PROMPTS)
    scored = policy.evaluate(unscored(done)).logprobs
    torch.testing.assert_close(scored[done.mask], done.logprobs[done.mask], atol=1e-5, rtol=0)


def test_groups_of_similar_length(monkeypatch):
    monkeypatch.setattr("rlhf_pg.language.policy.GROUP_OVERHEAD", 10)
    assert similar_lengths([5, 5, 5, 5], 8) == [[0, 1, 2, 3]]
    # 3 rows of 2 tokens beside one of 20: 54 tokens of padding are worth one more group.
    assert similar_lengths([2, 20, 2, 2], 8) == [[0, 2, 3], [1]]
    assert similar_lengths([2, 3, 4], 8) == [[0, 1, 2]]
