"""Reads the text files of a run folder; whatever has another shape is one line that names it.

A shape is a kind of value ("text", "number or null", ...), a list with the shape of its items, or a
dict with those of an object's keys. "*" stands for all other keys, and a key that ends in "!" must
be there. Keys without a shape may hold anything.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rlhf_pg.progress import console

Shape = str | list[Any] | dict[str, Any]

KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda x: isinstance(x, str),
    "number or null": lambda x: x is None or isinstance(x, int | float) and not isinstance(x, bool),
    "whole number": lambda x: isinstance(x, int) and not isinstance(x, bool),
    "whole number or null": lambda x: x is None or isinstance(x, int) and not isinstance(x, bool),
    "true, false or null": lambda x: x is None or isinstance(x, bool),
    "anything": lambda x: True,
}
NUMBER, TEXT, FLAG = "number or null", "text", "true, false or null"
METRICS_LINE: Shape = {"iteration!": "whole number", "*": NUMBER}  # as runs.METRICS documents
TOKEN_SHAPE: Shape = {  # runs.TOKEN
    "token!": TEXT,
    "id": "anything",
    "state": "anything",
    "top": [["anything"]],
    "clipped": FLAG,
    "*": NUMBER,
}
EPISODE_SHAPE: Shape = {  # runs.EPISODE
    "iteration!": "whole number or null",
    "prompt!": TEXT,
    "completion!": TEXT,
    "score!": NUMBER,
    "finished": FLAG,
    "kl_in": TEXT,
    "baseline": TEXT,
    "tokens!": [TOKEN_SHAPE],
    "*": NUMBER,
}
DEEPEST, LARGEST_LEVEL = 8, 10_000  # levels of lists and mappings in a YAML file, values in one


def read_yaml(path: Path) -> dict[str, Any]:
    """The options in a YAML file; raises ValueError, naming file and line, for anything else."""
    try:
        values = yaml.safe_load(path.read_bytes().decode("utf-8"))
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: no YAML: {problem or error}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, an endless number or nesting
        raise ValueError(f"{path}: no YAML: {error}") from error
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise ValueError(f"{path} must hold options, one `name: value` a line, but holds {kind}")
    _check_nesting(values, str(path))
    return values


def _check_nesting(values: dict[str, Any], source: str) -> None:
    """Raise ValueError for names that are no text, or nesting without end (YAML's aliases)."""
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if wrong := [key for key in value if not isinstance(key, str)]:
                    raise ValueError(f"{source}: an option's name must be text, not {wrong[0]!r}")
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            if len(inner) > LARGEST_LEVEL:
                raise ValueError(f"{source}: more than {LARGEST_LEVEL:,} values")
        level = inner
    if any(isinstance(value, dict | list) for value in level):
        raise ValueError(f"{source}: options are nested more than {DEEPEST} deep")


def read_json(path: Path, shape: Shape) -> Any:
    """The value in a JSON file; raises ValueError, naming the file, if it has another shape."""
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    check_shape(value, shape, str(path))
    return value


def read_jsonl(path: Path, shape: Shape | None = None) -> list[dict[str, Any]]:
    """The rows of a jsonl file, without a last line that a killed process left incomplete.

    Raises ValueError, naming the line, for any other line that is no JSON object of the shape.
    """
    rows = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # nothing ends it: the write was cut off
                console.print(f"warning: {path}: incomplete last line left out", markup=False)
                break
            raise ValueError(f"{where}: {error}") from error
        check_shape(row, shape or {}, where)
        rows.append(row)
    return rows


def check_shape(value: Any, shape: Shape, where: str) -> None:
    """Raise ValueError, naming the place, if a value from a JSON file has another shape."""
    if isinstance(shape, str):
        if not KINDS[shape](value):
            raise ValueError(f"{where} must be {shape}, not {repr(value)[:60]}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list, not {repr(value)[:60]}")
        for i, item in enumerate(value):
            check_shape(item, shape[0], f"{where}[{i}]")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a JSON object, not {repr(value)[:60]}")
        shapes = {key.removesuffix("!"): inner for key, inner in shape.items()}
        for key in shape:
            if key.endswith("!") and key[:-1] not in value:
                raise ValueError(f"{where} has no {key[:-1]!r}")
        for key, inner in value.items():
            check_shape(inner, shapes.get(key, shapes.get("*", "anything")), f"{where}: {key}")
