"""`rlhf-pg inspect`: a run as a page; true advantages are measured first if they are missing."""

from pathlib import Path
from typing import Any

from rlhf_pg.control import records
from rlhf_pg.language.config import train_config
from rlhf_pg.language.loaded import open_run
from rlhf_pg.progress import console
from rlhf_pg.reading import EPISODE_SHAPE, METRICS_LINE, Shape, read_json, read_jsonl
from rlhf_pg.runs import METRICS, options_of
from rlhf_pg.study import overlay
from rlhf_pg.study.config import InspectConfig
from rlhf_pg.study.credit import AGREEMENT_SHAPE, measure, save
from rlhf_pg.study.report import page, terminal

ESTIMATORS_SHAPE: Shape = {
    "task!": "text",
    "truth": {},
    "methods": [{"name!": "text", "family!": "text", "projections!": ["number or null"]}],
}


def inspect(config: InspectConfig, announce: bool = True) -> Path | None:
    """Write the page and return its path; with `config.terminal`, print instead and return None.

    With `config.others`, the page shows the curves of several runs. `announce`: print where the
    page is.
    """
    if config.others:
        if config.terminal:
            raise ValueError("--terminal shows one run: name one, or leave --terminal out")
        runs = [Path(config.run), *map(Path, config.others)]
        path = overlay.write_page(Path(config.output or runs[0] / "curves.html"), runs)
        console.print(f"open {path} in a browser", markup=False, soft_wrap=True)
        return path
    data = collect(config)
    if config.terminal:
        terminal.show(data, config.channel, console)
        return None
    output = Path(config.output) if config.output else Path(config.run) / "report.html"
    path = page.write_page(output, data)
    if announce:
        console.print(f"open {path} in a browser", markup=False, soft_wrap=True)
    return path


def collect(config: InspectConfig) -> dict[str, Any]:
    """Everything that the page of a run shows; raises ValueError if `config.run` is no run."""
    folder = Path(config.run)
    options = options_of(folder)
    if {"env", "algorithm"} <= set(options):
        return control_run(folder, options, config)
    if {"rows", "algorithm"} <= set(options):
        return language_run(folder, options, config)
    if (folder / "estimators.json").is_file():
        return page_data(folder, "language", "gradient estimators", options, [], None)
    if not folder.exists():
        raise ValueError(
            f"no run at {folder}; `rlhf-pg train` and `rlhf-pg control` make runs to inspect"
        )
    raise ValueError(
        f"{folder} is no run of `rlhf-pg train` or `rlhf-pg control`: it has no config.yaml of one"
    )


def language_run(folder: Path, options: dict[str, Any], config: InspectConfig) -> dict[str, Any]:
    """The page's data for a text run; measures the true advantages if they are missing."""
    run_config, measured = train_config(folder), folder / "credit.jsonl"
    episodes = _rows(folder / "tokens.jsonl", EPISODE_SHAPE)
    if config.continuations and (config.again or not measured.is_file()):
        run = open_run(str(folder), config.trust)
        save(folder, *measure(run, config.completions, config.continuations, config.seed))
    episodes += _rows(measured, EPISODE_SHAPE)
    title = f"{run_config.algorithm} toward {run_config.reward}"
    agreement = _json(folder / "credit.json", AGREEMENT_SHAPE)
    return page_data(folder, "language", title, options, episodes, agreement)


def control_run(folder: Path, options: dict[str, Any], config: InspectConfig) -> dict[str, Any]:
    """The page's data for a control run, with a few episodes played now."""
    count = max(1, config.completions // 6)
    episodes = records.episodes(folder, count, config.seed, config.trust)
    title = f"{options['algorithm']} on {options['env']}"
    return page_data(folder, "control", title, options, episodes, None)


def page_data(
    folder: Path,
    kind: str,
    title: str,
    options: dict[str, Any],
    episodes: list[dict[str, Any]],
    agreement: dict[str, Any] | None,
) -> dict[str, Any]:
    """What `report.page` draws: the arguments, and the metrics and estimators in the folder."""
    estimators = _json(folder / "estimators.json", ESTIMATORS_SHAPE)
    return {
        "title": title,
        "kind": kind,
        "config": options,
        "metrics": _rows(folder / "metrics.jsonl", METRICS_LINE),
        "metrics_help": METRICS,
        "episodes": episodes,
        "agreement": agreement,
        "estimators": [estimators] if estimators else [],
    }


def _rows(path: Path, shape: Shape) -> list[dict[str, Any]]:
    return read_jsonl(path, shape) if path.is_file() else []


def _json(path: Path, shape: Shape) -> dict[str, Any] | None:
    return read_json(path, shape) if path.is_file() else None
