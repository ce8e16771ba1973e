"""The curves of several runs over each other, as one HTML page without scripts."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.files import saved_text
from rlhf_pg import chart
from rlhf_pg.chart import PALETTE, Series, panel, picture
from rlhf_pg.core.options import flat
from rlhf_pg.progress import plain
from rlhf_pg.reading import METRICS_LINE, read_jsonl
from rlhf_pg.runs import METRICS, options_of
from rlhf_pg.study.web import content_policy

LONGEST_NAME = 15  # characters of a run's name beside its curve
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #5c6670; --line: #d5dae0;
  --ground: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --quiet: #9aa5b1; --line: #3a424c;
  --ground: #14171b; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 90rem; margin: 2rem auto; padding: 0 1.25rem; }
main { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; overflow: visible; }
figcaption { color: var(--quiet); font-size: .85rem; }
table { border-collapse: collapse; margin-bottom: 1.5rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); font-weight: 400; overflow-wrap: anywhere; }
"""


def write_page(path: Path, runs: Sequence[Path]) -> Path:
    """Write the page: a chart for each metric that a run logged, and the options that differ.

    Raises ValueError for more runs than colours, and for a folder without metrics.
    """
    if len(runs) > len(PALETTE):
        raise ValueError(f"at most {len(PALETTE)} runs can be told apart, not {len(runs)}")
    curves = {name: _metrics(run) for name, run in zip(_names(runs), runs, strict=True)}
    charts = "".join(_chart(metric, curves) for metric in _in_order(curves))
    title = " and ".join(html.escape(name) for name in curves)
    body = f"<h1>{title}</h1>{_options(dict(zip(curves, runs, strict=True)))}<main>{charts}</main>"
    policy = content_policy([STYLE, chart.STYLE])
    saved_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n",
    )
    return path


def _metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    rows: list[dict[str, Any]] = read_jsonl(file, METRICS_LINE) if file.is_file() else []
    if not rows:
        raise ValueError(f"{run} has no metrics: name folders of runs, as `rlhf-pg train` makes")
    return rows


def _names(runs: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, with those above where two are the same."""
    for depth in range(1, 20):
        names = [plain("/".join(run.absolute().parts[-depth:])) for run in runs]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"{runs[0]} is named twice")


def _in_order(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The metrics that some run has, in the order of runs.METRICS, then those of rewards."""
    logged = {name: None for rows in curves.values() for row in rows for name in row}
    known = [name for name in METRICS if name in logged]
    others = [name for name in logged if name not in METRICS]
    return [name for name in (*known, *others) if name not in ("iteration", "seconds")]


def _chart(metric: str, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """One metric of all runs that have it, over iterations."""
    lines = []
    for (run, rows), colour in zip(curves.items(), PALETTE, strict=False):
        points = [
            (float(row["iteration"]), float(row[metric]))
            for row in rows
            if row.get(metric) is not None
        ]
        name = run if len(run) <= LONGEST_NAME else "…" + run[1 - LONGEST_NAME :]
        if points:
            lines.append(Series(points, colour, name, kind="line" if len(points) > 1 else "dots"))
    if not lines:
        return ""
    title = plain(metric).replace("_", " ")
    drawn = picture([panel(title, lines, "iteration")], f"{title} of each run over iterations")
    meaning = html.escape(METRICS.get(metric, ""))
    return f"<figure>{drawn}<figcaption>{meaning}</figcaption></figure>"


def _options(runs: Mapping[str, Path]) -> str:
    """A table of the options in which the runs differ."""
    options = {name: flat(options_of(run)) for name, run in runs.items()}
    every = {option: None for own in options.values() for option in own}
    rows = []
    for option in every:
        values = [plain(str(own.get(option, "–"))) for own in options.values()]
        if len(set(values)) > 1:
            cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
            rows.append(f'<tr><th scope="row">{html.escape(plain(option))}</th>{cells}</tr>')
    if not rows:
        return "<p>Their options are the same.</p>"
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in runs)
    return f"<table><thead><tr><th>option</th>{head}</tr></thead>{''.join(rows)}</table>"
