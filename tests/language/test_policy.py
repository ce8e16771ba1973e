"""The policy scores what it sampled, at the state before each token; padding changes nothing."""

from dataclasses import replace

import pytest
import torch

from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.language import models
from rlhf_pg.language import policy as policy_module
from rlhf_pg.language.config import TrainConfig
from rlhf_pg.language.policy import LanguagePolicy, policy_from_folder
from rlhf_pg.language.rollout import language_rollout, reference_logprobs, unscored
from rlhf_pg.language.sampling import sample
from support.language import (
    PROMPTS,
    NumberTokenizer,
    alone,
    counting_policy,
    draw,
    tiny_lm,
    with_values,
)

ROWS = PROMPTS * 4


@pytest.fixture
def policy(llama):
    return with_values(LanguagePolicy(llama))


def rollout_of(policy, tokenizer, seed=0):
    done = draw(policy, tokenizer, ROWS, seed=seed)
    scores = torch.linspace(-1, 1, len(ROWS))
    return language_rollout(done, scores, reference_logprobs(policy, done), kl_coef=0.1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_in_the_first_minibatch(lm, tokenizer, temperature):
    policy = with_values(LanguagePolicy(lm, temperature))
    rollout = rollout_of(policy, tokenizer)
    with torch.no_grad():
        ratio = (policy.evaluate(rollout[:7]).logprobs - rollout[:7].logprobs).exp()
    assert (ratio - 1)[rollout.mask[:7]].abs().max() < 1e-5
    metrics = Learner(policy, algorithm("ppo", gamma=1.0)).update(rollout)
    assert metrics["first_ratio_drift"] < 1e-5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kl_to_a_copy_is_zero(lm, tokenizer, temperature):
    policy = LanguagePolicy(lm, temperature)
    reference = LanguagePolicy(lm, temperature, critic="none")
    done = draw(policy, tokenizer, ROWS)
    log_ratio = (done.logprobs - reference_logprobs(reference, done))[done.mask]
    assert log_ratio.abs().max() < 1e-5
    now = policy.evaluate(unscored(done)).logprobs
    assert torch.equal(now, reference_logprobs(reference, done))


@pytest.mark.parametrize("kind", ["gpt2", "gpt-neox"])
def test_dropout_stays_off_whatever_the_model_is_configured_for(kind, tokenizer):
    rates = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    rates |= {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    model = tiny_lm(kind, tokenizer, **rates).train()
    assert any(isinstance(m, torch.nn.Dropout) and m.p == 0.1 for m in model.modules())
    policy = LanguagePolicy(model)
    policy.train()
    assert not any(module.training for module in policy.modules())
    rollout = rollout_of(policy, tokenizer)
    first, second = (policy.evaluate(rollout).logprobs for _ in range(2))
    assert torch.equal(first, second)


def test_rows_are_evaluated_the_same_alone_and_together(policy, tokenizer):
    rollout = rollout_of(policy, tokenizer)
    whole = policy.evaluate(rollout)
    order = torch.randperm(len(ROWS))
    for rows in order.split(3):
        part = policy.evaluate(rollout[rows])
        mask = rollout.mask[rows]
        for name in ("logprobs", "entropies", "values"):
            together = getattr(whole, name)[rows][mask]
            assert getattr(part, name).shape == mask.shape
            torch.testing.assert_close(getattr(part, name)[mask], together, atol=1e-5, rtol=0)


def test_entropies_are_those_of_the_distribution_sampled_from(lm, tokenizer):
    policy = with_values(LanguagePolicy(lm, temperature=0.7))
    done = draw(policy, tokenizer)
    entropies = policy.evaluate(unscored(done)).entropies
    for row in range(len(PROMPTS)):
        logp, _, _ = alone(policy, done, row)
        expected = -(logp.exp() * logp).sum(1)
        torch.testing.assert_close(entropies[row][done.mask[row]], expected, atol=1e-5, rtol=0)


def test_what_padding_holds_changes_nothing(policy, tokenizer):
    rollout = rollout_of(policy, tokenizer)
    prompt_mask = rollout.inputs["attention_mask"].bool()
    poisoned = replace(
        rollout,
        inputs={
            "input_ids": torch.where(prompt_mask, rollout.inputs["input_ids"], 7),
            "attention_mask": rollout.inputs["attention_mask"],
        },
        actions=torch.where(rollout.mask, rollout.actions, 10**9),
        **{
            name: torch.where(rollout.mask, getattr(rollout, name), 1e6)
            for name in ("logprobs", "values", "next_values", "rewards", "ends")
        },
    )
    before, after = policy.evaluate(rollout), policy.evaluate(poisoned)
    for name in ("logprobs", "entropies", "values"):
        assert torch.equal(getattr(before, name)[rollout.mask], getattr(after, name)[rollout.mask])
    weights = {name: x.clone() for name, x in policy.state_dict().items()}
    results = []
    for batch in (rollout, poisoned):
        policy.load_state_dict(weights)
        metrics = Learner(policy, algorithm("ppo", gamma=1.0)).update(batch)
        results.append((metrics, [p.detach().clone() for p in policy.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def test_values_are_read_at_the_state_before_the_token():
    policy = counting_policy()
    done = sample(policy, NumberTokenizer(), ["3 4", "2", "7"], 3, torch.Generator())
    # V(s_t) = 100 * the last token of s_t + its position, counted from the first real token.
    expected = [[401, 502, 603], [200, 301, 402], [700, 801, 0]]
    values = policy.evaluate(unscored(done)).values
    assert torch.where(done.mask, values, 0).tolist() == expected


def test_columns_of_padding_are_left_out_and_put_back(policy, tokenizer):
    rollout = rollout_of(policy, tokenizer)
    shortest = rollout.mask.sum(1).argmin()
    rows = rollout[shortest[None]]
    assert rows.mask.sum() < rows.mask.shape[1]
    widths = []
    hook = policy.model.base_model.register_forward_pre_hook(
        lambda _, __, options: widths.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    policy.evaluate(rollout)  # so that the output layer has been looked at
    widths.clear()
    part = policy.evaluate(rows)
    hook.remove()
    whole = policy.evaluate(rollout)
    for name in ("logprobs", "entropies", "values"):
        together = getattr(whole, name)[shortest[None]][rows.mask]
        assert getattr(part, name).shape == rows.mask.shape
        torch.testing.assert_close(getattr(part, name)[rows.mask], together, atol=1e-5, rtol=0)
    assert widths == [int(rows.inputs["attention_mask"].sum() + rows.mask.sum()) - 1]


def value_gradients(policy, rollout):
    policy.zero_grad()
    values = policy.evaluate(rollout).values
    ((values - 1) ** 2)[rollout.mask].mean().backward()
    trunk = [p.grad for p in policy.model.parameters() if p.grad is not None]
    return trunk, policy.value_head.weight.grad


def test_a_shared_critic_trains_the_trunk_and_a_detached_one_does_not(llama, tokenizer):
    shared = with_values(LanguagePolicy(llama, critic="shared"))
    rollout = rollout_of(shared, tokenizer)
    trunk, head = value_gradients(shared, rollout)
    assert any(g.abs().max() > 0 for g in trunk) and head.abs().max() > 0
    detached = with_values(LanguagePolicy(llama, critic="detached"))
    trunk, head = value_gradients(detached, rollout)
    assert not trunk and head.abs().max() > 0
    one, other = (p.evaluate(rollout).values for p in (shared, detached))
    assert torch.equal(one, other)


def test_no_critic_gives_no_values(llama, tokenizer):
    policy = LanguagePolicy(llama, critic="none")
    done = draw(policy, tokenizer)
    assert not done.values.any() and policy.evaluate(unscored(done)).values is None


def test_a_critic_starts_at_zero_in_full_precision(llama, tokenizer):
    policy = LanguagePolicy(llama.bfloat16())
    assert not draw(policy, tokenizer).values.any()
    assert policy.value_head.weight.dtype == torch.float32
    assert draw(policy, tokenizer).logprobs.dtype == torch.float32


def test_a_value_head_is_saved_and_read_back(policy, llama, tokenizer, tmp_path):
    models.save(tmp_path, policy.model, tokenizer)
    plain = policy_from_folder(models.load(str(tmp_path))[0], tmp_path, TrainConfig())
    assert plain.critic == "none"  # a folder without a head has no critic
    policy.save_critic(tmp_path)
    again = policy_from_folder(models.load(str(tmp_path))[0], tmp_path, TrainConfig())
    assert again.critic == "shared"
    rollout = rollout_of(policy, tokenizer)
    assert torch.equal(again.evaluate(rollout).values, policy.evaluate(rollout).values)
    assert not LanguagePolicy(llama).load_value_head(tmp_path / "nowhere")
    assert not LanguagePolicy(llama, critic="none").load_value_head(tmp_path)


def test_a_temperature_of_zero_is_refused(llama):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        LanguagePolicy(llama, temperature=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_is_kept_for_the_backward_pass_is_about_what_was_reckoned(tokenizer, kind):
    model = tiny_lm(kind, tokenizer, n_layer=6, num_hidden_layers=6)
    policy = LanguagePolicy(model)
    rollout = rollout_of(policy, tokenizer)
    kept = {}

    def note(x):
        if not isinstance(x, torch.nn.Parameter):
            storage = x.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        graph = policy.evaluate(rollout)
    assert graph.logprobs.requires_grad
    reckoned = policy_module.ACTIVATIONS / policy.rows_at_once(rollout) * len(rollout)
    assert 0.5 < sum(kept.values()) / reckoned < 2


def test_a_large_minibatch_is_computed_in_parts(monkeypatch, tokenizer):
    """The step is the same; only the memory is not."""
    metrics, parts = [], [[]]
    evaluate = LanguagePolicy.evaluate

    def counted(self, rollout):
        parts[-1].append(len(rollout))
        return evaluate(self, rollout)

    monkeypatch.setattr(LanguagePolicy, "evaluate", counted)
    for size in (2**30, 2**17):
        monkeypatch.setattr(policy_module, "ACTIVATIONS", size)
        policy = LanguagePolicy(tiny_lm("llama", tokenizer), critic="none")
        rollout = rollout_of(policy, tokenizer)
        learner = Learner(policy, algorithm("reinforce"))
        learner.micro_rows = policy.rows_at_once(rollout)
        parts.append([])  # those of this update
        metrics.append(learner.update(rollout))
        parts.append([])
    assert parts[1] == [len(ROWS)] and len(parts[3]) > 1 and sum(parts[3]) == len(ROWS)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-6)
