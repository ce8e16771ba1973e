"""What a room of the museum shows: the wrong code beside the right, and what was measured."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Swap = tuple[Any, str, Any]  # a module or class, a name in it, what to put there


@dataclass
class Direction:
    """An expected gradient beside the true one."""

    bias: float  # |E[g] - truth| / |truth|
    cosine: float
    length: float  # |E[g]| / |truth|
    noise: float | None = None  # deviation of one episode's estimate / |E[g]|


@dataclass
class Comparison:
    """Both variants' expected gradients in one setting."""

    setting: str
    right: Direction
    wrong: Direction


@dataclass
class Curves:
    """The exact objective after so many updates; a list for each seed."""

    setting: str
    updates: list[int]
    right: list[list[float]]
    wrong: list[list[float]]
    best: float | None = None  # J*, where it is known


@dataclass
class LearningTest:
    """Runs on CartPole with either variant: how many of `runs` reached 475, and when."""

    runs: int
    right_solved: int
    wrong_solved: int
    right_steps: list[int]
    wrong_steps: list[int]

    @property
    def notices(self) -> bool:
        """Whether a test that asks for 475 would fail where it passed before."""
        return self.wrong_solved < self.right_solved


@dataclass
class Findings:
    """All that was measured in a room."""

    gradients: list[Comparison]
    curves: list[Curves] = field(default_factory=list)
    others: dict[str, tuple[float, float]] = field(default_factory=dict)  # name: right, wrong
    cartpole: LearningTest | None = None
    truth: str = "∇J is the oracle's"


@dataclass
class Exhibit:
    """A bug: what it is, where it was seen, its code, and how to measure it."""

    name: str
    what: str
    origin: str  # where it was seen, or what it comes of
    right: tuple[Callable[..., Any], str]  # the library's function, and a pattern of its lines
    wrong: Callable[..., Any]
    effect: str  # in a few words
    lesson: str  # what the numbers say
    measure: Callable[[], Findings]
    cartpole: Callable[[], LearningTest] | None = None


def right_lines(exhibit: Exhibit) -> list[str]:
    """The lines of the library's function that match, as they stand in its source today.

    Raises ValueError where none does: the exhibit is out of date.
    """
    function, pattern = exhibit.right
    lines = [line for line in _body(function) if re.search(pattern, line)]
    if not lines:
        raise ValueError(f"{exhibit.name}: no line of {function.__qualname__} has {pattern!r}")
    return [line.strip() for line in lines]


def wrong_lines(exhibit: Exhibit) -> list[str]:
    """The body of the wrong variant."""
    return _body(exhibit.wrong)


def _body(function: Callable[..., Any]) -> list[str]:
    """The source below the signature and the docstring, without blank lines."""
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    first = definition.body[1 if ast.get_docstring(definition) else 0]
    below = "\n".join(source.splitlines()[first.lineno - 1 :])
    return [line for line in textwrap.dedent(below).splitlines() if line.strip()]


@contextmanager
def swapped(*swaps: Swap) -> Iterator[None]:
    """Put other functions in the place of (module or class, name) for a while."""
    before = [getattr(place, name) for place, name, _ in swaps]
    try:
        for place, name, function in swaps:
            setattr(place, name, function)
        yield
    finally:
        for (place, name, _), function in zip(swaps, before, strict=True):
            setattr(place, name, function)


def direction(estimate: Tensor, truth: Tensor) -> Direction:
    """How an expected gradient stands to the true one."""
    a, b = estimate.flatten().double(), truth.flatten().double()
    size = float(b.norm())
    cosine = float(torch.nn.functional.cosine_similarity(a, b, dim=0)) if a.any() else 0.0
    return Direction(float((a - b).norm()) / size, cosine, float(a.norm()) / size)


def both(measure: Callable[[], Any], *swaps: Swap) -> tuple[Any, Any]:
    """What a measurement gives as things are, and with the functions swapped."""
    right = measure()
    with swapped(*swaps):
        return right, measure()
