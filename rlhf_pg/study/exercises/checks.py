"""Checks of a function: arguments with an answer by hand, expectations, and facts.

A check runs a function and returns an `Outcome`, whose numbers show which wrong function behaves
in the same way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[..., Any]
POISON = 1e6  # on padding, where it must change nothing


class Outcome(NamedTuple):
    """What a check found."""

    passed: bool
    text: str  # what was expected and what came, or a measurement
    numbers: list[Tensor]  # equal for functions that behave in the same way


@dataclass(frozen=True)
class Case:
    """Arguments, and the results and gradients that were calculated by hand.

    Lists become float64 tensors, or bool ones. `gradients` are of the sum of all results, by the
    position of an argument; None: no gradient may reach this argument.
    """

    name: str
    arguments: tuple[Any, ...]
    expected: Any  # a tuple if the function returns one
    gradients: Mapping[int, Any] = field(default_factory=dict)

    def run(self, function: Function) -> Outcome:
        """Call the function, and compare shapes, values and gradients."""
        arguments = [tensor(x) if isinstance(x, list) else x for x in self.arguments]
        leaves = [arguments[i].requires_grad_() for i in self.gradients]
        results = as_tensors(function(*arguments))
        expected = self.expected if isinstance(self.expected, tuple) else (self.expected,)
        wanted = [tensor(x) for x in expected]
        if len(results) != len(wanted):
            return wrong(f"returns {len(results)} results instead of {len(wanted)}", results)
        found = [x.detach().double() for x in results]
        for mine, right in zip(found, wanted, strict=True):
            if mine.shape != right.shape:
                return wrong(f"shape {tuple(right.shape)} expected, not {tuple(mine.shape)}", found)
            if not _close(mine, right.double()):
                # Gradients are computed all the same, to recognise the mistake.
                found += _gradients(results, leaves)
                return wrong(f"expected {show(right)}\nreturned {show(mine)}", found)
        gradients = _gradients(results, leaves)
        for (i, right), mine in zip(self.gradients.items(), gradients, strict=True):
            target = torch.zeros_like(mine) if right is None else tensor(right)
            if not _close(mine, target):
                place = f"gradient by {list(signature(function).parameters)[i]}"
                why = " (detach it)" if right is None else ""
                text = f"{place}: expected {show(target)}{why}\nreturned {show(mine)}"
                return wrong(text, found + gradients)
        return Outcome(True, "", found + gradients)


@dataclass(frozen=True)
class Expectation:
    """An expected gradient, or another expectation, beside the truth."""

    name: str
    measure: Callable[[Function], tuple[Tensor, Tensor]]  # what the function leads to, the truth

    def run(self, function: Function) -> Outcome:
        """Compare the two: bias |estimate - truth| / |truth|, and cosine."""
        estimate, truth = (x.detach().double().flatten() for x in self.measure(function))
        bias = float((estimate - truth).norm() / truth.norm())
        cosine = float(torch.cosine_similarity(estimate, truth, 0))
        text = f"bias {bias:.3f}, cosine {cosine:.3f}"
        return Outcome(bias < 1e-6, text + ("" if bias < 1e-6 else ": must be 0 and 1"), [estimate])


@dataclass(frozen=True)
class Facts:
    """Sentences that must be true; the text names those that are not."""

    name: str
    find: Callable[[Function], dict[str, bool]]

    def run(self, function: Function) -> Outcome:
        """Find out which are true."""
        facts = self.find(function)
        untrue = "\n".join(f"not true: {sentence}" for sentence, true in facts.items() if not true)
        return Outcome(not untrue, untrue, [torch.tensor([float(x) for x in facts.values()])])


Check = Case | Expectation | Facts


def tensor(x: Any) -> Tensor:
    """A number, or nested lists of numbers or of bool, as a tensor."""
    made = torch.tensor(x)
    return made if made.dtype == torch.bool else made.double()


def padded(rows: list[list[float]], columns: int, value: float = POISON) -> list[list[float]]:
    """Rows of numbers, made longer by padding."""
    return [row + [value] * (columns - len(row)) for row in rows]


def as_tensors(result: Any) -> list[Tensor]:
    """The results of a function; raises TypeError for anything else than tensors."""
    results = list(result) if isinstance(result, tuple) else [result]
    for x in results:
        if x is None:
            raise TypeError("the function returns None: does its last line say `return`?")
        if not isinstance(x, Tensor):
            raise TypeError(f"the function returns a {type(x).__name__} instead of a tensor")
    return results


def wrong(text: str, numbers: list[Tensor]) -> Outcome:
    """The outcome of a check that failed."""
    return Outcome(False, text, numbers)


def show(x: Tensor) -> str:
    """A tensor in one line."""
    values = torch.round(x.detach().double(), decimals=4).tolist()
    return str(values).replace(".0,", ",").replace(".0]", "]")


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal to the five or six digits of a value calculated by hand."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def _gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of the sum of all results; 0 for a leaf that none depends on."""
    total = sum(x.sum() for x in results if x.requires_grad)
    if not leaves or not isinstance(total, Tensor):
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(total, leaves, allow_unused=True, retain_graph=True)
    return [
        torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)
    ]
