"""Which architectures of transformers train rightly: a table for docs/architectures.md.

    python scripts/architectures.py > docs/architectures.md

Builds a tiny untrained model of every causal language model in transformers and does what `rlhf-pg
train` does at its start (`rlhf_pg.language.check`). Two minutes.
"""

import logging
import sys
import warnings
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlhf_pg.language import models
from rlhf_pg.language.check import check_model
from rlhf_pg.language.policy import LanguagePolicy

PROMPTS = ["the film", "a long film with a", "the", "no plot but the music is", "the plot is clear"]
LARGEST = 300_000  # parameters; what SIZES and OWN do not make small is left out

# Set where a config has the name. Weights are large, so that every token and position matters.
SIZES: dict[str, Any] = {
    "hidden_size": 16, "n_embd": 16, "d_model": 16, "word_embed_proj_dim": 16, "embedding_size": 16,
    "lru_width": 16,
    "intermediate_size": 32, "n_inner": 32, "ffn_dim": 32, "decoder_ffn_dim": 32,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 1,
    "num_attention_heads": 2, "n_head": 2, "num_heads": 2, "decoder_attention_heads": 2,
    "encoder_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "max_target_positions": 64,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8,
    "mamba_n_groups": 1, "mamba_d_ssm": 32, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "state_size": 4, "n_groups": 1,
    "initializer_range": 0.3, "init_std": 0.3, "logit_scale": 1.0,
    "dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout_prob": 0.0,
}  # fmt: skip
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
# Set for one model type. `as`: the model type, where the key is a variant of it.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bart decoder": {"as": "bart", "is_decoder": True},
    "bert with is_decoder": {"as": "bert", "is_decoder": True},
    "bailing_hybrid": HYBRID,
    "codegen": {"rotary_dim": 4, "n_head": 4},
    "glm_moe_dsa": {"index_n_heads": 2, "index_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_expand": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4, "head_dim": 8, "expand": 2, "chunk_size": 8},
    "qwen3_5_moe_text": HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_next": HYBRID,
    "qwen4_exp_text": HYBRID,
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8},
    "roberta with is_decoder": {"as": "roberta", "is_decoder": True},
    "camembert with is_decoder": {"as": "camembert", "is_decoder": True},
    "electra with is_decoder": {"as": "electra", "is_decoder": True},
    "roformer with is_decoder": {"as": "roformer", "is_decoder": True},
    "rembert with is_decoder": {"as": "rembert", "is_decoder": True},
    "sliding window of 4": {"as": "mistral", "sliding_window": 4},
    "whisper": {"max_source_positions": 64},
    "zaya": {"num_experts_per_tok": 1},
}


def tokenizer() -> Any:
    """Words of the prompts, one token each."""
    return models.train_tokenizer([f"{prompt} ." for prompt in PROMPTS])


def build(kind: str, words: Any) -> Any:
    """A tiny untrained model of the type `kind`; raises what transformers raises.

    Raises MemoryError if it is not tiny.
    """
    own = dict(OWN.get(kind, {}))
    kind = own.pop("as", kind)
    default = AutoConfig.for_model(kind)
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": len(words)}
    sizes = {name: x for name, x in (SIZES | special).items() if _has(default, name)} | own
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        raise MemoryError("not tiny")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))


def _has(config: Any, name: str) -> bool:
    """Whether a config has a value of its own of that name, that may be set."""
    if isinstance(getattr(type(config), name, None), property):
        return False
    try:
        return hasattr(config, name)
    except Exception:  # sizes that differ between layers
        return False


def verdict(kind: str) -> tuple[str, str, str]:
    """The class's name, "trained", "refused" or "not built", and the reason."""
    words = tokenizer()
    try:
        model = build(kind, words)
    except Exception as error:
        return "", "not built", " ".join(f"{type(error).__name__}: {error}".split())[:100]
    name = type(model).__name__
    try:
        check_model(LanguagePolicy(model, critic="none"), words, PROMPTS, 8, kind)
    except ValueError as error:
        return name, "refused", str(error).removeprefix(f"{kind}: {name} ").split("; use a")[0]
    return name, "trained", ""


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    kinds = sorted([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *(k for k in OWN if "as" in OWN[k])])
    rows = []
    for kind in kinds:
        rows.append((kind, *verdict(kind)))
        print(*rows[-1], file=sys.stderr, flush=True)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
