"""A run as one page that fetches nothing: the viewer, and the data that it draws.

viewer.html is the shell; viewer.css, viewer.js and playground.js are put into it, and the data
stand in it as JSON. The page's own policy lets the browser run these by their hashes alone.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.files import saved_text
from rlhf_pg.chart import signed

LIMIT = 1_950_000  # bytes of the whole page
METRIC_LINES = 1_000
PROJECTIONS = 500
# What the sliders compute with keeps nine digits, what is only read keeps five.
READ_ONLY = ("entropy", "top", "ratio", "true_value_se", "true_advantage_se")


def write_page(path: Path, data: Mapping[str, Any]) -> Path:
    """Write the page whole, or leave what stood at `path`."""
    saved_text(path, document(data))
    return path


def document(data: Mapping[str, Any]) -> str:
    """The page as HTML text, under 2 MB: what does not fit is left out, and the page says so."""
    folder = Path(__file__).parent
    style, viewer, playground, shell = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("viewer.css", "viewer.js", "playground.js", "viewer.html")
    )
    script = viewer + playground
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(str(data["title"])),
        "headline": html.escape(headline(data)),
        "style": style,
        "script": script,
    }
    room = LIMIT - len((shell + "".join(parts.values())).encode())
    parts["data"] = embedded(packed(data, room))
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], shell)


def headline(data: Mapping[str, Any]) -> str:
    """What the run did, in one sentence."""
    lines = data["metrics"]
    if not lines and data["estimators"] and not data["episodes"]:
        return f"Many estimates of one policy's gradient: {data['estimators'][0]['task']}."
    if not lines:
        return "This run has recorded no metrics yet."
    said: list[str] = []
    for key, name, digits in (("score", "the score", 2), ("gold", "gold", 2), ("kl", "KL", 1)):
        values = [line[key] for line in lines if _is_number(line.get(key))]
        if len(values) > 1:
            verb = "" if said else " went"
            ends = (signed(value, digits) for value in (values[0], values[-1]))
            first, last = (end.lstrip("+") if key == "kl" else end for end in ends)
            said.append(f"{name}{verb} from {first} to {last}")
    count = f"In {len(lines)} iteration{'s' if len(lines) > 1 else ''}"
    if not said:
        return f"{count}, no score was recorded."
    return f"{count}, {', '.join(said[:-1])}{' and ' if said[1:] else ''}{said[-1]}."


def packed(data: Mapping[str, Any], room: int) -> dict[str, Any]:
    """What the viewer reads, in at most about `room` bytes: columns in place of rows."""
    left_out: list[str] = []
    metrics = data["metrics"]
    if len(metrics) > METRIC_LINES:
        every = math.ceil(len(metrics) / METRIC_LINES)
        left_out.append(f"The curves show every {every}th of {len(metrics)} iterations.")
        metrics = [*metrics[:-1:every], metrics[-1]]
    page = {
        "title": str(data["title"]),
        "kind": data["kind"],
        "config": [[key, _shown(value)] for key, value in _flat(data["config"])],
        "metrics": _rounded(_columns(metrics), 6),
        "help": dict(data["metrics_help"]),
        "agreement": _rounded(data["agreement"], 6),
        "estimators": _rounded([_lighter(task, left_out) for task in data["estimators"]], 5),
    }
    episodes = [_episode(record) for record in data["episodes"]]
    page["episodes"] = _thinned(episodes, room - len(embedded(page).encode()) - 1000)
    missing = len(episodes) - len(page["episodes"])
    if missing:
        left_out.append(
            f"{missing} of {len(episodes)} recorded {_plural(data['kind'])} are left out, to keep "
            "the page small; the run's tokens.jsonl has them all."
        )
    page["left_out"] = list(dict.fromkeys(left_out))
    return page


def embedded(value: Any) -> str:
    """JSON that can stand in HTML: nothing in it can end the element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda c: f"\\u{ord(c[0]):04x}", text)


def _episode(record: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"token": [], **_columns(record["tokens"])}
    kept = {key: _rounded(column, 5 if key in READ_ONLY else 9) for key, column in columns.items()}
    return {**_rounded({**record, "tokens": None}, 9), "tokens": kept}


def _thinned(episodes: Sequence[dict[str, Any]], room: int) -> list[dict[str, Any]]:
    """As many episodes as fit: half the room for those after training, then whole iterations.

    Of these the last and the first come first, then those that halve the widest gaps.
    """
    sizes = [len(embedded(episode).encode()) + 1 for episode in episodes]
    places: dict[int | None, list[int]] = {}
    for i, episode in enumerate(episodes):
        places.setdefault(episode["iteration"], []).append(i)
    final = places.pop(None, [])
    taken: list[int] = []
    used = 0

    def take(some: Sequence[int], room: int) -> None:
        nonlocal used
        for i in some:
            if i not in taken and used + sizes[i] <= room:
                taken.append(i)
                used += sizes[i]

    take(final, room // 2 if places else room)
    for iteration in _spread(sorted(key for key in places if key is not None)):
        take(places[iteration], room)
    take(final, room)
    return [episodes[i] for i in sorted(taken)]


def _spread(ordered: Sequence[int]) -> Iterator[int]:
    """The last, the first, the middle, the quarters, ...: each once."""
    gaps = [(0, len(ordered) - 1)]
    yield from dict.fromkeys([ordered[-1], ordered[0]] if ordered else [])
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            yield ordered[middle]
            gaps += [(low, middle), (middle, high)]


def _lighter(task: Mapping[str, Any], left_out: list[str]) -> dict[str, Any]:
    methods = []
    for method in task["methods"]:
        drawn = method["projections"]
        if len(drawn) > PROJECTIONS:
            left_out.append(f"Histograms show the first {PROJECTIONS} estimates of each method.")
        methods.append({**method, "projections": drawn[:PROJECTIONS]})
    return {**task, "methods": methods}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of named values as named columns, None where a row has no such name."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _rounded(value: Any, digits: int) -> Any:
    """The same with so many significant digits, and None for what is no number."""
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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _plural(kind: str) -> str:
    return "completions" if kind == "language" else "episodes"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
