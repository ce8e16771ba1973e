"""Rows of text from files, folders and the hub; batches of prompts.

A source is a file (jsonl, json, csv, parquet or txt, also .gz), a folder of such files, a folder
that `datasets.Dataset.save_to_disk` wrote, a hub name, or "film-notes", the shipped data set.
"""

import codecs
import csv
import gzip
import json
import random
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from reward_models.calling import ARGUMENTS, MESSAGES
from reward_models.pretrained import context_length, hub_must_answer, hub_offline
from rlhf_pg.language.config import FILM_NOTES
from rlhf_pg.language.conversations import (
    Rows,
    conversations_as_text,
    has_conversations,
    prompt_of,
)
from rlhf_pg.language.sampling import encode

READERS = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet", "txt": "text"}
Kind = Literal["corpus", "prompts", "preferences"]
FORMS: dict[Kind, list[list[str]]] = {  # the columns that each kind needs, preferred first
    "corpus": [["text"], ["prompt", "completion"], ["messages"]],
    "prompts": [["prompt"], ["chosen", "rejected"], ["messages"]],
    "preferences": [
        ["prompt", "chosen", "rejected"],
        ["chosen", "rejected"],
        ["prompt", "completion", "label"],
    ],
}
PART = 10_000  # prompts tokenised at once to count their tokens
TURN = "\n\nAssistant:"  # begins an answer in conversations written as one text


def film_notes(kind: Kind, split: Literal["train", "test"] = "train") -> str:
    """The path of a file of the shipped task, installed with the package or in the checkout."""
    installed = Path(str(files("rlhf_pg"))) / "data" / "film_notes"
    checkout = Path(str(files("rlhf_pg"))).parent / "data" / "film_notes"
    folder = installed if installed.is_dir() else checkout
    return str(folder / f"{kind}.{split}.jsonl")


def read(
    source: str,
    kind: Kind,
    split: Literal["train", "test"] = "train",
    tokenizer: Any = None,
    columns: str | None = None,
) -> Rows:
    """The columns of a source, in the form that `kind` needs.

    "corpus" gives `text`; "prompts" gives `prompt` and all other columns, which are passed to the
    reward; "preferences" gives `prompt`, `chosen`, `rejected` and all other columns. The prompt of
    a pair without one is the common beginning of its completions, up to the last answer. Lists of
    messages are formatted by the chat template of `tokenizer`; as prompts, they are also kept for
    the reward. Labelled completions become pairs (`pairs_of_labels`), the lines of a txt file
    prompts. `columns` names columns otherwise: "prompt=input". Raises ValueError for a missing
    file, no rows, columns that do not fit, or a row that is not text.
    """
    path = film_notes(kind, split) if source == FILM_NOTES else source
    rows = renamed(load(path, split), columns, source)
    if kind == "prompts" and (taken := [name for name in (*ARGUMENTS, MESSAGES) if name in rows]):
        raise ValueError(
            f"{source} has a column {taken[0]!r}, the name of an argument that rewards "
            "get beside the data's columns; rename the column"
        )
    return parse(rows, kind, source, tokenizer)


def renamed(rows: Rows, columns: str | None, source: str) -> Rows:
    """Rows with the columns named in "new=old,..." under their new names, in place of any there.

    Raises ValueError for another spelling, or a column that is not there.
    """
    if columns is None:
        return rows
    names = {}
    for item in columns.split(","):
        new, _, old = (part.strip() for part in item.partition("="))
        if not (new and old):
            raise ValueError(f"columns: {columns!r} must be like prompt=question,chosen=better")
        if old not in rows:
            raise ValueError(
                f"columns: {source} has no column {old!r}, but {', '.join(map(repr, rows))}"
            )
        names[new] = old
    kept = {name: x for name, x in rows.items() if name not in {*names, *names.values()}}
    return {new: rows[old] for new, old in names.items()} | kept


def parse(rows: Rows, kind: Kind, source: str, tokenizer: Any = None) -> Rows:
    """Loaded rows in the form that `read` gives; `source` is named in errors."""
    columns = form_of(rows, kind, source)
    if columns is None:
        wanted = " or ".join(" + ".join(map(repr, form)) for form in FORMS[kind])
        raise ValueError(
            f"{source} has columns {', '.join(map(repr, rows))}; {kind} need {wanted}. "
            f"Say which is which: --columns {FORMS[kind][0][0]}={next(iter(rows))}"
        )
    where = partial(place, source)
    rows, texts = _with_names(rows, kind, columns)
    if has_conversations(rows, texts):
        rows = conversations_as_text(rows, texts, tokenizer, source, where)
        if kind != "prompts":
            rows.pop(MESSAGES, None)
        texts = ["prompt", *texts] if "text" not in texts and "prompt" not in texts else texts
    _check_text(rows, source, texts)
    if texts == ["chosen", "rejected"]:
        rows = _with_prompts(rows)
    if kind == "prompts":
        _check_text(rows, source, ["prompt"])
        return rows
    if kind == "preferences":
        return pairs_of_labels(rows, source) if columns[-1] == "label" else rows
    if texts == ["text"]:
        return {"text": rows["text"]}
    whole = [p + c for p, c in zip(rows["prompt"], rows["completion"], strict=True)]
    _check_text({"text": whole}, source, ["text"])
    return {"text": whole}


