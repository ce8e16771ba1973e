"""`rlhf-pg study estimators`: measure, save estimators.json, and print it as a table."""

import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from reward_models.files import saved_text
from rlhf_pg.progress import console, number
from rlhf_pg.runs import Run, options_of
from rlhf_pg.study import tasks
from rlhf_pg.study.config import EstimatorsConfig
from rlhf_pg.study.estimators import sources
from rlhf_pg.study.estimators.measure import measure

WIDTH = 100
ZERO = 1e-4  # an exact bias below it is the rounding of 32 bits
SECTIONS = {  # of the table, by family
    "reinforce": "no baseline",
    "reward-to-go": "no baseline",
    "baseline": "baselines",
    "gae": "bootstrapped (GAE)",
    "group": "divided by deviation",
    "ppo": "PPO",
    "variant": "variants of GRPO",
}
LEGEND = (
    "bias |E g − g*|/|g*|; variance and MSE in |g*|²; cosine of E g with g*, and mean cosine of "
    "one g; SNR |E g|²/variance. ± is twice the standard error; a number without it is a sum over "
    "all episodes. “< x”: within noise, and at most about x. “–”: hidden by noise. † has an "
    "arbitrary scale: compared by direction, its bias is the tangent of the angle."
)
Entry = Mapping[str, Any]


def main(config: EstimatorsConfig) -> dict[str, Any]:
    """Measure, save and print; returns what is saved."""
    config.check()
    result = measure(open_source(config))
    if config.model and config.output is None and options_of(config.model):
        folder = Path(config.model)
    else:
        folder = Run.create(config.output, "estimators", config).path
    saved_text(folder / "estimators.json", json.dumps(result, ensure_ascii=False, allow_nan=False))
    show(result)
    console.print(f"saved in {folder / 'estimators.json'}", markup=False)
    return result


def open_source(config: EstimatorsConfig) -> sources.Source:
    """The environment, the run or the small task that the options name."""
    if config.env:
        return sources.trained_environment(config)
    if config.model and "env" in options_of(config.model):
        return sources.control_run(config)
    if config.model:
        return sources.TextRun(config)
    return sources.Enumerated(config, tasks.small_task())


def show(result: Mapping[str, Any]) -> None:
    """Print the table, a row for each estimator, and how to read it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, width=WIDTH)
    table.add_column("estimator", no_wrap=True)
    for name in ("bias", "variance", "MSE", "cosine", "one g", "SNR"):
        table.add_column(name, justify="right", no_wrap=True)
    section = None
    for entry in result["methods"]:
        if SECTIONS[entry["family"]] != section:
            section = SECTIONS[entry["family"]]
            table.add_section()
            table.add_row(Text(section, style="bold cyan"))
        table.add_row(
            f" {entry['name']}{' †' if entry['rescaled'] else ''}",
            _bias(entry),
            _with_error(entry, "variance"),
            number(entry["mse"]),
            _with_error(entry, "cosine", "{:.3f}".format),
            f"{entry['cosine_single']:.3f}",
            _snr(entry),
        )
    console.print(f"\nGradient estimators on {result['task']}", markup=False, style="bold")
    console.print(table, width=WIDTH)
    for line in notes(result):
        console.print(Text(textwrap.fill(line, WIDTH), style="dim"))


def _bias(entry: Entry) -> str:
    if entry["expected_exactly"] and entry["bias"] < ZERO:
        return "0"
    if entry["bias_squared"] < 2 * entry["bias_squared_se"]:
        return f"< {number(entry['bias'] + 2 * entry['bias_se'])}"
    return _with_error(entry, "bias")


def _snr(entry: Entry) -> str:
    snr, error = entry["snr"], entry["snr_se"]
    if snr is not None and error is not None and snr < 2 * error:
        return f"< {number(max(snr, 0.0) + 2 * error)}"
    return number(snr)


def _with_error(entry: Entry, name: str, shown: Callable[[float], str] = number) -> str:
    """A measure, and twice its standard error to two digits if it is sampled."""
    value, error = entry[name], entry[f"{name}_se"]
    if value is None:
        return number(None)
    if entry["expected_exactly"] or error is None:
        return shown(value)
    return f"{shown(value)} ±{shown(float(f'{2 * error:.2g}')).removeprefix('0')}"


def notes(result: Mapping[str, Any]) -> list[str]:
    """How the truth is known, what the columns mean, and how good the critics are."""
    truth, episodes = result["truth"], f"{result['truth']['episodes']:,}"
    known = f"the mean over {episodes} other episodes, known to {truth['relative_error']:.1%}"
    if truth["how"] == "enumeration":
        known = f"exact, summed over all {episodes} episodes"
    lines = [
        f"True gradient g*: {known}. An estimate g is one batch of {result['batch']} episodes, "
        f"{result['samples_per_prompt']} from each start; {result['estimates']} estimates.",
        LEGEND,
    ]
    moved = [
        f"{number(e['moved'])} at k={e['steps']}"
        for e in result["methods"]
        if e["steps"] and e["family"] == "ppo"
    ]
    if moved:
        lines.append(
            "k: the policy is k PPO steps on one other batch away from the one that sampled (KL in "
            f"nats per action: {', '.join(moved)}); g* is then that policy's own."
        )
    if result["gamma"] < 1:
        lines.append(
            "γ < 1: g* does not weight steps by γ^t. The methods that weight a step with the score "
            "of its whole episode (whole return, leave-one-out, group) do, and so differ."
        )
    return [*lines, f"Critics: {result['critic']}."]
