"""Opening Hugging Face folders and hub names: tokenizers, models, and checks of their weights.

torch and transformers are imported where they are used, so that the checks of hub names are cheap
to import.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub

from reward_models import RewardError

log = logging.getLogger(__name__)

KINDS = {
    "AutoModelForCausalLM": "causal language model",
    "AutoModelForSequenceClassification": "sequence classifier",
    "AutoTokenizer": "tokenizer",
}
VOCABULARY = "vocabulary.sha256"  # in the folder of a model saved by this program
HEADS = ("score.", "classifier.")  # of sequence classifiers
LAYER = re.compile(r"(^|\.)\d+\.")  # a weight of a numbered layer
# Masks and positions that older checkpoints store and models now compute.
BUFFER = re.compile(
    r"(attn|attention)\.(bias|masked_bias|causal_mask)$|(^|\.)(inv_freq|position_ids)$"
)


def open_pretrained(
    auto_class: Any,
    name: str | Path,
    *,
    wanted: str | None = None,
    new_head: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Call `auto_class.from_pretrained` on a folder or hub id, and check a model's weights.

    Weights are read from safetensors only, and code in the folder is never run. A hub id in the
    local cache needs no network. `wanted` names the thing in errors (default: by `auto_class`),
    `new_head` the prefixes of weights that may be missing, as the caller initialises them;
    `options` go to `from_pretrained`. Raises RewardError (a ValueError) of one line.
    """
    wanted = wanted or KINDS.get(auto_class.__name__, "model")
    folder = Path(name).expanduser()
    local = folder.is_dir() or _is_cached(str(name), wanted)
    is_model = auto_class.__name__.startswith("AutoModel")
    if is_model and folder.is_dir():
        _check_alone(folder)
    if is_model:
        # Weights of wrong shapes are reported by check_weights, which names the first of them.
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
        options |= {"output_loading_info": True}
    source = str(folder) if folder.is_dir() else str(name)
    try:
        with quiet():
            opened = auto_class.from_pretrained(
                source, local_files_only=local, trust_remote_code=False, **options
            )
    except Exception as error:  # tokenizers and safetensors raise types of their own
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise RewardError(
                f"{name} needs code of its own (auto_map in its JSON files), and such code is "
                "never run: use a model whose architecture transformers itself has"
            ) from error
        raise RewardError(_why_not(str(name), wanted, str(error).strip() or repr(error))) from error
    if not is_model:
        if (
            hasattr(opened, "get_vocab")
            and not opened.get_vocab().keys() - opened.get_added_vocab()
        ):
            # transformers makes such a tokenizer of some models' folders without tokenizer files.
            raise RewardError(_why_not(str(name), wanted, "its tokenizer has no vocabulary"))
        _check_vocabulary(folder, opened)
        return opened
    model, info = opened
    check_weights(info, name, new_head)
    for key, weight in model.named_parameters():
        if not weight.sum().isfinite():
            raise RewardError(
                f"{str(name)!r} has weights that are no finite numbers (first: {key})"
            )
    from reward_models.fused import fuse_layers

    fuse_layers(model)
    return model


def limit_threads(model: Any) -> None:
    """Use one thread for a small model (`one_thread_if_small`)."""
    one_thread_if_small(sum(p.numel() for p in model.parameters()))


def one_thread_if_small(parameters: int) -> None:
    """Use one thread for a model under five million parameters, unless OMP_NUM_THREADS is set.

    Such work is too small to share: threads mostly wait for each other and, on a busy machine, for
    other programs.
    """
    import torch

    if parameters < 5_000_000 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def save_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Write a hash of the vocabulary beside a model, which `open_pretrained` compares."""
    (folder / VOCABULARY).write_text(_vocabulary_hash(tokenizer) + "\n")


def _vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 of every token with its number, in the order of the numbers."""
    numbered = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(numbered).encode()).hexdigest()


def _check_vocabulary(folder: Path, tokenizer: Any) -> None:
    """Raise RewardError if a folder's tokenizer is not the one its model was saved with."""
    path = folder / VOCABULARY
    if not path.is_file() or path.read_bytes().strip() == _vocabulary_hash(tokenizer).encode():
        return
    raise RewardError(
        f"{str(folder)!r}: its tokenizer has another vocabulary than the model was saved with; put "
        f"the old tokenizer.json back, or delete {VOCABULARY} if the model fits the new one"
    )


