"""Tiny tokenizers and models, made in memory."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

WORDS = "a the film plot was is good bad great dull and not so very by far long".split()


def word_tokenizer(**special) -> PreTrainedTokenizerFast:
    tokens = [*dict.fromkeys(special.values()), "<unk>", *WORDS]
    vocabulary = models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="<unk>")
    tokenizer = Tokenizer(vocabulary)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


def tiny_config(kind: str, vocab_size: int, context: int = 32):
    sizes = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": 1}
    if kind == "gpt2":
        return GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=context, **sizes)
    config = {"llama": LlamaConfig, "qwen2": Qwen2Config, "gpt-neox": GPTNeoXConfig}[kind]
    sizes |= {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": context}
    return config(**sizes, **({} if kind == "gpt-neox" else {"num_key_value_heads": 2}))


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tokenizer():
    return word_tokenizer(pad_token="<pad>", eos_token="<eos>")
