"""Runs all checks, prints their results, and writes doctor.json."""

import inspect
import json
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from types import ModuleType

from rich.text import Text

from reward_models.files import saved_text
from rlhf_pg.language.loaded import run_folder
from rlhf_pg.progress import Progress, console, number
from rlhf_pg.runs import options_of
from rlhf_pg.study.config import DoctorConfig
from rlhf_pg.study.doctor import model, reward, step, text
from rlhf_pg.study.doctor.context import Context, Result, Skip
from rlhf_pg.study.doctor.measure import Iteration
from rlhf_pg.trust import check

GROUPS = {"model": model, "tokenizer and prompts": text, "reward": reward, "gradient step": step}
STYLES = {"pass": "green", "warn": "bold yellow", "fail": "bold red", "skip": "dim"}
CAPITALS = {"eos": "EOS", "bos": "BOS", "kl": "KL"}
WIDTH, INDENT = 80, 8

Check = Callable[[Context], Result]


def main(config: DoctorConfig) -> list[Result]:
    """Run all checks and print them; write doctor.json if `output` is set.

    Raises ValueError for what `rlhf-pg train` refuses, and SystemExit(1), at the end, if a check
    failed.
    """
    if folder := run_folder(config.model):
        options = options_of(folder)  # those that are still the run's
        taken = {name: x for name, x in options.items() if x == getattr(config, name, None)}
        check(folder, taken, config.trust, flags=("reward", "gold", "data", "reference"))
    context = Context(config)
    results = run_checks(context, shown=console.is_terminal)
    show(context, results)
    if config.output is not None:
        write(context, results)
    if any(result.status == "fail" for result in results):
        raise SystemExit(1)
    return results


def checks_of(module: ModuleType) -> list[Check]:
    """The public functions that a module defines, in their order."""
    functions = [f for f in vars(module).values() if inspect.isfunction(f)]
    return [f for f in functions if f.__module__ == module.__name__ and f.__name__[0] != "_"]


def run_checks(context: Context, shown: bool = False) -> list[Result]:
    """The result of every check, in order; `shown` with a progress bar.

    A check that raises has failed. Later checks of its group are skipped, as they need the same.
    """
    total = sum(len(checks_of(module)) for module in GROUPS.values())
    results: list[Result] = []
    errors: dict[str, str] = {}  # message -> name of the check that raised it
    with Progress(total, "checks", shown=shown) as progress:
        for group, module in GROUPS.items():
            broken = None
            for check in checks_of(module):
                name = " ".join(CAPITALS.get(word, word) for word in check.__name__.split("_"))
                try:
                    if broken is not None:
                        raise Skip(f"error in {broken!r}")
                    result = check(context)
                except Skip as reason:
                    result = Result("skip", str(reason))
                except Exception as error:  # of a model, a tokenizer or a reward
                    message = " ".join(f"{type(error).__name__}: {error}".split())
                    broken = errors.setdefault(message, name)
                    result = Result("fail", "error", advice=message)
                    if broken != name:
                        result = Result("skip", f"error in {broken!r}")
                result.group, result.name = group, name
                result.explanation = " ".join((check.__doc__ or "").split())
                results.append(result)
                progress.update(len(results))
    return results


def show(context: Context, results: list[Result]) -> None:
    """Print the results by group, an iteration by stage, and the summary."""
    run, device = context.config, context.trainer.accelerator.device.type
    console.print(Text(f"{run.model} on {run.data} toward {context.reward or 'no reward'}", "bold"))
    console.print(
        f"{run.algorithm}, {run.rows} completions of at most {run.max_new_tokens} tokens, "
        f"temperature {number(run.temperature)}, {device}"
    )
    for group, members in groupby(results, lambda result: result.group):
        console.print(Text(f"\n{group}", "bold"))
        # Neighbours that are skipped for the same reason are one line.
        for _, same in groupby(members, lambda r: r.measured if r.status == "skip" else r.name):
            lines = list(same)
            name = lines[0].name if len(lines) == 1 else f"{len(lines)} checks"
            console.print(formatted(lines[0], name, context.config.explain))
    if "iteration" in vars(context):
        console.print("\n" + stages(context.iteration, run.rows))
    console.print(Text("\n" + summary(results), "bold"), end="")
    console.print("" if context.config.explain else "   (--explain prints what each check tests)")


def formatted(result: Result, name: str, explain: bool = False) -> Text:
    """The lines of a result: status, name, measurement and limit; below, what to do."""
    word = "FAIL" if result.status == "fail" else result.status
    line = Text.assemble((f"  {word:<6}", STYLES[result.status]))
    line.append(f"{name:<24} {result.measured:<31} {result.limit}".rstrip())
    for paragraph in (result.advice, result.explanation if explain else ""):
        for part in textwrap.wrap(paragraph, WIDTH - INDENT):
            line.append(f"\n{'':{INDENT}}{part}")
    return line


def stages(iteration: Iteration, rows: int) -> str:
    """A table of an iteration's stages: seconds, and peak memory."""
    scaled = "" if iteration.rows == rows else f", seconds scaled from {iteration.rows}"
    lines = [f"{f'iteration of {rows} rows{scaled}':<48}seconds    peak memory"]
    table = [(name, s, iteration.peak_bytes[name]) for name, s in iteration.seconds.items()]
    table.append(("all", sum(iteration.seconds.values()), max(iteration.peak_bytes.values())))
    lines += [f"        {n:<38}{number(s):>9}{number(b / 1e6):>12} MB" for n, s, b in table]
    return "\n".join(lines)


def summary(results: list[Result]) -> str:
    """The counts: 28 pass, 2 warn, 1 FAIL, 0 skip."""
    counts = Counter(result.status for result in results)
    return (
        f"{counts['pass']} pass, {counts['warn']} warn, {counts['fail']} FAIL, "
        f"{counts['skip']} skip"
    )


def write(context: Context, results: list[Result]) -> None:
    """Write doctor.json into the folder `output`, or to the .json file of that name."""
    path = Path(context.config.output or "")
    path = path if path.suffix == ".json" else path / "doctor.json"
    report = {
        "config": asdict(context.config),
        "summary": summary(results),
        "results": [asdict(result) for result in results],
        "iteration": asdict(context.iteration) if "iteration" in vars(context) else None,
    }
    saved_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
    console.print(f"written to {path}", markup=False)
