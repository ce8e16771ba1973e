"""What a check answers, and things made once that several checks need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from rlhf_pg.study.doctor.patient import Patient

Status = Literal["pass", "warn", "fail", "note", "skipped"]
T = TypeVar("T")


@dataclass
class Finding:
    """One check's answer; a warning or a failure has a remedy, a sentence that says what to do."""

    status: Status
    measured: str
    limit: str = ""
    remedy: str = ""
    value: float | None = None  # the number of `measured`, where it is one
    group: str = ""
    name: str = ""
    meaning: str = ""  # what the check holds to, in a sentence: its docstring


Check = Callable[["Patient"], Finding]


def judged(
    good: bool,
    measured: str,
    limit: str,
    remedy: str,
    otherwise: Status = "fail",
    value: float | None = None,
) -> Finding:
    """A pass where `good`; otherwise a failure or a warning, with its remedy."""
    if good:
        return Finding("pass", measured, limit, value=value)
    return Finding(otherwise, measured, limit, remedy, value)


class Missing(Exception):
    """A check cannot be made, since what it needs is not there; the message says what that is."""


class Part(Generic[T]):
    """Something made when it is first asked for, and then kept.

    `made()` raises what its making raised, for the one check that is to tell of it. Called, it
    raises Missing in its place, so that one fault fails one check and the others are skipped.
    """

    def __init__(self, without: str, make: Callable[[], T]) -> None:
        self.without, self.make = without, make
        self.kept: T | None = None
        self.error: Exception | None = None
        self.tried = False

    def made(self) -> T:
        if not self.tried:
            self.tried = True
            try:
                self.kept = self.make()
            except Exception as error:  # whatever a model or a reward of somebody else's raises
                self.error = error
        if self.error is not None:
            raise self.error
        return self.kept  # type: ignore[return-value]

    def __call__(self) -> T:
        try:
            return self.made()
        except Missing:
            raise
        except Exception as error:
            raise Missing(self.without) from error


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | OSError | FloatingPointError) and text
    return text if ours else f"{type(error).__name__}: {text}".rstrip(": ")


def small(value: float) -> str:
    """A small number for a person: 0, or 2.4e-06."""
    return f"{value:.1e}" if value else "0"
