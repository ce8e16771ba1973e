"""A run as one HTML file that needs no network: the viewer and, as JSON, the data it draws."""

import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.files import saved_text
from rlhf_pg.chart import signed
from rlhf_pg.study import web
from rlhf_pg.study.report.words import WORDS

LIMIT = 1_950_000  # bytes of the whole page
METRIC_LINES = 1_000  # points of a curve
PROJECTIONS = 500  # estimates in a histogram
# The page's own scripts, after the shared ones: each may use those before it.
SCRIPTS = (
    "data.js", "theory.js", "metrics.js", "scenes.js", "tokens.js", "inspector.js",
    "agreement.js", "estimators.js", "start.js",
)  # fmt: skip
# Numbers that the sliders compute with keep nine digits; these, which are only shown, keep five.
SHOWN_ONLY = ("entropy", "top", "ratio", "true_value_se", "true_advantage_se")


def write_page(path: Path, data: Mapping[str, Any]) -> Path:
    """Write the page atomically; if it cannot be made, an older file at `path` stays."""
    saved_text(path, document(data))
    return path


def document(data: Mapping[str, Any]) -> str:
    """The page as HTML text of less than 2 MB; data that does not fit is omitted, with a note."""
    text, parts = web.shell(Path(__file__).parent, "viewer.html", ["viewer.css"], SCRIPTS)
    parts |= {
        "title": html.escape(str(data["title"])),
        "headline": html.escape(headline(data)),
    }
    budget = LIMIT - len((text + "".join(parts.values())).encode())
    parts["data"] = web.embedded(packed(data, budget))
    return web.filled(text, parts)


def headline(data: Mapping[str, Any]) -> str:
    """One sentence with the first and last score, gold and KL."""
    lines = data["metrics"]
    if not lines and data["estimators"] and not data["episodes"]:
        return f"Estimates of the policy gradient: {data['estimators'][0]['task']}."
    if not lines:
        return "This run has recorded no metrics yet."
    changes: list[str] = []
    for key, name, digits in (("score", "the score", 2), ("gold", "gold", 2), ("kl", "KL", 1)):
        values = [line[key] for line in lines if is_number(line.get(key))]
        if len(values) > 1:
            verb = "" if changes else " went"
            ends = (signed(value, digits) for value in (values[0], values[-1]))
            first, last = (end.lstrip("+") if key == "kl" else end for end in ends)
            changes.append(f"{name}{verb} from {first} to {last}")
    count = f"In {len(lines)} iteration{'s' if len(lines) > 1 else ''}"
    if not changes:
        return f"{count}, no score was recorded."
    return f"{count}, {', '.join(changes[:-1])}{' and ' if changes[1:] else ''}{changes[-1]}."


def packed(data: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """The viewer's data in at most about `budget` bytes of JSON: columns in place of rows.

    Curves, histograms and episodes are thinned out as needed; "left_out" says so in sentences.
    """
    left_out: list[str] = []
    metrics = data["metrics"]
    if len(metrics) > METRIC_LINES:
        every = math.ceil(len(metrics) / METRIC_LINES)
        left_out.append(f"The curves show every {every}th of {len(metrics)} iterations.")
        metrics = [*metrics[:-1:every], metrics[-1]]
    page = {
        "title": str(data["title"]),
        "kind": data["kind"],
        "env": str(data["config"].get("env", "")),
        "config": [[key, _shown(value)] for key, value in _flat(data["config"])],
        "metrics": _rounded(_columns(metrics), 6),
        "help": dict(data["metrics_help"]),
        "words": {name: WORDS[name] for name in _columns(metrics) if name in WORDS},
        "agreement": _rounded(data["agreement"], 6),
        "estimators": _rounded([_shortened(task, left_out) for task in data["estimators"]], 5),
    }
    episodes = [_episode(record) for record in data["episodes"]]
    page["episodes"] = _thinned(episodes, budget - len(web.embedded(page).encode()) - 1000)
    missing = len(episodes) - len(page["episodes"])
    if missing:
        left_out.append(
            f"{missing} of {len(episodes)} recorded {_plural(data['kind'])} are not shown, to keep "
            "the page small; tokens.jsonl in the run's folder has all of them."
        )
    page["left_out"] = list(dict.fromkeys(left_out))
    return page


def _episode(record: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"token": [], **_columns(record["tokens"])}
    tokens = {
        key: _rounded(column, 5 if key in SHOWN_ONLY else 9) for key, column in columns.items()
    }
    return {**_rounded({**record, "tokens": None}, 9), "tokens": tokens}


def _thinned(episodes: Sequence[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """As many episodes as fit: half the budget for those after training, then whole iterations.

    The last and the first iteration come first, then those that halve the widest gaps.
    """
    sizes = [len(web.embedded(episode).encode()) + 1 for episode in episodes]
    places: dict[int | None, list[int]] = {}
    for i, episode in enumerate(episodes):
        places.setdefault(episode["iteration"], []).append(i)
    final = places.pop(None, [])
    kept: list[int] = []
    used = 0

    def keep(rows: Sequence[int], limit: int) -> None:
        nonlocal used
        for i in rows:
            if i not in kept and used + sizes[i] <= limit:
                kept.append(i)
                used += sizes[i]

    keep(final, budget // 2 if places else budget)
    for iteration in _bisected(sorted(key for key in places if key is not None)):
        keep(places[iteration], budget)
    keep(final, budget)
    return [episodes[i] for i in sorted(kept)]


def _bisected(ordered: Sequence[int]) -> Iterator[int]:
    """Each item once, ordered: the last, the first, the middle, the quarters, ..."""
    gaps = [(0, len(ordered) - 1)]
    yield from dict.fromkeys([ordered[-1], ordered[0]] if ordered else [])
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            yield ordered[middle]
            gaps += [(low, middle), (middle, high)]


def _shortened(task: Mapping[str, Any], left_out: list[str]) -> dict[str, Any]:
    methods = []
    for method in task["methods"]:
        estimates = method["projections"]
        if len(estimates) > PROJECTIONS:
            left_out.append(f"Histograms show the first {PROJECTIONS} estimates of each method.")
        methods.append({**method, "projections": estimates[:PROJECTIONS]})
    return {**task, "methods": methods}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of named values as named columns; None if a row lacks the name."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _rounded(value: Any, digits: int) -> Any:
    """Floats rounded to significant digits, at any depth; NaN and infinity become None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one, digits) for one in value]
    return value


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number: not None, NaN or infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _plural(kind: str) -> str:
    return "completions" if kind == "language" else "episodes"
