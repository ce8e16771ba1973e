"""What stands beside the policy: a critic of its own, LoRA adapters, and the reference."""

import json
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM

from reward_models.lora import merged, with_lora
from reward_models.reward_model import RewardModel
from rlhf_pg.cli import main
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.language import models
from rlhf_pg.language.config import TrainConfig, check
from rlhf_pg.language.policy import (
    LanguagePolicy,
    critic_from,
    load_critic,
    make_policy_and_reference,
)
from rlhf_pg.language.rollout import exact_kl, language_rollout, reference_logprobs, unscored
from rlhf_pg.language.sampling import encode
from rlhf_pg.runs import read_jsonl
from support.language import PROMPTS, TEXTS, draw, tiny_lm

ROWS = PROMPTS * 4


def update(policy, reference, tokenizer, seed=0, **options):
    """One A2C update, toward scores that rise from row to row."""
    done = draw(policy, tokenizer, ROWS, seed=seed)
    scores = torch.linspace(-1, 1, len(ROWS))
    rollout = language_rollout(done, scores, reference_logprobs(reference, done), kl_coef=0.1)
    metrics = Learner(policy, algorithm("a2c", **options)).update(rollout)
    assert metrics["first_ratio_drift"] < 1e-5


def copied(module):
    return [x.clone() for x in module.state_dict().values()]


def changed(module, before):
    return any(
        not torch.equal(now, then)
        for now, then in zip(module.state_dict().values(), before, strict=True)
    )


# A critic with a model of its own


def with_random_head(policy):
    torch.manual_seed(2)
    torch.nn.init.normal_(policy.separate_critic.head.weight)
    return policy


@pytest.fixture
def policy(lm):
    return with_random_head(LanguagePolicy(lm, critic="separate"))


def test_its_values_are_those_of_each_text_alone(policy, tokenizer):
    done = draw(policy, tokenizer)
    critic = policy.separate_critic
    for row in range(len(PROMPTS)):
        prompt = done.prompt_ids[row][done.prompt_mask[row].bool()]
        tokens = done.ids[row][done.mask[row].bool()]
        with torch.no_grad():
            hidden = critic.trunk(torch.cat([prompt, tokens])[None]).last_hidden_state[0]
            values = critic.head(hidden[len(prompt) - 1 :])[:, 0]
        assert_close(done.values[row, : len(tokens) + 1], values, atol=1e-5, rtol=1e-4)


def test_sampling_and_scoring_give_the_same_values(policy, tokenizer):
    done = draw(policy, tokenizer)
    now = policy.evaluate(unscored(done)).values
    assert_close(now[done.mask], done.values[:, :-1][done.mask], atol=1e-5, rtol=1e-4)


def test_neither_loss_reaches_the_others_parameters(llama, tokenizer):
    policy = with_random_head(LanguagePolicy(llama, critic="separate"))
    before = copied(policy.model), copied(policy.separate_critic)
    update(policy, policy, tokenizer, lr=1e-3, critic_warmup=1)  # the value loss alone
    assert not changed(policy.model, before[0]) and changed(policy.separate_critic, before[1])
    before = copied(policy.model), copied(policy.separate_critic)
    update(policy, policy, tokenizer, lr=1e-3, value_coef=0.0)
    assert changed(policy.model, before[0]) and not changed(policy.separate_critic, before[1])


@pytest.fixture
def reward_model(tmp_path, llama, tokenizer):
    model = RewardModel.from_base(llama, tokenizer, device="cpu")
    model.mean, model.std = 0.7, 2.5
    model.save_pretrained(tmp_path / "run" / "reward_model")
    return model, str(tmp_path / "run")


def test_begun_from_a_reward_model_its_value_is_the_score_of_a_text_that_ended(
    reward_model, tokenizer
):
    model, folder = reward_model
    critic = critic_from(folder, tokenizer)
    rows = [[*ids, tokenizer.eos_token_id] for ids in encode(tokenizer, TEXTS)]
    scores = model(prompts=[""] * len(TEXTS), completions=TEXTS)
    for row, score in zip(rows, scores, strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            value = critic(ids, torch.ones_like(ids), 1)
        assert float(value) == pytest.approx(score, abs=1e-5)


def test_a_reward_model_of_another_vocabulary_is_refused(reward_model):
    other = models.train_tokenizer(["some quite different words"], "word")
    with pytest.raises(ValueError, match="has another vocabulary than the policy"):
        critic_from(reward_model[1], other)


def test_a_folder_without_a_reward_model_is_named(base, tokenizer):
    with pytest.raises(ValueError, match="critic_from: no trained reward model at"):
        critic_from(base, tokenizer)


def test_a_critic_is_saved_and_read_back(policy, tmp_path):
    policy.save_critic(tmp_path)
    again = load_critic(tmp_path / "critic")
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        one, other = (critic(ids, torch.ones_like(ids), 3) for critic in
                      (policy.separate_critic, again))  # fmt: skip
    torch.testing.assert_close(one, other)  # a loaded GPT-2 computes its GELU in one operation
    with pytest.raises(ValueError, match="no critic in .*: value_head.safetensors is missing"):
        load_critic(tmp_path)


def train(tmp_path, base, *options):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "the film"}\n' * 4)
    arguments = ["--model", base, "--data", str(tmp_path / "prompts.jsonl"), "--device", "cpu"]
    arguments += ["--reward", "length:target=3", "--iterations", "2", "--rows", "8"]
    arguments += ["--max_new_tokens", "6", "--output", str(tmp_path / "out")]
    return main(["train", "--algorithm", "a2c", *arguments, *options])