def _with_names(rows: Rows, kind: Kind, columns: list[str]) -> tuple[Rows, list[str]]:
    """The rows, with a conversation or a line as the column it is, and the columns of text."""
    if columns == ["messages"] and kind == "corpus":
        return {"text": rows["messages"]}, ["text"]
    if columns == ["messages"]:
        messages = [prompt_of(m) if m else m for m in rows["messages"]]
        return rows | {"prompt": messages}, ["prompt"]
    if kind == "prompts" and columns == ["text"]:
        return {"prompt": rows["text"]}, ["prompt"]
    answers = [name for name in ("chosen", "rejected") if name in rows]
    if columns == ["prompt"] and answers and has_conversations(rows, answers):
        return rows, ["prompt", *answers]  # the prompt is the user's message, written as text
    return rows, [name for name in columns if name != "label"]


def pairs_of_labels(rows: Rows, source: str) -> Rows:
    """Pairs of a completion labelled true and one labelled false, as `reward` learns from.

    If P(true) = sigmoid(r), the probability that of two completions, one true and one false, the
    first is the true one is sigmoid(r_1 - r_2): the Bradley-Terry loss on such pairs learns the
    classifier's log-odds (conditional logistic regression). Completions of one prompt are paired
    first; the others with any, their prompts being part of the completions. Where one label is
    rarer, its completions are used again. Raises ValueError for labels that are not true or false,
    or all the same.
    """
    labels = rows["label"]
    for row, label in enumerate(labels):
        if label not in (0, 1):  # True and False are
            raise ValueError(f"{place(source, row)}: 'label' is {label!r}, not true or false")
    by_prompt: dict[str, tuple[list[int], list[int]]] = {}
    for row, prompt in enumerate(rows["prompt"]):
        by_prompt.setdefault(prompt, ([], []))[0 if labels[row] else 1].append(row)
    pairs: list[tuple[int, int]] = []
    alone: tuple[list[int], list[int]] = ([], [])
    for true, false in by_prompt.values():
        if true and false:
            pairs += _paired(true, false)
        alone[0].extend(true if not false else [])
        alone[1].extend(false if not true else [])
    sides = [[row for row, label in enumerate(labels) if bool(label) == x] for x in (True, False)]
    if not all(sides):
        raise ValueError(f"{source}: every label is {bool(labels[0])}; give both kinds")
    if alone[0] or alone[1]:
        order = random.Random(0)
        left, right = (own or all_of for own, all_of in zip(alone, sides, strict=True))
        size = max(map(len, alone))
        mixed = [order.sample(side, min(len(side), size)) for side in (left, right)]
        pairs += _paired(*mixed)
    prompts, texts = rows["prompt"], rows["completion"]
    made: Rows = {"prompt": [], "chosen": [], "rejected": []}
    for a, b in pairs:
        same = prompts[a] == prompts[b]
        made["prompt"].append(prompts[a] if same else "")
        made["chosen"].append(texts[a] if same else prompts[a] + texts[a])
        made["rejected"].append(texts[b] if same else prompts[b] + texts[b])
    return made


def _paired(first: list[int], second: list[int]) -> list[tuple[int, int]]:
    """Pairs of the two lists; the shorter one is begun again until the longer one is used up."""
    return [
        (first[i % len(first)], second[i % len(second)])
        for i in range(max(len(first), len(second)))
    ]


def form_of(rows: Rows, kind: Kind, source: str) -> list[str] | None:
    """The columns that make rows fit `kind`, or None if they do not fit."""
    if kind == "prompts" and set(rows) == {"text"} and _is_txt(source):
        return ["text"]
    return next((form for form in FORMS[kind] if set(form) <= set(rows)), None)


def _is_txt(source: str) -> bool:
    """Whether a source is a txt file or a folder of them, which have no names of columns."""
    path = Path(source).expanduser()
    return path.exists() and "text" in {reader for reader, _ in [_reader(path, source)]}


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
        first = (_broken_line(names) if reader == "json" else "") or first
        raise ValueError(f"cannot read {source!r}: {first}") from error
    if isinstance(data, datasets.DatasetDict):
        data = data[split if split in data else next(iter(data))]
    try:
        rows = dict(data[:])  # at once: 30 times as fast as column by column
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


