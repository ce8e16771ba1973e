"""Texts as token rows for a sequence classifier, and the opening of such models' folders.

Rows are padded on the right and a decoder's score is read at the last real token, found from the
row's length and never from `ids != pad`: so neither the batch around a text nor a pad token that
looks like another one can change its score.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from reward_models import RewardError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' own bars and notices: a new head being new is no news to a user."""
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


def open_pretrained(auto_class: Any, name: str | Path, **options: Any) -> Any:
    """Call `auto_class.from_pretrained` on a folder or a hub id, with errors of one line.

    Weights are read from safetensors only. A hub id that is in the local cache needs no network.
    """
    if not Path(name).is_dir() and _in_cache_or_reachable(str(name)):
        options["local_files_only"] = True
    if auto_class is not transformers.AutoTokenizer:
        options["use_safetensors"] = True
    try:
        with quiet():
            return auto_class.from_pretrained(str(name), **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        wanted = auto_class.__name__.removeprefix("AutoModelFor").removeprefix("Auto")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise RewardError(
            f"{str(name)!r} holds no {wanted} that can be read: {reason} (wanted: a Hugging Face "
            "folder or hub id with config.json, a tokenizer and *.safetensors)"
        ) from error


def open_classifier(name: str | Path, new_head: bool = False, **options: Any) -> Any:
    """Open a sequence classifier, in eval mode; with `new_head`, from a language model's trunk.

    RewardError for missing weights, which transformers would fill in at random: above all the
    head of a bare language model.
    """
    auto_class = transformers.AutoModelForSequenceClassification
    model, info = open_pretrained(auto_class, name, output_loading_info=True, **options)
    missing = {key for key in info["missing_keys"] if not (new_head and key.startswith("score."))}
    if missing:
        raise RewardError(
            f"{str(name)!r} lacks trained weights (first: {min(missing)}); a language model is no "
            "reward yet: train a reward model from it first"
        )
    return model.eval()


def default_device() -> str:
    """Return "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _in_cache_or_reachable(name: str) -> bool:
    """True if a hub id is cached, False if the hub answers; RewardError if neither.

    Asked first because the hub's client retries for most of a minute when there is no network.
    """
    import huggingface_hub

    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise RewardError(f"no such folder: {name!r}")
    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            return True
    except ValueError:
        raise RewardError(f"{name!r} is neither a folder nor a hub id (owner/name)") from None
    if huggingface_hub.constants.is_offline_mode():
        raise RewardError(f"{name!r} is not in the local cache and HF_HUB_OFFLINE is set")
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception as error:  # whatever the HTTP client in use raises
        raise RewardError(
            f"{name!r} is no folder here and not in the local cache, and the Hugging Face hub "
            "cannot be reached; check the spelling, or download it where there is a network"
        ) from error
    return False


def pad_problem(tokenizer: Any) -> str | None:
    """Say what is wrong with a tokenizer's pad token, or None if it is fit for scoring."""
    if tokenizer.pad_token_id is None:
        return "the tokenizer has no pad token"
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return "pad is the same token as EOS, so a score could not see whether a text ended"
    return None


def add_padding(tokenizer: Any, model: Any) -> None:
    """Give a tokenizer a pad token of its own where it has none or shares EOS's, in place.

    An existing <pad> or [PAD] of the vocabulary is used; else one is added, and the model's
    embeddings grow by the row it needs (which no score ever reads).
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


def context_length(model: Any, tokenizer: Any) -> int:
    """Return how many tokens a model reads at most."""
    limit = getattr(model.config, "max_position_embeddings", None) or 10**9
    if "roberta" in model.config.model_type or model.config.model_type == "camembert":
        limit -= model.config.pad_token_id + 1  # their positions start after the pad's
    return int(min(limit, tokenizer.model_max_length))


def note_truncation(name: str, rows: int, limit: int) -> None:
    """Tell the log that some texts lost their beginning."""
    log.warning("%s: %d texts cut on the left to its context of %d tokens", name, rows, limit)


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, ...]:
    """Return ids (B, T) padded on the right, and lengths (B,)."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    return ids, torch.tensor(lengths, device=device)


def batches_by_length(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return row numbers in batches of like length, longest first, to waste little on padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
