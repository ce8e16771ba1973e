"""A critic of its own: it reads the states that the policy does, and shares nothing with it."""

import json

import pytest
import torch
from rlhf_pg.language.critics import critic_from
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM

from reward_models.reward_model import RewardModel
from rlhf_pg.cli import main
from rlhf_pg.core.algorithms import algorithm
from rlhf_pg.core.learner import Learner
from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import language_rollout, reference_logprobs, unscored

from .conftest import PROMPTS, TEXTS, draw, tiny_lm


def judged(policy):
    """The policy, its critic no longer zero."""
    torch.manual_seed(2)
    torch.nn.init.normal_(policy.own_critic.head.weight)
    return policy


@pytest.fixture
def policy(lm):
    return judged(LanguagePolicy(lm, critic="separate"))


def test_its_values_are_those_of_each_text_alone(policy, tokenizer):
    done = draw(policy, tokenizer)
    critic = policy.own_critic
    for row in range(len(PROMPTS)):
        prompt = done.prompt_ids[row][done.prompt_mask[row].bool()]
        tokens = done.ids[row][done.mask[row].bool()]
        with torch.no_grad():
            hidden = critic.trunk(torch.cat([prompt, tokens])[None]).last_hidden_state[0]
            values = critic.head(hidden[len(prompt) - 1 :])[:, 0]
        assert_close(done.values[row, : len(tokens) + 1], values, atol=1e-5, rtol=1e-4)


def test_sampling_and_scoring_see_the_same_values(policy, tokenizer):
    done = draw(policy, tokenizer)
    now = policy.evaluate(unscored(done)).values
    assert_close(now[done.mask], done.values[:, :-1][done.mask], atol=1e-5, rtol=1e-4)


def update(policy, tokenizer, **options):
    done = draw(policy, tokenizer, PROMPTS * 4)
    scores = torch.linspace(-1, 1, len(PROMPTS) * 4)
    rollout = language_rollout(done, scores, reference_logprobs(policy, done), kl_coef=0.1)
    return Learner(policy, algorithm("a2c", lr=1e-3, **options)).update(rollout)


def changed(module, before):
    return any(
        not torch.equal(now, then)
        for now, then in zip(module.state_dict().values(), before, strict=True)
    )


def kept(module):
    return [x.clone() for x in module.state_dict().values()]


def test_neither_loss_reaches_the_others_parameters(llama, tokenizer):
    policy = judged(LanguagePolicy(llama, critic="separate"))
    before = kept(policy.model), kept(policy.own_critic)
    update(policy, tokenizer, critic_warmup=1)  # the value loss alone
    assert not changed(policy.model, before[0]) and changed(policy.own_critic, before[1])
    before = kept(policy.model), kept(policy.own_critic)
    update(policy, tokenizer, value_coef=0.0)
    assert changed(policy.model, before[0]) and not changed(policy.own_critic, before[1])


@pytest.fixture
def reward_model(tmp_path, llama, tokenizer):
    model = RewardModel.from_base(llama, tokenizer, device="cpu")
    model.mean, model.std = 0.7, 2.5
    model.save_pretrained(tmp_path / "run" / "reward_model")
    return model, str(tmp_path / "run")


def test_begun_from_a_reward_model_it_says_the_score_of_a_text_that_has_ended(
    reward_model, tokenizer
):
    model, folder = reward_model
    critic = critic_from(folder, tokenizer)
    rows = [[*ids, tokenizer.eos_token_id] for ids in models.encode(tokenizer, TEXTS)]
    scores = model(prompts=[""] * len(TEXTS), completions=TEXTS)
    for row, score in zip(rows, scores, strict=True):
        ids = torch.tensor([row])
        with torch.no_grad():
            value = critic(ids, torch.ones_like(ids), 1)
        assert float(value) == pytest.approx(score, abs=1e-5)


def test_a_reward_model_of_other_tokens_is_refused(reward_model):
    other = models.train_tokenizer(["some quite different words"], "word")
    with pytest.raises(ValueError, match="reads other tokens than the policy"):
        critic_from(reward_model[1], other)


def test_a_folder_without_a_reward_model_is_named(base, tokenizer):
    with pytest.raises(ValueError, match="critic_from: no trained reward model at"):
        critic_from(base, tokenizer)


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


def test_critic_from_without_a_critic_of_its_own_is_an_error(tmp_path, base, capsys):
    assert train(tmp_path, base, "--critic_from", "runs/reward") == 2
    assert "set --critic separate" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bfloat16_trains_and_stays_near(tmp_path, base, tokenizer):
    assert train(tmp_path, base, "--bf16", "true", "--critic", "separate") == 0
    model = tiny_lm("llama", tokenizer, spread=0.1)
    exact, rough = (LanguagePolicy(model, critic="none", bf16=bf16) for bf16 in (False, True))
    done = draw(exact, tokenizer)
    far = (reference_logprobs(rough, done) - done.logprobs)[done.mask].abs().max()
    assert 0 < far < 0.1 and reference_logprobs(rough, done).dtype == torch.float32
