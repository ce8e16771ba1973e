"""`rlhf-pg study exercise`: list the exercises, write the template of one, grade a solution."""

import ast
import difflib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.text import Text

from rlhf_pg.progress import command, console
from rlhf_pg.study.config import ExerciseConfig
from rlhf_pg.study.exercises import EXERCISES

TEMPLATE = '''\
"""Exercise {name}: {task}. Lesson {lesson} of docs/learn.md.

Write the function, then: rlhf-pg study exercise {name} {name}.py
"""

{imports}


{head}
    raise NotImplementedError("write {name} here")
'''


def main(config: ExerciseConfig) -> None:
    """List, write a template, or grade.

    Raises ValueError for an unknown name, a file that does not exist, and one that would be
    overwritten; SystemExit(1) if a solution does not pass.
    """
    if config.name is None:
        show_list()
        return
    name = config.name.replace("-", "_")
    if name not in EXERCISES:
        near = difflib.get_close_matches(name, EXERCISES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no exercise {config.name!r}{hint}: choose among {', '.join(EXERCISES)}")
    if config.file is None:
        path = Path(f"{name}.py")
        grading = command("study", "exercise", name, path)
        if path.exists():
            raise ValueError(f"{path} exists and is not overwritten; grade it with: {grading}")
        path.write_text(template(name), encoding="utf-8")
        console.print(f"{path} written: {EXERCISES[name].task}. Then: {grading}")
        return
    if not Path(config.file).is_file():
        raise ValueError(
            f"no file {config.file}: `{command('study', 'exercise', name)}` writes a template"
        )
    if not show(name, graded(name, config.file, config.timeout)):
        raise SystemExit(1)


def show_list() -> None:
    """All exercises, one line each."""
    width = max(map(len, EXERCISES)) + 2
    for name, exercise in EXERCISES.items():
        console.print(f"  {name:<{width}}{exercise.task} (lesson {exercise.lesson})")
    console.print(
        f"\n{command('study', 'exercise', 'NAME')} writes NAME.py here; "
        f"{command('study', 'exercise', 'NAME', 'NAME.py')} grades it."
    )


def template(name: str) -> str:
    """The right function's signature and docstring, with an empty body."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    (right,) = (x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == name)
    head = "\n".join(source.splitlines()[right.lineno - 1 : right.body[0].end_lineno])
    uses_callable = "from collections.abc import Callable\n\n" if "Callable[" in head else ""
    imports = f"{uses_callable}import torch\nfrom torch import Tensor"
    return TEMPLATE.format(name=name, imports=imports, head=head, **EXERCISES[name]._asdict())


def graded(name: str, file: str, timeout: float) -> dict[str, Any]:
    """The results of `grade`, from a process of its own that runs for at most `timeout` seconds.

    A check that did not end is the last one, with the reason as its text.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        # -P: files of the current folder do not hide modules of the library.
        words = [sys.executable, "-P", "-m", "rlhf_pg.study.exercises.grade", name, file, str(path)]
        process = subprocess.Popen(words)
        try:
            began = None  # when the solution is read, which the first results say
            while process.poll() is None and (began is None or time.monotonic() < began + timeout):
                time.sleep(0.02)
                if began is None and path.exists():
                    began = time.monotonic()
            reason = f"the process ended with exit code {process.returncode}"
            if process.returncode is None:
                reason = f"cut after {timeout:g} s: an endless loop? --timeout allows more"
        finally:
            process.kill()
            process.wait()
        if not path.exists():
            raise ValueError(f"the grader did not start: {reason}")
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if results["running"]:
        stopped = {"name": results["running"], "passed": False, "text": reason}
        results["checks"].append(stopped)
    return results


def show(name: str, results: dict[str, Any]) -> bool:
    """Print the results; returns whether all checks pass."""
    checks = results["checks"]
    console.print(Text(f"{name}: {EXERCISES[name].task}", "bold"))
    before = ""
    for check in checks:
        word, style = ("pass", "green") if check["passed"] else ("FAIL", "red")
        text = "as above" if check["text"] and check["text"] == before else check["text"]
        before = check["text"]
        first, *more = text.splitlines() or [""]
        line = Text.assemble((f"  {word}  ", style), check["name"])
        if check["passed"]:
            line.append(f": {first}" if first else "")
        else:
            line.append("".join(f"\n          {part}" for part in (first, *more)))
        console.print(line)
    passed = all(check["passed"] for check in checks)
    if results["behaves_like"]:
        console.print(Text(f"behaves like: {results['behaves_like']}", "bold"))
    count = sum(check["passed"] for check in checks)
    console.print(f"{count} of {len(checks)} checks pass")
    return passed
