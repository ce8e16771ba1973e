"""The demo's story on one page: a picture, a table and the texts. Offline, no script."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_pg.chart import BLUE, ORANGE, Series, panel, picture, signed

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #5c6670; --line: #d5dae0;
  --ground: #ffffff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --quiet: #9aa5b1; --line: #3a424c;
  --ground: #14171b; --card: #1d2228; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: .4rem; } h2 { margin-top: 2.4rem; }
p.lead, figcaption, .quiet { color: var(--quiet); }
figure { margin: 1.5rem 0; display: flex; flex-wrap: wrap; gap: 1.5rem; }
figcaption { flex-basis: 100%; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .4rem .7rem;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } thead th { font-weight: 600; }
.texts { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; margin-bottom: 1.6rem; }
.texts article { background: var(--card); border-radius: 8px; padding: .7rem .9rem;
  overflow-wrap: anywhere; }
.texts b { display: block; font-size: .8rem; color: var(--quiet); font-weight: 600; }
.texts small { color: var(--quiet); } @media (max-width: 44rem) { .texts {
  grid-template-columns: 1fr; } }
"""


def write_page(
    path: Path,
    table: Mapping[str, Mapping[str, float]],
    labels: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    accuracy: float,
    config: Any,
) -> Path:
    """Write the page, and the picture alone beside it as an .svg."""
    drawing = over_optimisation(curves)
    path.with_suffix(".svg").write_text(drawing, encoding="utf-8")
    without, near = table["without KL"], table["with KL"]
    lead = (
        f"Without the KL term, the learned reward goes from {signed(table['base']['score'])} to "
        f"{signed(without['score'])} while the gold score, which the policy never sees, goes from "
        f"{signed(table['base']['gold'])} to {signed(without['gold'])}. With it, gold ends at "
        f"{signed(near['gold'])}."
    )
    body = f"""<h1>Film notes: maximising a learned reward, with and without a KL penalty</h1>
<p class="lead">{lead}</p>
<figure>{drawing}<figcaption>PPO, {config.iterations} rollouts of 64 completions, toward a reward
model that agrees with {accuracy:.0%} of held-out choices. Each point is the mean of one rollout.
</figcaption></figure>
<h2>Means on prompts that no run was trained on</h2>
{_table(table, labels)}
<h2>The same prompts, answered by each</h2>
{_texts(samples)}
<p class="quiet">Repeat it with <code>rlhf-pg demo --seed {config.seed}</code>.</p>"""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>rlhf-pg demo</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")
    return path


def over_optimisation(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Learned reward and gold over iterations, one panel for each run, on one scale (SVG)."""
    values = [row[key] for rows in curves.values() for row in rows for key in ("score", "gold")]
    panels = []
    for way, rows in curves.items():
        last = max(row["iteration"] for row in rows)
        series = [
            Series(
                [(row["iteration"], row[key]) for row in rows],
                colour,
                name,
                signed(rows[-1][key]),
            )
            for name, key, colour in (("learned reward", "score", BLUE), ("gold", "gold", ORANGE))
        ]
        scale = (min(values), max(values))
        panels.append(panel(f"PPO {way}", series, "iteration", (1, last), scale, (1, last)))
    return picture(
        panels, "Learned reward and gold score over iterations, with and without the KL term"
    )


def _table(table: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> str:
    head = "".join(f"<th>{html.escape(way)}</th>" for way in table)
    rows = "".join(
        f"<tr><td>{html.escape(label)}</td>"
        + "".join(f"<td>{metrics[key] + 0:.2f}</td>" for metrics in table.values())
        + "</tr>"
        for key, label in labels.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _texts(samples: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for prompt in dict.fromkeys(row["prompt"] for row in samples):
        parts.append(f"<p>{html.escape(prompt)}</p><div class='texts'>")
        for row in (row for row in samples if row["prompt"] == prompt):
            cut = "" if row["finished"] else " … (cut)"
            scores = f"learned {signed(row['score'])}, gold {signed(row['gold'])}"
            parts.append(
                f"<article><b>{html.escape(row['policy'])}</b>{html.escape(row['completion'])}{cut}"
                f"<br><small>{scores}</small></article>"
            )
        parts.append("</div>")
    return "".join(parts)