def _check_alone(folder: Path) -> None:
    """Raise RewardError if a model's folder needs another model, or code from the hub."""
    if (folder / "adapter_config.json").exists():
        raise RewardError(
            f"{folder} holds a LoRA adapter, which names another model as its base: merge it into "
            "that model first (peft: merge_and_unload, then save_pretrained)"
        )

    def refuse(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            if key.endswith("_implementation") and "/" in str(value):
                raise RewardError(
                    f"{folder}: its config.json names code on the hub ({key}: {value}), and such "
                    "code is never run: remove that line"
                )
        return dict(pairs)

    try:
        json.loads((folder / "config.json").read_bytes(), object_pairs_hook=refuse)
    except RewardError:
        raise
    except (OSError, ValueError):
        pass  # from_pretrained reports these


def open_classifier(name: str | Path, new_head: bool = False, **options: Any) -> Any:
    """Open a sequence classifier in eval mode.

    With `new_head`, a language model will do, and the caller initialises `model.score`. Raises
    RewardError for missing or unused weights.
    """
    from transformers import AutoModelForSequenceClassification

    if new_head:
        options |= {"new_head": HEADS, "wanted": "causal language model"}
    return open_pretrained(AutoModelForSequenceClassification, name, **options).eval()


def check_weights(info: Mapping[str, Any], name: str | Path, new_head: Sequence[str] = ()) -> None:
    """Raise RewardError if a model and the weights it was loaded from do not fit.

    `info` is what `from_pretrained(output_loading_info=True)` returns beside the model. Weights
    that are missing or of another shape would be random values. Weights of layers that the model
    lacks mean that config.json describes a smaller model. Other unused weights are heads for
    other uses (`lm_head` of a language model opened as a classifier), which are harmless, except
    the head of a classifier that is opened as something else.
    """
    heads = tuple(new_head)
    missing = [key for key in info["missing_keys"] if not key.startswith(heads)]
    if any(key.startswith(HEADS) for key in missing):
        raise RewardError(
            f"{str(name)!r} lacks weights of its model (first: {min(missing)}): it is a language "
            "model, not a classifier; train a reward model from it first"
        )
    if missing:
        raise RewardError(
            f"{str(name)!r} lacks weights of its model (first: {min(missing)}): its "
            "model.safetensors is incomplete, or its config.json is another model's"
        )
    shapes = [key for key, *_ in info["mismatched_keys"] if not key.startswith(heads)]
    if shapes:
        raise RewardError(
            f"{str(name)!r} has weights of other shapes than its config.json says (first: "
            f"{min(shapes)}); use the config.json that was saved with the weights"
        )
    unused = [key for key in info["unexpected_keys"] if LAYER.search(key)]
    if not heads:
        unused += [key for key in info["unexpected_keys"] if key.startswith(HEADS)]
    unused = [key for key in unused if not BUFFER.search(key)]
    if unused:
        raise RewardError(
            f"{str(name)!r} has weights that its model does not use (first: {min(unused)}): its "
            "config.json describes a smaller or another kind of model"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and notices within the block."""
    import transformers

    library: Any = transformers.utils.logging
    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def hub_offline() -> bool:
    """Return whether HF_HUB_OFFLINE restricts reading to the local cache."""
    return bool(huggingface_hub.constants.is_offline_mode())


def hub_must_answer(name: str) -> None:
    """Raise RewardError within seconds if the hub, which should have `name`, cannot be reached.

    The hub's own client retries for most of a minute when there is no network.
    """
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception as error:  # whatever the HTTP client in use raises
        raise RewardError(
            f"{name!r} is no file or folder here, and the Hugging Face hub cannot be reached: "
            "check the spelling and the network (HF_HUB_OFFLINE=1 reads what was downloaded before)"
        ) from error


def _is_cached(name: str, wanted: str) -> bool:
    """Whether to read a hub id from the local cache; RewardError if it can be read nowhere."""
    try:
        found = huggingface_hub.try_to_load_from_cache(name, "config.json")
    except ValueError as error:  # neither a folder nor spelt like a hub id
        raise RewardError(_why_not(name, wanted, str(error))) from error
    if isinstance(found, str) or hub_offline():
        return True
    hub_must_answer(name)
    return False


def _why_not(name: str, wanted: str, error: str) -> str:
    """One line for a folder or hub id that cannot be opened."""
    if Path(name).expanduser().is_dir():
        return (
            f"{name} is a folder but no {wanted}: {error.splitlines()[0][:300]} "
            "(expected config.json, model.safetensors and a tokenizer, as save_pretrained writes)"
        )
    return (
        f"no model at {name!r}: there is no such folder, and the Hugging Face hub has no {wanted} "
        f"of that name. Check the spelling ({' '.join(error.split())[:200]})"
    )


def usable_device(name: Any = None) -> Any:
    """Return the torch device of that name, by default a GPU if there is one.

    Raises RewardError if there is no such device.
    """
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RewardError(f"device {str(name)!r} cannot be used here: {reason}") from error
    return device


def context_length(model: Any, tokenizer: Any = None) -> int | None:
    """Return the most tokens of a text that a model and its tokenizer support; None if unknown."""
    limits = []
    if positions := getattr(model.config, "max_position_embeddings", None):
        kind = getattr(model.config, "model_type", "")
        if "roberta" in kind or kind == "camembert":
            positions -= model.config.pad_token_id + 1  # their positions start after the pad's
        limits.append(int(positions))
    # Tokenizers without a limit have model_max_length 10^30.
    if tokenizer is not None and tokenizer.model_max_length < 10**9:
        limits.append(int(tokenizer.model_max_length))
    return min(limits, default=None)


def pad_problem(tokenizer: Any) -> str | None:
    """Return why a tokenizer's pad token cannot be used for scoring, or None if it can."""
    if tokenizer.pad_token_id is None:
        return "the tokenizer has no pad token"
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return "pad is the same token as EOS, so a score could not tell whether a text ended"
    return None


def add_padding(tokenizer: Any, model: Any) -> None:
    """Give a tokenizer without a pad token, or with EOS as its pad token, one of its own, in place.

    An existing <pad> or [PAD] of the vocabulary is used. Otherwise one is added, and the model's
    embeddings grow by its row, which no score depends on.
    """
    if pad_problem(tokenizer):
        vocabulary = tokenizer.get_vocab()
        known = [token for token in ("<pad>", "[PAD]", "<|pad|>") if token in vocabulary]
        tokenizer.add_special_tokens({"pad_token": known[0] if known else "<pad>"})
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        with quiet():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for token in ("pad_token_id", "eos_token_id", "bos_token_id"):
        setattr(model.config, token, getattr(tokenizer, token))


def note_truncation(name: str, rows: int, limit: int) -> None:
    """Log a warning that some texts were cut on the left."""
    log.warning("%s: %d texts cut on the left to its context of %d tokens", name, rows, limit)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return row numbers in batches of similar length, longest first, to minimise padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
