"""Rows of text from wherever a person keeps them, and the shipped task.

A source is a file (jsonl, json, csv, parquet or txt, also .gz), a folder of such files, a folder
that `datasets.Dataset.save_to_disk` wrote, a hub name, or "film-notes", which is shipped.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rlhf_pg.language import conversations, hub

FILM_NOTES = "film-notes"
READERS = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet", "txt": "text"}
Kind = Literal["corpus", "prompts", "preferences"]
FORMS: dict[Kind, list[list[str]]] = {  # the columns that suit, best first
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
    """The columns of a source, which must suit `kind`.

    "corpus" gives `text`; "prompts" gives `prompt` and whatever stands beside it, which is passed
    to the reward; "preferences" gives `prompt`, `chosen`, `rejected` and what stands beside them.
    A pair without a prompt has one in its common beginning. Lists of messages are written by the
    chat template of `tokenizer`. Raises ValueError for a missing file, no rows, columns that do not
    suit, or a row that is not text.
    """
    path = film_notes(kind, split) if source == FILM_NOTES else source
    return parse(load(path, split), kind, source, tokenizer)


def parse(rows: Rows, kind: Kind, source: str, tokenizer: Any = None) -> Rows:
    """The columns of loaded rows as `read` gives them; `source` is named in errors."""
    columns = form_of(rows, kind)
    if columns is None:
        wanted = " or ".join(" + ".join(map(repr, form)) for form in FORMS[kind])
        raise ValueError(
            f"{source} has columns {', '.join(map(repr, rows))}; {kind} need {wanted}. "
            "Rename the columns of the file"
        )
    if columns == ["messages"]:
        rows, columns = {"text": rows["messages"]}, ["text"]
    if any(conversations.is_conversation(rows[name][0]) for name in columns):
        rows = conversations.as_text(rows, columns, tokenizer, source)
        columns = ["prompt", *columns] if columns == ["chosen", "rejected"] else columns
    _check_text(rows, source, columns)
    if columns == ["text"]:
        return {"text": rows["text"]}
    if columns == ["prompt", "completion"]:
        texts = [p + c for p, c in zip(rows["prompt"], rows["completion"], strict=True)]
        _check_text({"text": texts}, source, ["text"])
        return {"text": texts}
    return _with_prompts(rows) if columns == ["chosen", "rejected"] else rows


def form_of(rows: Rows, kind: Kind) -> list[str] | None:
    """The columns by which rows suit `kind`, or None where they do not."""
    return next((form for form in FORMS[kind] if set(form) <= set(rows)), None)


def hold_out(rows: Rows, share: float = 0.05, most: int = 1000) -> tuple[Rows, Rows]:
    """Split off the last `share` of the rows (at most `most`), to test on."""
    count = len(next(iter(rows.values())))
    held = min(most, int(count * share))
    if not held:
        raise ValueError(f"{count} rows are too few to hold some out; give a test file too")
    return (
        {name: values[:-held] for name, values in rows.items()},
        {name: values[-held:] for name, values in rows.items()},
    )


def load(source: str, split: str = "train") -> Rows:
    """All columns of a source as they stand; ValueError for one that is not there or is empty."""
    rows = _load(source, split)
    if not rows or not len(next(iter(rows.values()))):
        raise ValueError(f"{source} holds no rows")
    return rows


def _load(source: str, split: str) -> Rows:
    import datasets  # heavy, and only needed here

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what fails is said below
    path = Path(source).expanduser()
    saved = any((path / f"dataset_{what}.json").is_file() for what in ("info", "dict"))
    reader, names = _reader(path, source) if path.exists() and not saved else ("", [])
    if not path.exists() and (path.suffix or source.startswith((".", "/", "~"))):
        raise ValueError(f"no file at {source}")
    if not path.exists() and not hub.offline():
        hub.must_answer(source)
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
    rows = {name: list(data[name]) for name in data.column_names}
    if reader == "text":  # a blank line of a txt file parts paragraphs; it is no row
        rows["text"] = [line for line in rows["text"] if line.strip()]
    return rows


def _empty(error: Exception, names: list[str]) -> bool:
    """Whether what `datasets` could not make sense of holds nothing at all."""
    said = isinstance(error, StopIteration) or "corresponds to no data" in str(error)
    return said or not any(Path(name).stat().st_size for name in names)


def _reader(path: Path, source: str) -> tuple[str, list[str]]:
    """How `datasets` calls the format of a file, or of all files of a folder, and their names."""
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
    """Every value is text, and where it stands alone there is something in it."""
    for name in columns:
        for row, value in enumerate(rows[name]):
            if not isinstance(value, str):
                raise ValueError(
                    f"{source}, row {row}: {name!r} is {type(value).__name__}, not text"
                )
            if not value.strip() and len(columns) == 1:
                raise ValueError(f"{source}, row {row}: {name!r} is empty")


def _with_prompts(rows: Rows) -> Rows:
    """Move the common beginning of chosen and rejected to a prompt of their own."""
    pairs = list(zip(rows["chosen"], rows["rejected"], strict=True))
    heads = [_common_prefix(a, b) for a, b in pairs]
    return rows | {
        "prompt": heads,
        "chosen": [a[len(h) :] for h, (a, _) in zip(heads, pairs, strict=True)],
        "rejected": [b[len(h) :] for h, (_, b) in zip(heads, pairs, strict=True)],
    }


def _common_prefix(a: str, b: str) -> str:
    """The longest common beginning, up to the end of a word."""
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[: a[:same].rfind(" ")] if " " in a[:same] else ""
