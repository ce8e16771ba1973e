"""Tiny untrained models of four architectures, and what they compute for one text alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.sampling import sample

ARCHITECTURES = ["gpt2", "llama", "qwen2", "gpt-neox"]
TEXTS = [
    "the film is good and the plot is clear .",
    "the film is dull but the music is bright .",
    "a long film with a bright cast and no plot .",
]
PROMPTS = ["the film", "a long film with a", "the", "no plot but the music is", "the plot is clear"]


def tiny_lm(kind, tokenizer, context=48, seed=0, spread=0.4, **options):
    """An untrained model whose weights are large enough that every position and token matters."""
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": None, "initializer_range": spread}
    sizes |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if kind == "gpt2":
        config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=context, **sizes)
    else:
        sizes |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 2, "max_position_embeddings": context}
        if kind != "gpt-neox":
            sizes["num_key_value_heads"] = 1
        kinds = {"llama": LlamaConfig, "qwen2": Qwen2Config, "gpt-neox": GPTNeoXConfig}
        config = kinds[kind](**sizes)
    for name, value in options.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def with_values(policy, seed=1):
    """The policy with a critic that is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.value_head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return policy


def draw(policy, tokenizer, prompts=PROMPTS, steps=12, seed=0, **options):
    """Sampled completions of at most `steps` tokens."""
    generator = torch.Generator().manual_seed(seed)
    return sample(policy, tokenizer, prompts, steps, generator, **options)


def alone(policy, done, row):
    """Log-probabilities (T, V) and values (T,) of a row's states, and its tokens (T,), in the order
    (log-probabilities, tokens, values).

    By one plain call of the model on this row: no padding, no mask, no positions, no cache.
    """
    prompt = done.prompt_ids[row][done.prompt_mask[row].bool()]
    tokens = done.ids[row][done.mask[row].bool()]
    with torch.no_grad():
        out = policy.model(torch.cat([prompt, tokens])[None], output_hidden_states=True)
    states = slice(len(prompt) - 1, -1)
    logprobs = (out.logits[0, states] / policy.temperature).log_softmax(-1)
    values = (
        policy.value_head(out.hidden_states[-1][0, states])[:, 0] if policy.value_head else None
    )
    return logprobs, tokens, values


class CountingLM(nn.Module):
    """Always predicts token i + 1 after token i. Its hidden state is (token, position)."""

    def __init__(self, vocabulary):
        super().__init__()
        sizes = {"hidden_size": 2, "num_attention_heads": 1, "num_hidden_layers": 1}
        self.config = LlamaConfig(vocab_size=vocabulary, **sizes)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, position_ids, past_key_values, logits_to_keep, **_):
        following = nn.functional.one_hot(input_ids + 1, self.config.vocab_size + 1)[..., :-1]
        state = torch.stack([input_ids, position_ids.expand_as(input_ids)], -1).float()
        if past_key_values is not None:  # something to select rows of
            past_key_values.update(state[:, None], state[:, None], 0)
        return SimpleNamespace(
            logits=(following * 100.0 + self.weight)[:, -logits_to_keep:],
            hidden_states=(state,),
            past_key_values=past_key_values,
        )


class NumberTokenizer:
    """Words are numbers, and a number is its own token."""

    all_special_ids = [0, 9]
    eos_token_id, pad_token_id = 9, 0

    def __call__(self, texts, **_):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def batch_decode(self, rows):
        return [" ".join(map(str, row)) for row in rows]


def counting_policy():
    """V(s) = 100 * the last token of s + its position."""
    policy = LanguagePolicy(CountingLM(10))
    with torch.no_grad():
        policy.value_head.weight.copy_(torch.tensor([[100.0, 1.0]]))
    return policy


def count_good(completions, **_):
    """A reward: the number of times a completion has the word "good"."""
    return [float(text.split().count("good")) for text in completions]


def write_rows(path, rows):
    """Write a jsonl file, and return its path as text."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path(path).write_text(text, encoding="utf-8")
    return str(path)
