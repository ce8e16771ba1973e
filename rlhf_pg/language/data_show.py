"""`rlhf-pg data show`: how a data source is read, and what each command would do with it."""

import statistics
from typing import Any, get_args

from rich.text import Text

from reward_models.config import PreferenceConfig
from reward_models.held_out import split
from reward_models.preference import without_equal
from rlhf_pg.language import models
from rlhf_pg.language.config import FILM_NOTES, DataShowConfig
from rlhf_pg.language.conversations import Rows, has_conversations
from rlhf_pg.language.data import FORMS, Kind, film_notes, form_of, hold_out, load, parse, renamed
from rlhf_pg.language.sampling import encode
from rlhf_pg.progress import console, plain

COMMANDS: dict[Kind, str] = {"corpus": "finetune", "prompts": "train", "preferences": "reward"}
BAR, BINS, SHOWN = 30, 8, 3  # characters of a bar, bars, example rows


def show(config: DataShowConfig) -> None:
    """Print a source's form, what commands do with it, the lengths of its texts, and three rows."""
    tokenizer = models.load(config.model)[1] if config.model else None
    if config.path != FILM_NOTES:
        rows = renamed(load(config.path, config.split), config.columns, config.path)
        describe(config.path, rows, tokenizer)
        return
    for kind in get_args(Kind):
        rows = load(film_notes(kind, config.split), config.split)
        describe(f"{config.path}, {kind}", rows, tokenizer)
        console.print()


def describe(source: str, rows: Rows, tokenizer: Any = None) -> None:
    """Print the columns and what each command does with them, lengths, and the first rows."""
    count = len(next(iter(rows.values())))
    console.print(Text(f"{plain(source)}: {count:,} {'row' if count == 1 else 'rows'}", "bold"))
    forms = {kind: form for kind in COMMANDS if (form := form_of(rows, kind, source))}
    for kind, command in COMMANDS.items():
        if kind not in forms:
            wanted = " or ".join(" + ".join(form) for form in FORMS[kind])
            console.print(f"  not for rlhf-pg {command}: {kind} need {wanted}", markup=False)
            continue
        form = forms[kind]
        note = ", lists of messages" if has_conversations(rows, form) else ""
        if kind == "preferences" and "prompt" not in form:
            note += ", the prompt is what both begin with"
        columns = plain(" + ".join(form))
        console.print(f"  {kind} ({columns}{note}): for rlhf-pg {command}", markup=False)
        console.print(f"    {plain(_use(rows, kind, source, tokenizer))}", markup=False)
    used = {name for form in forms.values() for name in form}
    if not forms:
        console.print("  suits no command: it needs text, prompt, or chosen and rejected")
    for name in [name for name in rows if name not in used]:
        console.print(f"  {plain(name)}: passed to the reward beside the prompt", markup=False)
    if forms:
        # Show the rows as the richest form that fits reads them.
        kind = max(forms, key=lambda kind: (len(forms[kind]), kind == "preferences"))
        if tokenizer is not None or not has_conversations(rows, forms[kind]):
            rows = parse(rows, kind, source, tokenizer)
    for name, values in rows.items():
        if name in used | {"text", "prompt", "chosen", "rejected"}:
            _print_lengths(name, [value for value in values if isinstance(value, str)], tokenizer)
    for row in range(min(SHOWN, len(next(iter(rows.values()))))):
        console.print(Text(f"row {row + 1}", "bold"))
        for name, values in rows.items():
            console.print(Text.assemble((f"  {plain(name)}: ", "dim"), repr(values[row])[:400]))


def _use(rows: Rows, kind: Kind, source: str, tokenizer: Any) -> str:
    """What a command would do with the rows, with its default options, in a sentence."""
    try:
        read = parse(rows, kind, source, tokenizer)
        if kind == "corpus":
            train, held_out = hold_out(read)
            sizes = len(train["text"]), len(held_out["text"])
            return "trains on {:,} texts, holds out the last {:,}".format(*sizes)
    except ValueError as error:
        return f"would stop: {error}"
    count = len(read["prompt"])
    if kind == "prompts":
        passed = ", ".join(name for name in read if name != "prompt") or "no other column"
        different = len(set(read["prompt"]))
        return f"samples from {count:,} prompts, {different:,} different; the reward gets {passed}"
    every = [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]
    pairs = without_equal(every)
    options = PreferenceConfig()
    _, held, apart = split(pairs, options.held_out, options.seed)
    texts = {pair[side] for pair in pairs for side in ("chosen", "rejected")}
    longer = [len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs]
    wins = sum((x > 0) + (x == 0) / 2 for x in longer) / max(1, len(pairs))
    made = "makes" if "chosen" not in rows else "learns from"
    return (
        f"{made} {count:,} pairs, leaves out {count - len(pairs):,} whose completions are equal, "
        f"holds out {len(held):,}, with no {apart} on both sides; {len(texts):,} different "
        f"completions; the longer one (in characters) is chosen in {100 * wins:.0f} %"
    )


def _print_lengths(name: str, texts: list[str], tokenizer: Any) -> None:
    """A histogram of the texts' lengths in tokens, or in words without a tokenizer."""
    if not texts:
        return
    if tokenizer is None:
        unit, lengths = "words", [len(text.split()) for text in texts]
    else:
        unit, lengths = "tokens", [len(ids) for ids in encode(tokenizer, texts)]
    mean, middle = statistics.fmean(lengths), statistics.median(lengths)
    console.print(
        f"{unit} of {plain(name)}: mean {mean:.1f}, median {middle:g}, "
        f"{min(lengths)} to {max(lengths)}",
        markup=False,
    )
    counts = bins(lengths, BINS)
    most = max(number for _, _, number in counts)
    for low, high, number in counts:
        bar = "█" * round(BAR * number / most) or ("▏" if number else "")
        label = f"{low}" if low == high else f"{low}-{high}"
        console.print(f"  {label:>11}  {bar:<{BAR}} {number:,}", markup=False)


def bins(lengths: list[int], most: int) -> list[tuple[int, int, int]]:
    """(least, greatest, count) of at most `most` ranges of equal width that cover all lengths."""
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // most)
    edges = range(low, high + 1, width)
    return [(a, a + width - 1, sum(a <= x < a + width for x in lengths)) for a in edges]
