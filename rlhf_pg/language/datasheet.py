"""What a data source holds, shown to the person who is to train on it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rich.text import Text

from rlhf_pg.language import conversations, data, models
from rlhf_pg.progress import console

COMMANDS: dict[data.Kind, str] = {
    "corpus": "finetune",
    "prompts": "train",
    "preferences": "reward",
}
BAR, BINS, SHOWN = 30, 8, 3


@dataclass
class DataShowConfig:
    """Show how a data source is understood."""

    path: str = data.FILM_NOTES
    """A file, a folder, a hub name, or "film-notes"."""
    model: str | None = None
    """Count tokens as this model does, and write messages by its chat template; None counts
    words."""
    split: Literal["train", "test"] = "train"
    """Which split, where the source has them."""


def show(config: DataShowConfig) -> None:
    """Print the form, the counts, how long the texts are, and three rows."""
    tokenizer = models.load(config.model)[1] if config.model else None
    if config.path != data.FILM_NOTES:
        describe(config.path, data.load(config.path, config.split), tokenizer)
        return
    for kind in get_args(data.Kind):
        path = data.film_notes(kind, config.split)
        describe(f"{config.path}, {kind}", data.load(path, config.split), tokenizer)
        console.print()


def describe(source: str, rows: data.Rows, tokenizer: Any = None) -> None:
    """Print what columns there are and what they are good for, lengths, and the first rows."""
    count = len(next(iter(rows.values())))
    console.print(Text(f"{source}: {count:,} {'row' if count == 1 else 'rows'}", "bold"))
    suits = {kind: form for kind in COMMANDS if (form := data.form_of(rows, kind))}
    for kind, form in suits.items():
        told = any(conversations.is_conversation(rows[name][0]) for name in form)
        how = ", lists of messages" if told else ""
        if kind == "preferences" and "prompt" not in form:
            how += ", the prompt is what both begin with"
        columns = " + ".join(form)
        console.print(f"  {kind} ({columns}{how}): for rlhf-pg {COMMANDS[kind]}", markup=False)
    used = {name for form in suits.values() for name in form}
    if not suits:
        console.print("  suits no command: it needs text, prompt, or chosen and rejected")
    for name in [name for name in rows if name not in used]:
        console.print(f"  {name}: passed to the reward beside the prompt", markup=False)
    parsed = _parsed(source, rows, suits, tokenizer)
    for name, values in parsed.items():
        if name in used | {"text", "prompt"}:
            _histogram(name, [value for value in values if isinstance(value, str)], tokenizer)
    for row in range(min(SHOWN, count)):
        console.print(Text(f"row {row}", "bold"))
        for name, values in parsed.items():
            console.print(Text.assemble((f"  {name}: ", "dim"), repr(values[row])[:400]))


def _parsed(
    source: str, rows: data.Rows, suits: dict[data.Kind, list[str]], tokenizer: Any
) -> data.Rows:
    """The rows as the fullest form that suits reads them; as they stand where none can."""
    if not suits:
        return rows
    kind = max(suits, key=lambda kind: (len(suits[kind]), kind == "prompts"))
    told = any(conversations.is_conversation(rows[name][0]) for name in suits[kind])
    return rows if told and tokenizer is None else data.parse(rows, kind, source, tokenizer)


def _histogram(name: str, texts: Sequence[str], tokenizer: Any) -> None:
    """How many tokens (words, without a tokenizer) the texts have, as small bars."""
    if not texts:
        return
    if tokenizer is None:
        unit, lengths = "words", [len(text.split()) for text in texts]
    else:
        unit, lengths = "tokens", [len(ids) for ids in models.encode(tokenizer, list(texts))]
    mean, middle = statistics.fmean(lengths), statistics.median(lengths)
    console.print(
        f"{unit} of {name}: mean {mean:.1f}, median {middle:g}, {min(lengths)} to {max(lengths)}",
        markup=False,
    )
    counted = bins(lengths, BINS)
    most = max(number for _, _, number in counted)
    for low, high, number in counted:
        bar = "█" * round(BAR * number / most) or ("▏" if number else "")
        label = f"{low}" if low == high else f"{low}-{high}"
        console.print(f"  {label:>11}  {bar:<{BAR}} {number:,}", markup=False)


def bins(lengths: Sequence[int], most: int) -> list[tuple[int, int, int]]:
    """(least, greatest, how many) of at most `most` ranges of equal width that hold them all."""
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // most)
    edges = range(low, high + 1, width)
    return [(a, a + width - 1, sum(a <= x < a + width for x in lengths)) for a in edges]
