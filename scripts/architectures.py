"""Which architectures of transformers train rightly: a table for docs/architectures.md.

    python scripts/architectures.py > docs/architectures.md

Builds a tiny untrained model of every causal language model in transformers and does what `rlhf-pg
train` does at its start (`rlhf_pg.language.check`). Two minutes.
"""

import logging
import math
import re
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

TEXT = """# Architectures

`rlhf-pg train` samples a few short completions before it writes anything, and compares their
log-probabilities in sampling (with a cache, prompts padded), in scoring (without a cache), and in
one plain call of the model for each row alone. A difference above 1e-3 nats in fp32 is an error in
one line. This takes about ten short forward passes. `rlhf-pg doctor` makes the same comparisons on
your own prompts.

`python scripts/architectures.py > docs/architectures.md` did so with a tiny untrained model of
every causal language model in transformers {version}: {trained} are trained, {refused} refused.
The names are transformers' model types.

**Trained:** {trained_kinds}.

Hybrid and state-space models keep all their rows while sampling, since their cache cannot drop any;
they mask their padding themselves.

**Refused**, with the nats by which the largest log-probability was off. Those that ignore padding
can be trained on prompts that all have the same number of tokens.

{refused_kinds}

Not tested, since no tiny model with probabilities that matter was made from its config: {left_out}.
"""
PROMPTS = ["the film", "a long film with a", "the", "no plot but the music is", "the plot is clear"]
LARGEST = 1_000_000  # parameters; what SIZES and OWN do not make small is left out

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
    "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
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
    "bert with is_decoder": {"as": "bert", "is_decoder": True},
    "bailing_hybrid": HYBRID,
    "codegen": {"rotary_dim": 4, "num_attention_heads": 4},
    "glm_moe_dsa": {"index_n_heads": 2, "index_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_expand": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "kimi_linear": HYBRID | {"linear_num_heads": 2, "linear_head_dim": 8, "head_dim": 16},
    "mamba2": {"num_heads": 4, "head_dim": 8, "expand": 2, "chunk_size": 8},
    "mimo_v2_flash": {"num_key_value_heads": 1},
    "nemotron_h": {
        "layer_types": ["mamba", "full_attention"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 4,
        "chunk_size": 8,
        "initializer_range": 0.2,
    },
    "qwen3_5_moe_text": HYBRID,
    "qwen3_5_text": HYBRID,
    "qwen3_next": HYBRID,
    "qwen4_exp_text": HYBRID,
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8},
    "roberta with is_decoder": {"as": "roberta", "is_decoder": True},
    "camembert with is_decoder": {"as": "camembert", "is_decoder": True},
    "electra with is_decoder": {"as": "electra", "is_decoder": True},
    "roformer with is_decoder": {"as": "roformer", "is_decoder": True},
    "sliding window of 4": {"as": "mistral", "sliding_window": 4},
    "whisper": {"max_source_positions": 64},
    "zamba": {
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 32,
        "attention_head_dim": 16,
        "mamba_dt_rank": 4,
    },
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
    name, policy = type(model).__name__, LanguagePolicy(model, critic="none")
    try:
        check_model(policy, words, PROMPTS, 8, kind)
    except ValueError as error:
        return name, "refused", str(error).removeprefix(f"{kind}: {name} ").split("; use a")[0]
    with torch.no_grad():
        logprobs = policy.plain(torch.arange(len(words))[None])
    entropy = float(-(logprobs.exp() * logprobs).sum(-1).mean())
    if entropy > 0.98 * math.log(len(words)):
        return name, "not built", "nearly uniform: nothing was compared"
    return name, "trained", ""


def main() -> None:
    """Print docs/architectures.md; progress goes to standard error."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    kinds = sorted([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *(k for k in OWN if "as" in OWN[k])])
    found: dict[str, list[tuple[str, str, str]]] = {"trained": [], "refused": [], "not built": []}
    for kind in kinds:
        name, result, reason = verdict(kind)
        print(kind, name, result, reason, file=sys.stderr, flush=True)
        found[result].append((kind, name, reason))
    kinds_of = {result: ", ".join(f"`{row[0]}`" for row in rows) for result, rows in found.items()}
    reasons: dict[str, list[str]] = {}
    for kind, name, reason in found["refused"]:
        off = re.search(r" \(off by (.*) nats\)", reason)
        reason = reason.replace(off[0] if off else "", "").replace(name, "the model")
        reasons.setdefault(reason, []).append(f"`{kind}`" + (f" {off[1]}" if off else ""))
    lines = [f"- {reason}: {', '.join(kinds)}" for reason, kinds in sorted(reasons.items())]
    print(
        TEXT.format(
            version=transformers.__version__,
            trained=len(found["trained"]),
            refused=len(found["refused"]),
            trained_kinds=kinds_of["trained"],
            refused_kinds="\n".join(lines),
            left_out=kinds_of["not built"],
        ),
        end="",
    )


if __name__ == "__main__":
    main()
