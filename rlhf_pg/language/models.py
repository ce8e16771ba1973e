"""A causal language model and its tokenizer: from a folder, a hub name, or a tiny one made here."""

import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlhf_pg.language import hub

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def train_tokenizer(
    texts: Iterable[str], kind: Literal["word", "bpe"] = "word", vocabulary: int = 2000
) -> PreTrainedTokenizerFast:
    """A tokenizer learned from `texts`, of at most `vocabulary` entries.

    "word": whatever stands between spaces is a token, the rarest are unknown. "bpe": byte-level
    pairs (Sennrich et al. 2016), nothing is unknown. Pad and EOS are different tokens, so that an
    EOS can be learned.
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
    return transformers.LlamaForCausalLM(config).eval()


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of each text as a beginning: its BOS where the tokenizer has one, never an EOS."""
    eos = tokenizer.eos_token_id
    rows = tokenizer(texts, verbose=False)["input_ids"]
    return [row[:-1] if row and row[-1] == eos else row for row in rows]


def load(name: str) -> tuple[torch.nn.Module, Any]:
    """The causal LM and tokenizer of a folder (a run's, too) or a hub name, dropout off, in fp32.

    Raises ValueError where there is no such model, with what to do about it.
    """
    source = model_folder(name)
    local = Path(source).is_dir() or _cached(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
        )
    except Exception as error:
        raise ValueError(_why_not(name, error)) from error
    model, info = loaded
    if info["missing_keys"]:  # which transformers would have filled in at random
        raise ValueError(
            f"{name} lacks weights of its model (first: {min(info['missing_keys'])}): its "
            "model.safetensors is not whole, or its config.json is another model's"
        )
    ready_to_pad(tokenizer)
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ValueError(
            f"{name}: {type(model).__name__} keeps no keys and values of past tokens; use a "
            "decoder-only transformer"
        )
    embedded = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embedded:
        raise ValueError(
            f"{name}: its tokenizer has {len(tokenizer)} tokens and its model embeds {embedded}; "
            "save the tokenizer that the model was trained with beside it"
        )
    return model.eval(), tokenizer


def model_folder(name: str) -> str:
    """`name`, or the folder of the policy inside it where it is a run."""
    path = Path(name)
    return str(path / "policy") if (path / "policy" / "config.json").is_file() else name


def ready_to_pad(tokenizer: Any) -> None:
    """Prompts are padded on the left; a tokenizer without a pad token lends its EOS.

    That is safe here: masks come from lengths, never from `ids != pad`.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no EOS token, so no completion could ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"


def suit_threads(model: torch.nn.Module) -> None:
    """Leave a model of a few million parameters one thread, unless OMP_NUM_THREADS says otherwise.

    Such work is too small to share: the threads mostly wait for one another, and on a busy machine
    for other programs.
    """
    small = sum(p.numel() for p in model.parameters()) < 5_000_000
    if small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def save(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a plain Hugging Face folder (safetensors)."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def context_length(model: Any) -> int | None:
    """The most tokens the model can attend to, where its configuration says."""
    length = getattr(model.config, "max_position_embeddings", None)
    return int(length) if length else None


def _cached(name: str) -> bool:
    """Whether to read a hub name from the local cache; ValueError where no hub could give it."""
    if name.startswith("runs/"):
        raise ValueError(f"no run at {name}; `rlhf-pg finetune` and `rlhf-pg train` make runs")
    try:
        found = huggingface_hub.try_to_load_from_cache(name, "config.json")
    except ValueError as error:  # no hub name either
        raise ValueError(_why_not(name, error)) from error
    if isinstance(found, str) or hub.offline():
        return True
    hub.must_answer(name)
    return False


def _why_not(name: str, error: Exception) -> str:
    path = Path(name)
    if path.is_dir():
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return (
            f"{name} is a folder but no causal language model: {reason} "
            "(expected config.json, model.safetensors and a tokenizer, as save_pretrained writes)"
        )
    reason = " ".join(str(error).split())[:200]
    return (
        f"no model at {name!r}: there is no such folder, and the Hugging Face hub gives none of "
        f"that name. Check the spelling ({reason})"
    )