def _broken_line(names: list[str]) -> str:
    """Where the first line is that is no JSON object, or has a value of another type than those
    before, and what is wrong with it; "" for none."""
    kinds: dict[str, str] = {}
    for name in names:
        for line, text in _lines(name):
            try:
                row = json.loads(text)
            except ValueError as error:
                return f"{name}, line {line} is no JSON: {error}"
            if not isinstance(row, dict):
                return f"{name}, line {line} is no JSON object (a row in {{}}): {text.strip()[:60]}"
            for key, value in row.items():
                kind = type(value).__name__
                if value is not None and kinds.setdefault(key, kind) != kind:
                    return f"{name}, line {line}: {key!r} is {kind}, but {kinds[key]} before"
    return ""


def place(source: str, row: int) -> str:
    """Where a row (counted from 0) is: "FILE, line 7" as editors count, else "SOURCE, row 7" from
    1."""
    path, left = Path(source).expanduser(), row
    try:
        names = _reader(path, source)[1] if path.exists() else []
        for name in names:
            numbers = _csv_lines(name) if ".csv" in name else (line for line, _ in _lines(name))
            for line in numbers:
                if not left:
                    return f"{source if len(names) == 1 else name}, line {line}"
                left -= 1
    except (ValueError, OSError, csv.Error):
        pass  # a saved data set, a JSON array or a parquet file
    return f"{source}, row {row + 1}"


def _lines(name: str) -> Iterator[tuple[int, str]]:
    """The lines of a jsonl or txt file that are not blank, with their numbers from 1.

    Raises ValueError for a JSON array, and for a file that is not text.
    """
    opened: Any = gzip.open if name.endswith(".gz") else open
    with opened(name, "rt", encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.lstrip().startswith("[") and ".json" in name:
                raise ValueError(f"{name} is a JSON array")
            if line.strip():
                yield number, line


def _csv_lines(name: str) -> Iterator[int]:
    """The number of the first line of every row of a csv file after its header."""
    opened: Any = gzip.open if name.endswith(".gz") else open
    with opened(name, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        next(reader, None)
        before = reader.line_num
        for cells in reader:
            if cells:
                yield before + 1
            before = reader.line_num


def _check_text(rows: Rows, source: str, columns: list[str]) -> None:
    """Raise ValueError for a value that is not text, or empty text in a single column."""
    for name in columns:
        for row, value in enumerate(rows[name]):
            if not isinstance(value, str):
                kind = "missing" if value is None else f"{type(value).__name__}, not text"
                raise ValueError(f"{place(source, row)}: {name!r} is {kind}")
            if not value.strip() and len(columns) == 1:
                raise ValueError(f"{place(source, row)}: {name!r} is empty")


def _with_prompts(rows: Rows) -> Rows:
    """Move the common beginning of chosen and rejected to a prompt."""
    pairs = list(zip(rows["chosen"], rows["rejected"], strict=True))
    lengths = [_common_prefix(a, b) for a, b in pairs]
    return rows | {
        "prompt": [a[:n] for n, (a, _) in zip(lengths, pairs, strict=True)],
        "chosen": [a[n:] for n, (a, _) in zip(lengths, pairs, strict=True)],
        "rejected": [b[n:] for n, (_, b) in zip(lengths, pairs, strict=True)],
    }


def _common_prefix(a: str, b: str) -> int:
    """Length of the longest common beginning, up to the last answer or else the end of a word."""
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    if (turn := a[:same].rfind(TURN)) >= 0:
        return turn + len(TURN)
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
        batch = self.queue[:prompts]
        del self.queue[:prompts]
        start = self.rank * prompts // self.processes
        stop = (self.rank + 1) * prompts // self.processes
        return repeated(self.rows, batch[start:stop], self.samples_per_prompt)

    def state_dict(self) -> dict[str, Any]:
        """The order of prompts still to come."""
        return {
            "generator": self.generator.get_state(),
            "queue": torch.tensor(self.queue, dtype=torch.long),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.generator.set_state(state["generator"])
        self.queue = torch.as_tensor(state["queue"]).tolist()


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
    parts = (prompts[i : i + PART] for i in range(0, len(prompts), PART))  # to limit memory
    lengths = [len(ids) for part in parts for ids in encode(tokenizer, part)]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] + max_new_tokens > limit:
        raise ValueError(
            f"prompt {longest} has {lengths[longest]} tokens ({prompts[longest][:40]!r}...); with "
            f"max_new_tokens {max_new_tokens} that is more than the model's context of "
            f"{limit}. Shorten the prompts or lower --max_new_tokens"
        )
    if not all(lengths):
        raise ValueError(f"prompt {lengths.index(0)} has no tokens: {prompts[lengths.index(0)]!r}")
