"""A model is trained rightly, or refused in one line before anything is written."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_pg.commands import sample
from rlhf_pg.label import make_pairs
from rlhf_pg.language import models
from rlhf_pg.language.check import alone_differences, check_model, sampling_differences
from rlhf_pg.language.config import (
    EvaluateConfig,
    FinetuneConfig,
    LabelConfig,
    SampleConfig,
    preset,
)
from rlhf_pg.language.evaluate import assess
from rlhf_pg.language.finetune import finetune
from rlhf_pg.language.loaded import with_run_options
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import unscored
from rlhf_pg.language.sampling import OwnForward
from rlhf_pg.language.train import train
from support.language import PROMPTS, count_good, draw, tiny_lm, with_values, write_rows

SCRIPT = Path(__file__).parents[2] / "scripts" / "architectures.py"
MANY = PROMPTS * 3
ENCODER, PADDING = "reads the tokens after", "ignores attention_mask or position_ids"
POSITIONS, NO_CACHE = "positions are counted from 0", "returns no key-value cache"
TRAINED = """
    afmoe apertus bamba biogpt bloom codegen cohere2 deepseek_v3 deepseek_v32 doge ernie4_5
    exaone4 falcon falcon_h1 gemma gemma2 gemma3_text glm4 gpt2 gpt_bigcode gpt_neo gpt_neox
    gpt_oss gptj granite granitemoehybrid helium jamba jetmoe kimi_linear lfm2 lfm2_moe llama
    llama4_text mistral mixtral modernbert-decoder mpt nemotron nemotron_h olmo2 olmo_hybrid
    olmoe opt persimmon phi phi3 qwen2 qwen3 qwen3_5_text qwen3_moe qwen3_next smollm3 stablelm
    starcoder2 vaultgemma zamba
