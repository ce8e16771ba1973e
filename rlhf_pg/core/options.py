"""Dataclasses of options: each field declares the range of its values, and `Options` checks them.

    @dataclass
    class LearnerConfig(Options):
        gamma: float = option(1.0, at_least=0, at_most=1)
        clip: float | None = option(None, above=0)

The check runs when an object is made, from Python, the command line or YAML alike. Besides its
range, a value must have its field's type: numbers are finite, an int is whole, and None is accepted
only where the type says so. Relations between options are checked where they are used.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**53  # whole numbers up to this are exact in JSON, YAML and float64
NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    NoneType: "null",
}


def option(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field whose number, or whose every number if it is a list, has a range."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Options:
    """A base class for dataclasses of options: making one checks its values."""

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value of a wrong type or out of its range."""
        check_options(self)


def check_options(options: Any, kind: Any = None, prefix: str = "") -> None:
    """Check the values of a dataclass, and of the dataclasses inside it, against its fields.

    `options` is an object of the dataclass `kind`, or anything else with its attributes (as parsed
    options that are no object yet). `prefix` is put before names in errors. Raises ValueError.
    """
    kind = kind or type(options)
    hints = _hints(kind)
    for item in fields(kind):
        name, hint, value = prefix + item.name, hints[item.name], getattr(options, item.name)
        if is_dataclass(hint) and hasattr(value, fields(hint)[0].name):
            check_options(value, hint, name + ".")
        else:
            _check_type(name, value, hint)
            _check_value(name, value, item.metadata)


def made_from(kind: Any, values: Mapping[str, Any], source: str) -> Any:
    """An object of a dataclass of options, and of those inside it, from nested mappings.

    Missing options have their defaults. Raises ValueError, naming `source` (a file), for unknown
    options and wrong values.
    """
    hints, known = _hints(kind), {item.name for item in fields(kind)}
    if unknown := {str(name) for name in values} - known:
        raise ValueError(
            f"{source} has options unknown to this version: {', '.join(sorted(unknown))}"
        )
    made = {
        name: made_from(hints[name], value, source)
        if is_dataclass(hints[name]) and isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
    try:
        return kind(**made)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level, by full name: {"learner": {"lr": 1}} is {"learner.lr": 1}."""
    level: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        level |= flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return level


def range_text(limits: Mapping[str, float]) -> str:
    """The range of a field's metadata in words: "from 0 to 1", "above 0"; "" if it has none."""
    words = {name.replace("_", " "): f"{limits[name]:,}" for name in limits}
    if set(limits) == {"at_least", "at_most"}:
        return "from {} to {}".format(*words.values())
    return " and ".join(f"{name} {limit}" for name, limit in words.items())


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _check_type(name: str, value: Any, hint: Any) -> None:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_has_type(value, kind) for kind in kinds):
        wanted = " or ".join(_type_text(kind) for kind in kinds)
        raise ValueError(f"{name} must be {wanted}, not {_shown(value)}")


def _has_type(value: Any, kind: Any) -> bool:
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if origin is list:
        return isinstance(value, list) and all(_has_type(x, inside[0]) for x in value)
    if kind in (int, float):
        numbers = int if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def _type_text(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is list:
        return "a list, each item " + _type_text(get_args(kind)[0])
    return NAMES.get(kind) or str(getattr(kind, "__name__", kind))


def _check_value(name: str, value: Any, limits: Mapping[str, float]) -> None:
    """Raise ValueError for a number out of its range, or for text that cannot be written."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            _check_text(name, one)
        if not isinstance(one, int | float) or isinstance(one, bool):
            continue
        if not abs(one) <= sys.float_info.max:  # also false for NaN
            raise ValueError(f"{name} must be a finite number, not {_shown(one)}")
        if not in_range(one, limits):
            raise ValueError(f"{name} must be {range_text(limits)}, not {_shown(one)}")
        if isinstance(one, int) and abs(one) > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST:,} in size, not {_shown(one)}")


def in_range(number: float, limits: Mapping[str, float]) -> bool:
    """Whether a number is within the limits of a field's metadata; NaN never is if it has any."""
    return (
        ("at_least" not in limits or number >= limits["at_least"])
        and ("above" not in limits or number > limits["above"])
        and ("at_most" not in limits or number <= limits["at_most"])
        and ("below" not in limits or number < limits["below"])
    )


def _check_text(name: str, text: str) -> None:
    if not text:
        raise ValueError(f"{name} must not be empty")
    if "\0" in text:
        raise ValueError(f"{name} holds a NUL character: {_shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half of a surrogate pair, which is no text: {_shown(text)} at "
            f"position {error.start}"
        ) from error


def _shown(value: Any) -> str:
    """A value in an error: on one line, and at most 80 characters of it."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write whole numbers of over 4,300 digits
        return "a number of thousands of digits"
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text[:80] + "..." * (len(text) > 80)
