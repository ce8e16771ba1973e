"""Rows of text from files, folders and the hub; batches of prompts; `rlhf-pg data show`.

A source is a file (jsonl, json, csv, parquet or txt, also .gz), a folder of such files, a folder
that `datasets.Dataset.save_to_disk` wrote, a hub name, or "film-notes", the shipped data set.
"""

import codecs
import gzip
import statistics
import zlib
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.text import Text

from reward_models.calling import ARGUMENTS, MESSAGES
from reward_models.pretrained import context_length, hub_must_answer, hub_offline
from rlhf_pg.language import models
from rlhf_pg.language.config import FILM_NOTES, DataShowConfig
from rlhf_pg.language.sampling import encode
from rlhf_pg.progress import console, plain

READERS = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet", "txt": "text"}
Kind = Literal["corpus", "prompts", "preferences"]
FORMS: dict[Kind, list[list[str]]] = {  # the columns that each kind needs, preferred first
    "corpus": [["text"], ["prompt", "completion"], ["messages"]],
    "prompts": [["prompt"]],
    "preferences": [["prompt", "chosen", "rejected"], ["chosen", "rejected"]],
}
Rows = dict[str, list[Any]]  # column -> values


def film_notes(kind: Kind, split: Literal["train", "test"] = "train") -> str:
    """The path of a file of the shipped task, installed with the package or in the checkout."""
    installed = Path(str(files("rlhf_pg"))) / "data" / "film_notes"
    checkout = Path(str(files("rlhf_pg"))).parent / "data" / "film_notes"
    folder = installed if installed.is_dir() else checkout
    return str(folder / f"{kind}.{split}.jsonl")


def read(
    source: str, kind: Kind, split: Literal["train", "test"] = "train", tokenizer: Any = None
) -> Rows:
    """The columns of a source, in the form that `kind` needs.

    "corpus" gives `text`; "prompts" gives `prompt` and all other columns, which are passed to the
    reward; "preferences" gives `prompt`, `chosen`, `rejected` and all other columns. The prompt of
    a pair without one is the common beginning of its completions. Lists of messages are formatted
    by the chat template of `tokenizer`; as prompts, they are also kept for the reward. Raises
    ValueError for a missing file, no rows, columns that do not fit, or a row that is not text.
    """
    path = film_notes(kind, split) if source == FILM_NOTES else source
    rows = load(path, split)
    if kind == "prompts" and (taken := [name for name in (*ARGUMENTS, MESSAGES) if name in rows]):
        raise ValueError(
            f"{source} has a column {taken[0]!r}, the name of an argument that rewards "
            "get beside the data's columns; rename the column"
        )
    return parse(rows, kind, source, tokenizer)


def parse(rows: Rows, kind: Kind, source: str, tokenizer: Any = None) -> Rows:
    """Loaded rows in the form that `read` gives; `source` is named in errors."""
    columns = form_of(rows, kind)
    if columns is None:
        wanted = " or ".join(" + ".join(map(repr, form)) for form in FORMS[kind])
        raise ValueError(
            f"{source} has columns {', '.join(map(repr, rows))}; {kind} need {wanted}. "
            "Rename the columns of the file"
        )
    if columns == ["messages"]:
        rows, columns = {"text": rows["messages"]}, ["text"]
    if _has_conversations(rows, columns):
        messages = {MESSAGES: rows["prompt"]} if kind == "prompts" else {}  # for the reward
        rows = conversations_as_text(rows, columns, tokenizer, source) | messages
        columns = ["prompt", *columns] if columns == ["chosen", "rejected"] else columns
    _check_text(rows, source, columns)
    if columns == ["text"]:
        return {"text": rows["text"]}
    if columns == ["prompt", "completion"]:
        texts = [p + c for p, c in zip(rows["prompt"], rows["completion"], strict=True)]
        _check_text({"text": texts}, source, ["text"])
        return {"text": texts}
    return _with_prompts(rows, _common_prefix) if columns == ["chosen", "rejected"] else rows


def form_of(rows: Rows, kind: Kind) -> list[str] | None:
    """The columns that make rows fit `kind`, or None if they do not fit."""
    return next((form for form in FORMS[kind] if set(form) <= set(rows)), None)