""".split()
REFUSED = {
    "bart": PADDING,
    "mbart": PADDING,
    "pegasus": PADDING,
    "trocr": PADDING,
    "bert": ENCODER,
    "electra": ENCODER,
    "roberta": ENCODER,
    "xlnet": ENCODER,
    "camembert with is_decoder": POSITIONS,
    "roberta with is_decoder": POSITIONS,
    "mamba": NO_CACHE,
    "recurrent_gemma": NO_CACHE,
    "rwkv": NO_CACHE,
    "minimax": "uses cache of its own",
}
HYBRID = {"bamba", "falcon_h1", "granitemoehybrid", "jamba", "kimi_linear", "lfm2", "lfm2_moe"}
HYBRID |= {"nemotron_h", "olmo_hybrid", "qwen3_5_text", "qwen3_next", "zamba"}


@pytest.fixture(scope="module")
def architectures():
    """scripts/architectures.py."""
    spec = importlib.util.spec_from_file_location("architectures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def drops(monkeypatch):
    """How many rows were left each time that transformers' cache dropped some."""
    kept, original = [], OwnForward.keep

    def counted(self, rows):
        kept.append(len(rows))
        return original(self, rows)

    monkeypatch.setattr(OwnForward, "keep", counted)
    return kept


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TRAINED)
def test_an_architecture_that_passes_samples_what_it_scores(architectures, tokenizer, drops, kind):
    """Also with rows that end early, repeated prompts, and the critic's values."""
    policy = with_values(LanguagePolicy(architectures.build(kind, tokenizer), critic="detached"))
    check_model(policy, tokenizer, PROMPTS, 8, kind)
    drops.clear()
    done = draw(policy, tokenizer, MANY, steps=6)
    now = policy.evaluate(unscored(done))
    assert float(now.entropies[done.mask].mean()) < 2.9  # uniform: 3.0; nothing would be compared
    assert float(sampling_differences(done, now.logprobs).abs().max()) < 1e-3
    alone = alone_differences(policy, done, now.logprobs, range(len(PROMPTS)))
    assert float(alone.abs().max()) < 1e-3
    close = {"atol": 1e-3, "rtol": 1e-3}
    torch.testing.assert_close(done.values[:, :-1][done.mask], now.values[done.mask], **close)
    if kind in HYBRID:
        assert not drops and done.finished.any()
        now.logprobs.sum().backward()  # their scans can be trained through
        gradients = [p.grad for p in policy.model.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_an_architecture_that_would_be_trained_wrongly_is_refused(architectures, tokenizer, kind):
    policy = LanguagePolicy(architectures.build(kind, tokenizer), critic="none")
    with pytest.raises(ValueError, match=REFUSED[kind]) as error:
        check_model(policy, tokenizer, PROMPTS, 8, kind)
    message = str(error.value)
    assert "\n" not in message and "use a decoder-only model" in message
    assert message.startswith(f"{kind}: {type(policy.model).__name__} ")


def of_type(kind, tokenizer, **options):
    """A tiny untrained model with an encoder-decoder's or an encoder's names of sizes."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "initializer_range": 0.3}
    if kind == "bart":
        sizes = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "init_std": 0.3}
        sizes |= {"decoder_ffn_dim": 32, "encoder_layers": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 48}
    config = AutoConfig.for_model(kind, **sizes, **ids, **options)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_model_that_ignores_padding_trains_on_prompts_of_one_length(tokenizer):
    policy = LanguagePolicy(of_type("bart", tokenizer), critic="none")
    check_model(policy, tokenizer, ["the film", "a plot", "no music"] * 30, 8, "m")
    prompts = ["the film", "a plot"] * 40 + ["a long film"]
    with pytest.raises(ValueError, match="or prompts that all have the same number of tokens"):
        check_model(policy, tokenizer, prompts, 8, "m")


def with_cache_shifted(model):
    """The model with other logits where it has a cache."""
    forward = model.forward

    def shifted(past_key_values=None, **rest):
        out = forward(past_key_values=past_key_values, **rest)
        if past_key_values is not None:
            out.logits[..., 5] += 3.0
        return out

    model.forward = shifted
    return model


def test_a_model_with_a_wrong_cache_is_refused(tokenizer):
    model = with_cache_shifted(tiny_lm("qwen2", tokenizer).eval())
    with pytest.raises(ValueError, match=r"in sampling, with its cache, .*\(off by \d\.\d+ nats\)"):
        check_model(LanguagePolicy(model), tokenizer, PROMPTS, 8, "m")


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("prompts", "steps"),
    [(["the"], 1), (["the", "a plot"], 1), (["the film"], 40), (PROMPTS, 40)],
)
def test_short_prompts_and_completions_are_enough(tokenizer, kind, prompts, steps):
    model = tiny_lm(kind, tokenizer, context=max(4, max(map(len, map(str.split, prompts))) + steps))
    check_model(LanguagePolicy(model), tokenizer, prompts, steps, "m")


def test_the_check_changes_no_generator_and_runs_in_fp32(tokenizer):
    policy = LanguagePolicy(tiny_lm("qwen2", tokenizer), temperature=0.1, bf16=True)
    before = torch.get_rng_state()
    check_model(policy, tokenizer, PROMPTS, 8, "m")
    assert torch.equal(before, torch.get_rng_state()) and policy.bf16


def test_weights_that_are_not_finite_are_left_to_training(tokenizer):
    model = tiny_lm("llama", tokenizer)
    next(model.parameters()).data[:] = float("nan")
    check_model(LanguagePolicy(model), tokenizer, PROMPTS, 8, "m")


@pytest.fixture
def files(tokenizer, tmp_path):
    """Prompts, texts, and folders of a BERT and a Llama."""
    models.save(tmp_path / "bert", of_type("bert", tokenizer), tokenizer)
    models.save(tmp_path / "llama", tiny_lm("llama", tokenizer), tokenizer)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    write_rows(tmp_path / "texts.jsonl", [{"text": prompt} for prompt in MANY * 10])
    return tmp_path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reference", [False, True])
def test_training_refuses_before_it_makes_a_folder(files, reference):
    names = ("llama", "bert") if reference else ("bert", None)
    model, other = (name and str(files / name) for name in names)
    data, output = str(files / "prompts.jsonl"), str(files / "run")
    config = replace(preset("rloo"), model=model, reference=other, data=data, output=output, rows=8)
    config = replace(config, max_new_tokens=4)
    with pytest.raises(ValueError, match=f"bert: BertLMHeadModel {ENCODER}"):
        train(config, reward=count_good)
    assert not (files / "run").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", ["sample", "chat", "label", "evaluate", "the base"])
def test_commands_refuse_it_too(files, command):
    bert, data = str(files / "bert"), str(files / "prompts.jsonl")
    with pytest.raises(ValueError, match=f"bert: BertLMHeadModel {ENCODER}"):
        if command in ("sample", "chat"):
            sample(SampleConfig(model=bert, data=data, max_new_tokens=4, chat=command == "chat"))
        elif command == "label":
            config = LabelConfig(model=bert, data=data, max_new_tokens=4, device="cpu")
            make_pairs(with_run_options(config), None)
        else:
            model = str(files / "llama") if command == "the base" else bert
            config = EvaluateConfig(model=model, base=bert, data=data, reward="length", best_of=0)
            assess(replace(config, device="cpu", max_new_tokens=4))


@pytest.mark.filterwarnings("ignore")
def test_fine_tuning_refuses_an_encoder(files):
    config = FinetuneConfig(model=str(files / "bert"), data=str(files / "texts.jsonl"))
    with pytest.raises(ValueError, match=f"bert: BertLMHeadModel {ENCODER}"):
        finetune(replace(config, output=str(files / "run")))
    assert not (files / "run").exists()


def test_a_model_that_makes_all_logits_is_scored_at_the_right_positions(tokenizer):
    model = tiny_lm("qwen2", tokenizer).eval()
    right = LanguagePolicy(model, critic="none")
    done = draw(right, tokenizer)
    expected = right.evaluate(unscored(done)).logprobs
    forward = model.forward
    model.forward = lambda logits_to_keep=0, **inputs: forward(**inputs)
    policy = LanguagePolicy(model, critic="none")
    vars(policy)["plain_head"] = None  # as for a model that scales its logits
    torch.testing.assert_close(policy.evaluate(unscored(done)).logprobs, expected)
