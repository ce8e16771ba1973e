"""`rlhf-pg inspect`: gathers what a run left behind, and measures what is missing, for its page."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_pg.control import records
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.trained import open_trained
from rlhf_pg.progress import console
from rlhf_pg.runs import METRICS, options_of, read_jsonl
from rlhf_pg.study import credit
from rlhf_pg.study.report import page, terminal


@dataclass
class InspectConfig:
    """Show a run: its curves, and every token's advantage beside the true one."""

    run: str = "runs/ppo"
    """Folder of a run of `rlhf-pg train`, `rlhf-pg control` or `rlhf-pg study estimators`."""
    completions: int = 24
    """Of the trained policy, whose tokens get true advantages; usually 8 to 64. For an environment,
    a sixth as many episodes, at least one."""
    continuations: int = 32
    """Of every prefix, to measure what it is worth; usually 32 to 256. 0 leaves the truth out."""
    again: bool = False
    """Measure anew, though the run holds a credit.jsonl."""
    terminal: bool = False
    """Print the tokens here in colour, in place of writing a page."""
    channel: str = "advantage"
    """What colours them there: advantage, true_advantage, delta, reward, kl, logprob, value,
    entropy or ratio."""
    seed: int = 0
    """Of the draws."""
    output: str | None = None
    """The page; None is report.html in the run's folder."""


def main(config: InspectConfig, load_reward: Callable[[str], Reward]) -> Path | None:
    """Write the page and return its path; or print its terminal twin."""
    data = gather(config, load_reward)
    if config.terminal:
        terminal.show(data, console, config.channel)
        return None
    output = Path(config.output) if config.output else Path(config.run) / "report.html"
    path = page.write_page(output, data)
    console.print(f"open {path} in a browser", markup=False, soft_wrap=True)
    return path


def gather(config: InspectConfig, load_reward: Callable[[str], Reward]) -> dict[str, Any]:
    """All that a run's page shows; ValueError where `config.run` is no run."""
    folder = Path(config.run)
    options = options_of(folder)
    if {"env", "algorithm"} <= set(options):
        return of_control(folder, options, config)
    if {"rows", "algorithm"} <= set(options):
        return of_language(folder, options, config, load_reward)
    if (folder / "estimators.json").is_file():
        return _data(folder, "language", "gradient estimators", options, [], None)
    if not folder.exists():
        raise ValueError(
            f"no run at {folder}; `rlhf-pg train` and `rlhf-pg control` make runs to inspect"
        )
    raise ValueError(
        f"{folder} is no run of `rlhf-pg train` or `rlhf-pg control`: it has no config.yaml that "
        "says so"
    )


def of_language(
    folder: Path,
    options: dict[str, Any],
    config: InspectConfig,
    load_reward: Callable[[str], Reward],
) -> dict[str, Any]:
    """What the page is made of, for a run on text; measures the true advantages where missing."""
    measured = folder / "credit.jsonl"
    if config.continuations and (config.again or not measured.is_file()):
        trained = open_trained(str(folder), load_reward)
        found = credit.measure(trained, config.completions, config.continuations, config.seed)
        credit.save(folder, *found)
    watched = _rows(folder / "tokens.jsonl") + _rows(measured)
    title = f"{options['algorithm']} toward {options['reward']}"
    return _data(folder, "language", title, options, watched, _json(folder / "credit.json"))


def of_control(folder: Path, options: dict[str, Any], config: InspectConfig) -> dict[str, Any]:
    """The same for a run on an environment: a few episodes, played now."""
    played = records.episodes(folder, max(1, config.completions // 6), config.seed)
    title = f"{options['algorithm']} on {options['env']}"
    return _data(folder, "control", title, options, played, None)


def _data(
    folder: Path,
    kind: str,
    title: str,
    options: dict[str, Any],
    episodes: list[dict[str, Any]],
    agreement: dict[str, Any] | None,
) -> dict[str, Any]:
    estimators = _json(folder / "estimators.json")
    return {
        "title": title,
        "kind": kind,
        "config": options,
        "metrics": _rows(folder / "metrics.jsonl"),
        "metrics_help": METRICS,
        "episodes": episodes,
        "agreement": agreement,
        "estimators": [estimators] if estimators else [],
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path) if path.is_file() else []


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
