"""Rows of text from wherever a person keeps them, and the shipped task.

A source is a file (jsonl, json, csv, parquet or txt, also .gz), a folder of such files, a folder
that `datasets.Dataset.save_to_disk` wrote, a hub name, or "film-notes", which is shipped.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

FILM_NOTES = "film-notes"
READERS = {"jsonl": "json", "json": "json", "csv": "csv", "parquet": "parquet", "txt": "text"}
Kind = Literal["corpus", "prompts", "preferences"]
Rows = dict[str, list[Any]]  # column -> values


def film_notes(kind: Kind, split: Literal["train", "test"] = "train") -> str:
    """The path of a file of the shipped task, installed with the package or in the checkout."""
    installed = Path(str(files("rlhf_pg"))) / "data" / "film_notes"
    checkout = Path(str(files("rlhf_pg"))).parent / "data" / "film_notes"
    folder = installed if installed.is_dir() else checkout
    return str(folder / f"{kind}.{split}.jsonl")


def read(source: str, kind: Kind, split: Literal["train", "test"] = "train") -> Rows:
    """The columns of a source, which must suit `kind`.

    "corpus" gives `text`; "prompts" gives `prompt` and whatever stands beside it, which is passed
    to the reward; "preferences" gives `prompt`, `chosen` and `rejected`. Raises ValueError for a
    missing file, no rows, or columns that do not suit.
    """
    rows = _load(film_notes(kind, split) if source == FILM_NOTES else source, split)
    if not rows or not len(next(iter(rows.values()))):
        raise ValueError(f"{source} holds no rows")
    shaped = {"corpus": _corpus, "prompts": _prompts, "preferences": _preferences}[kind](rows)
    if shaped is None:
        wanted = {
            "corpus": "'text', or 'prompt' and 'completion'",
            "prompts": "'prompt'",
            "preferences": "'prompt', 'chosen' and 'rejected', or 'chosen' and 'rejected'",
        }[kind]
        raise ValueError(
            f"{source} has columns {', '.join(map(repr, rows))}; {kind} need {wanted}. "
            "Rename the columns of the file"
        )
    _check_text(shaped, source, {"corpus": ["text"], "prompts": ["prompt"]}.get(kind, list(shaped)))
    return shaped


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


def _load(source: str, split: str) -> Rows:
    import datasets  # heavy, and only needed here

    datasets.disable_progress_bars()
    path = Path(source)
    try:
        if path.is_dir() and (path / "dataset_info.json").is_file():
            data: Any = datasets.load_from_disk(source)
        elif path.is_dir():
            data = datasets.load_dataset(*_reader(sorted(path.iterdir()), source), split="train")
        elif path.is_file():
            data = datasets.load_dataset(*_reader([path], source), split="train")
        elif path.suffix or source.startswith((".", "/", "~")):
            raise ValueError(f"no file at {source}")
        else:
            data = datasets.load_dataset(source, split=split)
    except ValueError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"cannot read {source!r}: {first}"
            + ("" if path.exists() else " (no such file, and the hub has or answers nothing)")
        ) from error
    return {name: list(data[name]) for name in data.column_names}


def _reader(paths: list[Path], source: str) -> tuple[str, None, None, list[str]]:
    """What `datasets.load_dataset` needs to read local files of one format."""
    found: dict[str, list[str]] = {}
    for path in paths:
        suffix = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
        if suffix in READERS:
            found.setdefault(READERS[suffix], []).append(str(path))
    if len(found) != 1:
        what = "files of several formats" if found else "no file of a known format"
        raise ValueError(f"{source} holds {what}; use one of {', '.join(READERS)}")
    ((reader, names),) = found.items()
    return reader, None, None, names


def _corpus(rows: Rows) -> Rows | None:
    if "text" in rows:
        return {"text": rows["text"]}
    if "prompt" in rows and "completion" in rows:
        return {"text": [p + c for p, c in zip(rows["prompt"], rows["completion"], strict=True)]}
    return None


def _prompts(rows: Rows) -> Rows | None:
    return rows if "prompt" in rows else None


def _preferences(rows: Rows) -> Rows | None:
    if "chosen" not in rows or "rejected" not in rows:
        return None
    if "prompt" in rows:
        return {name: rows[name] for name in ("prompt", "chosen", "rejected")}
    pairs = list(zip(rows["chosen"], rows["rejected"], strict=True))
    heads = [_common_prefix(a, b) for a, b in pairs]
    return {
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


def _check_text(rows: Rows, source: str, columns: list[str]) -> None:
    for name in columns:
        for row, value in enumerate(rows[name]):
            if not isinstance(value, str):
                raise ValueError(
                    f"{source}, row {row}: {name!r} is {type(value).__name__}, not text"
                )
            if not value and name in ("text", "prompt"):
                raise ValueError(f"{source}, row {row}: {name!r} is empty")
