"""Causal language models and tokenizers: from a folder, from the hub, or a tiny new one."""

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from reward_models.files import reward_model_folder
from reward_models.fused import fuse_layers
from reward_models.pretrained import open_pretrained, quiet, save_vocabulary
from rlhf_pg.checkpoint import checkpoint_folders
from rlhf_pg.memory import check_fits
from rlhf_pg.progress import console
from rlhf_pg.runs import options_of

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def train_tokenizer(
    texts: Iterable[str], kind: Literal["word", "bpe"] = "word", vocabulary: int = 2000
) -> PreTrainedTokenizerFast:
    """A tokenizer trained on `texts`, with at most `vocabulary` entries.

    "word": everything between spaces is a token, the rarest are unknown. "bpe": byte-level pairs
    (Sennrich et al. 2016), nothing is unknown. Pad and EOS are different tokens, so that EOS can
    be learned.
    """
    special = [PAD, EOS, UNKNOWN]
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Replace(r" +", " ")
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=vocabulary, special_tokens=special, show_progress=False
        )
    elif kind == "bpe":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if vocabulary < len(special) + len(alphabet):
            raise ValueError(
                f"a bpe vocabulary holds every byte and {len(special)} special tokens: at least "
                f"{len(special) + len(alphabet)} entries, not {vocabulary}"
            )
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        )
    else:
        raise ValueError(f"unknown tokenizer kind {kind!r}: use 'word' or 'bpe'")
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    tokenizer: Any, width: int = 128, layers: int = 2, heads: int = 4, context: int = 128
) -> torch.nn.Module:
    """A small randomly initialised Llama (Touvron et al. 2023) for `tokenizer`; no dropout.

    Of the architectures transformers offers, it is the fastest at this size on a CPU.
    """
    parameters = len(tokenizer) * width + 12 * layers * width**2
    check_fits(16 * parameters, "training this model with Adam", "--width or --layers")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 16) * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    fuse_layers(model)
    return model


def load(name: str) -> tuple[torch.nn.Module, Any]:
    """The causal LM and tokenizer of a folder, a run or a hub name; dropout off, in fp32.

    Raises ValueError, with the remedy, if there is no such model.
    """
    tokenizer = load_tokenizer(name)
    model = open_pretrained(AutoModelForCausalLM, model_folder(name), dtype=torch.float32)
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{name}: {type(model).__name__} has no key-value cache; use a decoder-only transformer"
        )
    embedded = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embedded:
        raise ValueError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens and its model embeds {embedded}; "
            "save the tokenizer that the model was trained with beside it"
        )
    return model.eval(), tokenizer


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a causal LM's folder, run or hub name, padding on the left."""
    if name.startswith("runs/") and not Path(name).exists():
        raise ValueError(f"no run at {name}; `rlhf-pg finetune` and `rlhf-pg train` make runs")
    tokenizer = open_pretrained(AutoTokenizer, model_folder(name), wanted="causal language model")
    prepare_padding(tokenizer)
    return tokenizer


def check_same_vocabulary(tokenizer: Any, other: Any, what: str) -> None:
    """Raise ValueError if `other`, the tokenizer of `what`, numbers the tokens otherwise."""
    theirs = other.get_vocab()
    if any(theirs.get(token) != number for token, number in tokenizer.get_vocab().items()):
        raise ValueError(
            f"{what} has another vocabulary than the policy; use one that was trained from the "
            "same base model"
        )


def load_trunk(folder: Path) -> Any:
    """The transformer without a head in `folder`, dropout off, in fp32."""
    return open_pretrained(AutoModel, folder, dtype=torch.float32).eval()


def model_folder(name: str) -> str:
    """`name`, or if it is a run the folder of its policy: of an unfinished run, the newest
    checkpoint's. Raises ValueError for a run without either."""
    run = Path(name)
    if (run / "policy" / "config.json").is_file():
        return str(run / "policy")
    policies = [folder / "policy" for folder in checkpoint_folders(run)]
    for policy in policies:
        if (policy / "config.json").is_file():
            console.print(
                f"{name} is unfinished: using iteration {int(policy.parent.name)}", markup=False
            )
            return str(policy)
    if (run / "config.yaml").is_file() and not (run / "config.json").is_file():
        raise ValueError(_why_no_policy(run))
    return name


def _why_no_policy(run: Path) -> str:
    """Why a run has no language model."""
    options = options_of(run)
    if "env" in options:
        return f"{run} is a run of `rlhf-pg control`, which has no language model"
    if reward_model_folder(run):
        return f"{run} is a reward model, not a language model: give it as --reward"
    if "learner" in options or "vocabulary" in options:
        return f"{run} is unfinished, and has no checkpoint yet"
    return f"{run} is a run without a language model of its own"


def local_folder(name: str) -> Path:
    """The folder on this machine that `load(name)` read: a hub name's is in the local cache."""
    folder = Path(model_folder(name))
    if folder.is_dir():
        return folder
    found = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if not isinstance(found, str):
        raise ValueError(f"{name} is not in the local cache of the Hugging Face hub any more")
    return Path(found).parent


def prepare_padding(tokenizer: Any) -> None:
    """Pad on the left, with EOS if the tokenizer has no pad token. Raises ValueError without EOS.

    Padding with EOS is safe here: masks come from lengths, never from `ids != pad`.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token, so no completion could ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"


def without_adapters(model: Any) -> Any:
    """The causal LM inside a LoRA model, whose layers hold the adapters; any other as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a plain Hugging Face folder (safetensors)."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_vocabulary(folder, tokenizer)
