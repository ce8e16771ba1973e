"""What a bug is, and what is measured of it."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_pg.study.bugs.cartpole import learning_test
from rlhf_pg.study.bugs.critic_descent import CriticDescent
from rlhf_pg.study.bugs.functions import RIGHT, Function, Functions
from rlhf_pg.study.bugs.gaussian import Gaussian
from rlhf_pg.study.bugs.small_network import SmallNetwork
from rlhf_pg.study.bugs.small_text import SmallText
from rlhf_pg.study.bugs.time_limit import TimeLimit

# A small task and a learner, with exact expectations: `direction` measures the expected gradient,
# `learn` gives J over updates, a list for each seed, and `best` J of the best policy.
Setting = SmallText | SmallNetwork | TimeLimit | CriticDescent | Gaussian


@dataclass(frozen=True)
class Bug:
    """A wrong function, what it does, and the settings in which it is measured.

    The function's docstring says in a sentence what is wrong, and in a paragraph what the numbers
    show, and where the bug is harmless.
    """

    name: str
    replaced: dict[str, Function]  # wrong functions by their names in `Functions`; one is shown
    effect: str  # in a few words
    gradients: dict[str, Setting]  # by description; the table of all bugs has the first
    curves: dict[str, Setting]  # likewise
    numbers: dict[str, Callable[[Functions], float]] = field(default_factory=dict)
    in_control: bool = False  # whether PPO on CartPole can have it

    @property
    def functions(self) -> Functions:
        """All functions, with the wrong ones in their places."""
        return replace(RIGHT, **self.replaced)

    @property
    def pair(self) -> tuple[Function, Function]:
        """The right function and the wrong one."""
        name, wrong = next(iter(self.replaced.items()))
        return getattr(RIGHT, name), wrong


def body(function: Function) -> list[str]:
    """A function's lines as they stand in its source, without signature and docstring."""
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    first = definition.body[1 if ast.get_docstring(definition) else 0]
    lines = textwrap.dedent("\n".join(source.splitlines()[first.lineno - 1 :])).splitlines()
    return [line for line in lines if line.strip()]


def measure(bug: Bug, cartpole: bool = True) -> dict[str, Any]:
    """What bugs.json holds of a bug: its sentences, both functions' lines, and every number.

    Numbers come in pairs, "right" and "wrong". gradients: bias, cosine, length and noise in each
    setting. curves: J over updates, a list for each seed; best is J of the best policy. cartpole:
    how many runs reached 475, after how many steps; notices: whether fewer do with the bug.
    """

    def both(f: Callable[[Functions], Any]) -> dict[str, Any]:
        return {"right": f(RIGHT), "wrong": f(bug.functions)}

    right, wrong = bug.pair
    what, lesson = (" ".join(part.split()) for part in (wrong.__doc__ or "").split("\n\n"))
    test = both(learning_test) if cartpole and bug.in_control else None
    if test:
        test["notices"] = test["wrong"]["solved"] < test["right"]["solved"]
    return {
        "what": what,
        "effect": bug.effect,
        "lesson": lesson,
        "right": body(right),
        "right_in": f"{right.__module__}.{right.__qualname__}",
        "wrong": body(wrong),
        "gradients": [{"setting": k, **both(s.direction)} for k, s in bug.gradients.items()],
        "curves": [
            {"setting": k, **both(s.learn), "best": s.best()} for k, s in bug.curves.items()
        ],
        "numbers": {k: both(f) for k, f in bug.numbers.items()},
        "cartpole": test,
    }