def hold_out(rows: Rows, share: float = 0.05, most: int = 1000) -> tuple[Rows, Rows]:
    """Split off the last `share` of the rows (at most `most`) as held-out data."""
    count = len(next(iter(rows.values())))
    held = min(most, int(count * share))
    if not held:
        raise ValueError(f"{count} rows are too few to hold some out; give a test file too")
    return (
        {name: values[:-held] for name, values in rows.items()},
        {name: values[-held:] for name, values in rows.items()},
    )


def load(source: str, split: str = "train") -> Rows:
    """All columns of a source as stored; raises ValueError if it is missing or empty."""
    rows = _load(source, split)
    if not rows or not len(next(iter(rows.values()))):
        raise ValueError(f"{source} holds no rows")
    return rows


def _load(source: str, split: str) -> Rows:
    import datasets  # heavy, and only needed here

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # failures are reported below
    path = Path(source).expanduser()
    saved = any((path / f"dataset_{what}.json").is_file() for what in ("info", "dict"))
    reader, names = _reader(path, source) if path.exists() and not saved else ("", [])
    if not path.exists() and (path.suffix or source.startswith((".", "/", "~"))):
        raise ValueError(f"no file at {source}")
    if reader == "json":
        _check_json(names)
    if not path.exists() and not hub_offline():
        hub_must_answer(source)
    try:
        if saved:
            data: Any = datasets.load_from_disk(str(path))
        elif reader:
            data = datasets.load_dataset(reader, data_files=names, split="train")
        else:
            data = datasets.load_dataset(source, split=split)
    except Exception as error:
        if reader and _empty(error, names):
            return {}
        reason = error.__cause__ or error
        first = " ".join(str(reason).split())[:300] or type(reason).__name__
        raise ValueError(f"cannot read {source!r}: {first}") from error
    if isinstance(data, datasets.DatasetDict):
        data = data[split if split in data else next(iter(data))]
    try:
        rows = {name: list(data[name]) for name in data.column_names}
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {source!r}: {error}") from error
    if reader == "text":  # a blank line of a txt file separates paragraphs; it is no row
        rows["text"] = [line for line in rows["text"] if line.strip()]
    return rows


def _check_json(names: list[str]) -> None:
    """Raise ValueError for a JSON file without objects; the reader crashes where it holds null."""
    for name in names:
        opened: Any = gzip.open if name.endswith(".gz") else open
        try:
            with opened(name, "rb") as file:
                start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"cannot read {name!r}: {error}") from error
        if start not in (b"", b"{", b"["):
            raise ValueError(f"cannot read {name!r}: it begins with no JSON object (a row in {{}})")


def _empty(error: Exception, names: list[str]) -> bool:
    """Whether `datasets` failed because there is nothing in the files."""
    empty = isinstance(error, StopIteration) or "corresponds to no data" in str(error)
    return empty or not any(Path(name).stat().st_size for name in names)


def _reader(path: Path, source: str) -> tuple[str, list[str]]:
    """The `datasets` reader for a file or for all files of a folder, and the file names."""
    found: dict[str, list[str]] = {}
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        suffix = file.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
        if suffix in READERS:
            found.setdefault(READERS[suffix], []).append(str(file))
    if len(found) != 1:
        what = "files of several formats" if found else "no file of a known format"
        raise ValueError(f"{source} holds {what}; use one of {', '.join(READERS)}")
    ((reader, names),) = found.items()
    return reader, names


def _check_text(rows: Rows, source: str, columns: list[str]) -> None:
    """Raise ValueError for a value that is not text, or empty text in a single column."""
    for name in columns:
        for row, value in enumerate(rows[name]):
            if not isinstance(value, str):
                raise ValueError(
                    f"{source}, row {row}: {name!r} is {type(value).__name__}, not text"
                )
            if not value.strip() and len(columns) == 1:
                raise ValueError(f"{source}, row {row}: {name!r} is empty")


def _has_conversations(rows: Rows, columns: list[str]) -> bool:
    return any(is_conversation(rows[name][0]) for name in columns)


