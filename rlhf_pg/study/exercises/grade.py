"""Run an exercise's checks on a function, in a process that `command` starts and may stop.

The results are written to a file after every check, so that those before an endless loop are kept.
"""

import importlib
import importlib.util
import json
import linecache
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.study.exercises.checks import Check, Function, Outcome

Results = dict[str, Any]  # "checks": name, passed and text of each; "running"; "behaves_like"


def grade(
    name: str,
    function: Function,
    file: Path | None = None,
    save: Callable[[Results], None] = lambda _: None,
) -> Results:
    """Run all checks of an exercise, and name the wrong function that behaves in the same way.

    `file` is that of the function, for the lines of its errors. `save` is called with the results
    before every check, and at the end.
    """
    exercise = importlib.import_module(f"rlhf_pg.study.exercises.{name}")
    checks: list[Check] = exercise.CHECKS
    results: Results = {"checks": [], "running": "", "behaves_like": ""}
    found = []
    for check in checks:
        results["running"] = check.name
        save(results)
        outcome = _outcome(check, function, file)
        found.append(outcome)
        results["checks"].append(
            {"name": check.name, "passed": outcome.passed, "text": outcome.text}
        )
    results["running"] = ""
    for wrong in exercise.WRONG:
        if _alike(found, [_outcome(check, wrong) for check in checks]):
            results["behaves_like"] = wrong.__doc__
            break
    save(results)
    return results


def load(path: Path, name: str) -> Function:
    """The function `name` of a Python file, whose code runs; raises what the code raises."""
    spec = importlib.util.spec_from_file_location(f"exercise_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise AttributeError(f"{path.name} defines no function {name}")
    made: Function = function
    return made


def _outcome(check: Check, function: Function, file: Path | None = None) -> Outcome:
    """A check's outcome; an exception has no numbers."""
    try:
        return check.run(function)
    except (Exception, SystemExit) as error:
        return Outcome(False, described(error, file, getattr(function, "__code__", None)), [])


def described(error: BaseException, file: Path | None, code: Any = None) -> str:
    """An exception in words, after the last line of `file` that led to it.

    Without such a line (the arguments do not fit) it is the first one of the function, `code`.
    """
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError) and error.lineno:
        return f"line {error.lineno}: {(error.text or '').strip()}\n{text}"
    mine = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    if mine:
        return f"line {mine[-1].lineno}: {mine[-1].line}\n{text}"
    if code is not None and code.co_filename == str(file):
        line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
        return f"line {code.co_firstlineno}: {line}\n{text}"
    return text


def _alike(mine: list[Outcome], other: list[Outcome]) -> bool:
    """Whether all numbers are equal, those of a failed check among them."""
    both = [(a, b) for a, b in zip(mine, other, strict=True) if a.numbers]
    return any(not a.passed for a, _ in both) and all(
        len(a.numbers) == len(b.numbers) and all(map(_equal, a.numbers, b.numbers)) for a, b in both
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(
        a.double(), b.double(), rtol=1e-6, atol=1e-8, equal_nan=True
    )


def main(name: str, file: str, results: str) -> None:
    """Grade the function `name` of `file`; write the results to another file, as JSON."""
    path = Path(file).resolve()

    def save(found: Results) -> None:
        part = Path(f"{results}.part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(results)  # at once: it may be read, or the process stopped, at any time

    reading = f"reading {path.name}"
    save({"checks": [], "running": reading, "behaves_like": ""})
    try:
        function = load(path, name)
    except (Exception, SystemExit) as error:
        failed = {"name": reading, "passed": False, "text": described(error, path)}
        save({"checks": [failed], "running": "", "behaves_like": ""})
        return
    grade(name, function, path, save)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(sys.argv[2]).resolve().parent))  # it may import files beside it
    main(*sys.argv[1:])