def test_the_command_trains_it_and_saves_a_plain_policy_with_it_beside(
    tmp_path, base, reward_model
):
    options = ["--critic", "separate", "--critic_from", reward_model[1]]
    assert train(tmp_path, base, *options) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy")
    AutoModel.from_pretrained(tmp_path / "out" / "policy" / "critic")
    assert (tmp_path / "out" / "policy" / "critic" / "value_head.safetensors").is_file()
    line = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["first_ratio_drift"] < 1e-5 and line["value_loss"] > 0


def test_critic_from_without_a_separate_critic_is_an_error(tmp_path, base, capsys):
    assert train(tmp_path, base, "--critic_from", "runs/reward") == 2
    assert "set --critic separate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bfloat16_trains_and_stays_near(tmp_path, base, tokenizer):
    assert train(tmp_path, base, "--bf16", "true", "--critic", "separate") == 0
    first = read_jsonl(tmp_path / "out" / "metrics.jsonl")[0]
    # Sampling rounds differently; what is learned from is what the training forward computed.
    assert first["first_ratio_drift"] < 1e-6 < first["sampling_gap"] < 0.1
    assert first["kl"] == 0
    model = tiny_lm("llama", tokenizer, spread=0.1)
    exact, rough = (LanguagePolicy(model, critic="none", bf16=bf16) for bf16 in (False, True))
    done = draw(exact, tokenizer)
    difference = (reference_logprobs(rough, done) - done.logprobs)[done.mask].abs().max()
    assert 0 < difference < 0.1 and reference_logprobs(rough, done).dtype == torch.float32


# LoRA: the policy holds its reference in itself, and is saved as a plain model


def with_adapters(lm, tokenizer, **options):
    pytest.importorskip("peft")
    config = TrainConfig(algorithm="a2c", lora_rank=4, **options)
    return make_policy_and_reference(config, lm, tokenizer, torch.device("cpu"))


def updated(policy, reference, tokenizer):
    for seed in range(3):
        update(policy, reference, tokenizer, seed, lr=1e-2)
    return policy


def test_adapters_change_nothing_before_the_first_update(lm, tokenizer):
    policy, reference = with_adapters(lm, tokenizer)
    done = draw(policy, tokenizer, ROWS)
    log_ratio = (done.logprobs - reference_logprobs(reference, done))[done.mask]
    assert log_ratio.abs().max() < 1e-5
    assert exact_kl(policy, reference, done).abs().max() < 1e-5


def test_only_adapters_and_critic_learn_and_the_reference_stays(tokenizer, lm):
    before = {name: x.clone() for name, x in lm.state_dict().items()}
    plain = LanguagePolicy(type(lm)(lm.config), critic="none")
    plain.model.load_state_dict(before)
    policy, reference = with_adapters(lm, tokenizer)
    learning = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all("lora" in name or "value_head" in name for name in learning)
    updated(policy, reference, tokenizer)
    done = draw(policy, tokenizer, ROWS)
    refs = reference_logprobs(reference, done)
    assert_close(refs, reference_logprobs(plain, done), atol=1e-6, rtol=0)
    assert (done.logprobs - refs)[done.mask].abs().max() > 1e-2  # and the policy moved
    assert float(exact_kl(policy, reference, done).mean()) > 1e-3


def test_what_is_saved_is_a_plain_model_with_the_same_probabilities(tmp_path, tokenizer, lm):
    policy, reference = with_adapters(lm, tokenizer)
    updated(policy, reference, tokenizer)
    models.save(tmp_path, merged(policy.model), tokenizer)
    again = LanguagePolicy(AutoModelForCausalLM.from_pretrained(tmp_path), critic="none")
    done = draw(policy, tokenizer, ROWS)
    saved = reference_logprobs(again, done)[done.mask]
    assert_close(saved, done.logprobs[done.mask], atol=1e-4, rtol=0)
    assert policy.model.peft_config  # merging left the policy as it was


def test_a_separate_critic_learns_with_all_its_weights(tokenizer, llama):
    policy, _ = with_adapters(llama, tokenizer, critic="separate")
    assert all(p.requires_grad for p in policy.separate_critic.parameters())
    assert not any("lora" in name for name, _ in policy.separate_critic.named_parameters())


def test_another_reference_may_be_named(base, tokenizer, llama):
    _, reference = with_adapters(llama, tokenizer, reference=base)
    assert not any(p.requires_grad for p in reference.parameters())
    theirs = models.load(base)[0].state_dict()
    assert all(torch.equal(x, theirs[name]) for name, x in reference.model.state_dict().items())


def test_without_peft_the_error_names_the_extra(monkeypatch, llama):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'rlhf-pg\[peft\]'"):
        with_lora(llama, 4)


def test_a_rank_of_zero_is_an_error():
    with pytest.raises(ValueError, match="lora_rank must be from 1 to 4,096"):
        check(TrainConfig(lora_rank=0))


def test_a_plain_model_is_already_merged(llama):
    assert merged(llama) is llama


# The reference without LoRA


def test_the_reference_is_a_frozen_copy_at_the_policys_temperature(llama, tokenizer):
    config = TrainConfig(temperature=0.7)
    policy, reference = make_policy_and_reference(config, llama, tokenizer, torch.device("cpu"))
    assert not any(p.requires_grad for p in reference.parameters())
    done = draw(policy, tokenizer, ROWS)
    before = reference_logprobs(reference, done)
    assert_close(before[done.mask], done.logprobs[done.mask], atol=1e-5, rtol=0)
    weights = copied(policy.model)
    update(policy, reference, tokenizer, lr=1e-2)
    assert changed(policy.model, weights)  # the policy learns, and is not its own reference
    assert torch.equal(reference_logprobs(reference, done), before)