def _with_prompts(rows: Rows, common: Callable[[Any, Any], int]) -> Rows:
    """Move the common beginning of chosen and rejected, `common(a, b)` long, to a prompt."""
    pairs = list(zip(rows["chosen"], rows["rejected"], strict=True))
    lengths = [common(a, b) for a, b in pairs]
    return rows | {
        "prompt": [a[:n] for n, (a, _) in zip(lengths, pairs, strict=True)],
        "chosen": [a[n:] for n, (a, _) in zip(lengths, pairs, strict=True)],
        "rejected": [b[n:] for n, (_, b) in zip(lengths, pairs, strict=True)],
    }


def _common_prefix(a: str, b: str) -> int:
    """Length of the longest common beginning, up to the end of a word."""
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[:same].rfind(" ") if " " in a[:same] else 0


class PromptBatches:
    """Endless batches of prompts with their columns, K copies of each in a row, reshuffled each
    pass over the data.

    `rows_per_batch` counts all processes; each process takes its own share of every batch.
    """

    def __init__(
        self,
        rows: Rows,
        rows_per_batch: int,
        samples_per_prompt: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.rows, self.samples_per_prompt = rows, samples_per_prompt
        self.prompts = rows_per_batch // samples_per_prompt  # per batch, over all processes
        self.rank, self.processes = rank, processes
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[int] = []  # what is left of the current pass

    def __iter__(self) -> "PromptBatches":
        return self

    def __next__(self) -> Rows:
        return self.draw(self.prompts)

    def draw(self, prompts: int) -> Rows:
        """This process's share of the next `prompts` prompts, over all processes."""
        while len(self.queue) < prompts:
            count = len(self.rows["prompt"])
            self.queue += torch.randperm(count, generator=self.generator).tolist()
        batch, self.queue = self.queue[:prompts], self.queue[prompts:]
        start = self.rank * prompts // self.processes
        stop = (self.rank + 1) * prompts // self.processes
        return repeated(self.rows, batch[start:stop], self.samples_per_prompt)

    def state_dict(self) -> dict[str, Any]:
        """The order of prompts still to come."""
        return {"generator": self.generator.get_state(), "queue": list(self.queue)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.generator.set_state(state["generator"])
        self.queue = list(state["queue"])


def repeated(rows: Rows, chosen: Iterable[int], samples_per_prompt: int = 1) -> Rows:
    """The chosen rows, `samples_per_prompt` copies of each in a row."""
    index = [i for i in chosen for _ in range(samples_per_prompt)]
    return {name: [values[i] for i in index] for name, values in rows.items()}


def spread(rows: Rows, count: int, samples_per_prompt: int = 1) -> Rows:
    """At most `count` rows, evenly spaced over the data, `samples_per_prompt` copies of each."""
    available = len(rows["prompt"])
    count = min(count, available)
    return repeated(rows, [i * available // count for i in range(count)], samples_per_prompt)


def check_prompt_lengths(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int
) -> None:
    """Raise ValueError if a prompt is empty, or too long for the model's context with its
    completion."""
    limit = context_length(model)
    lengths = [len(ids) for ids in encode(tokenizer, prompts)]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] + max_new_tokens > limit:
        raise ValueError(
            f"prompt {longest} has {lengths[longest]} tokens ({prompts[longest][:40]!r}...); with "
            f"max_new_tokens {max_new_tokens} that is more than the model's context of "
            f"{limit}. Shorten the prompts or lower --max_new_tokens"
        )
    if not all(lengths):
        raise ValueError(f"prompt {lengths.index(0)} has no tokens: {prompts[lengths.index(0)]!r}")


# Conversations: lists of messages become text through the tokenizer's chat template.


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages: [{"role": ..., "content": ...}, ...]."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value)
    )


def conversations_as_text(rows: Rows, columns: list[str], tokenizer: Any, source: str) -> Rows:
    """The rows with the messages of `columns` as text; other columns stay.

    A prompt ends where the assistant's turn begins. A completion holds only what it adds, without
    the EOS, which is an action of its own. Pairs without a prompt share the messages that both
    begin with. Raises ValueError without a chat template, or for a row that is no conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{source} holds lists of messages, but there is no chat template to format them: use "
            "a model whose tokenizer has one, or plain text"
        )
    for name in columns:
        for row, value in enumerate(rows[name]):
            if not is_conversation(value):
                raise ValueError(
                    f"{source}, row {row}: {name!r} is no list of messages, as in other rows; a "
                    "message has a role and a content"
                )
    if columns == ["chosen", "rejected"]:
        rows = _with_prompts(rows, _common_messages)
    as_text = dict(rows)
    if "prompt" not in rows:
        as_text["text"] = [_formatted(tokenizer, messages) for messages in rows["text"]]
        return as_text
    as_text["prompt"] = [_formatted(tokenizer, prompt, True) for prompt in rows["prompt"]]
    for name in {"completion", "chosen", "rejected"} & set(rows):
        as_text[name] = []
        for row, (prompt, answer) in enumerate(zip(rows["prompt"], rows[name], strict=True)):
            head, whole = as_text["prompt"][row], _formatted(tokenizer, prompt + answer)
            if not whole.startswith(head):
                raise ValueError(
                    f"{source}, row {row}: with this chat template, the answer does not continue "
                    "its prompt; give plain text"
                )
            as_text[name].append(whole[len(head) :])
    return as_text


def _formatted(
    tokenizer: Any, messages: list[dict[str, Any]], generation_prompt: bool = False
) -> str:
    """A conversation as text, without the BOS and EOS that tokenising adds again."""
    text = str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generation_prompt
        )
    )
    adds_bos = encode(tokenizer, ["a"])[0][0] == tokenizer.bos_token_id
    if tokenizer.bos_token and adds_bos:
        text = text.removeprefix(tokenizer.bos_token)
    return text if generation_prompt else text.rstrip().removesuffix(tokenizer.eos_token)


def _common_messages(a: list[Any], b: list[Any]) -> int:
    """How many messages both conversations begin with; at least one is left to each."""
    same = 0
    while same < min(len(a), len(b)) - 1 and a[same] == b[same]:
        same += 1
    return same


# `rlhf-pg data show`


COMMANDS: dict[Kind, str] = {"corpus": "finetune", "prompts": "train", "preferences": "reward"}
BAR, BINS, SHOWN = 30, 8, 3  # characters of a bar, bars, example rows


def show(config: DataShowConfig) -> None:
    """Print a source's form, its counts, the lengths of its texts, and three rows."""
    tokenizer = models.load(config.model)[1] if config.model else None
    if config.path != FILM_NOTES:
        describe(config.path, load(config.path, config.split), tokenizer)
        return
    for kind in get_args(Kind):
        rows = load(film_notes(kind, config.split), config.split)
        describe(f"{config.path}, {kind}", rows, tokenizer)
        console.print()


def describe(source: str, rows: Rows, tokenizer: Any = None) -> None:
    """Print the columns and which commands can read them, lengths, and the first rows."""
    count = len(next(iter(rows.values())))
    console.print(Text(f"{plain(source)}: {count:,} {'row' if count == 1 else 'rows'}", "bold"))
    forms = {kind: form for kind in COMMANDS if (form := form_of(rows, kind))}
    for kind, form in forms.items():
        note = ", lists of messages" if _has_conversations(rows, form) else ""
        if kind == "preferences" and "prompt" not in form:
            note += ", the prompt is what both begin with"
        columns = plain(" + ".join(form))
        console.print(f"  {kind} ({columns}{note}): for rlhf-pg {COMMANDS[kind]}", markup=False)
    used = {name for form in forms.values() for name in form}
    if not forms:
        console.print("  suits no command: it needs text, prompt, or chosen and rejected")
    for name in [name for name in rows if name not in used]:
        console.print(f"  {plain(name)}: passed to the reward beside the prompt", markup=False)
    if forms:
        # Show the rows as the richest form that fits reads them.
        kind = max(forms, key=lambda kind: (len(forms[kind]), kind == "prompts"))
        if tokenizer is not None or not _has_conversations(rows, forms[kind]):
            rows = parse(rows, kind, source, tokenizer)
    for name, values in rows.items():
        if name in used | {"text", "prompt"}:
            _print_lengths(name, [value for value in values if isinstance(value, str)], tokenizer)
    for row in range(min(SHOWN, count)):
        console.print(Text(f"row {row}", "bold"))
        for name, values in rows.items():
            console.print(Text.assemble((f"  {plain(name)}: ", "dim"), repr(values[row])[:400]))


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
