"""The demo's result as one HTML page: curves, a table, definitions and completions; no script."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.files import saved_text
from rlhf_pg import chart
from rlhf_pg.chart import BLUE, ORANGE, Series, panel, picture, signed, ticks
from rlhf_pg.progress import command
from rlhf_pg.study.web import content_policy

Curve = Sequence[Mapping[str, float]]  # lines of metrics.jsonl

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #5c6670; --line: #d5dae0;
  --ground: #ffffff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --quiet: #9aa5b1; --line: #3a424c;
  --ground: #14171b; --card: #1d2228; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground);
  max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: .4rem; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; } p, dl { max-width: 48rem; }
p.lead { font-size: 1.1rem; } figcaption, .quiet { color: var(--quiet); font-size: .9rem; }
figure { margin: 1.5rem 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figcaption { grid-column: 1 / -1; } svg { width: 100%; height: auto; overflow: visible; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: right; padding: .4rem .7rem;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; font-weight: 400; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } thead th { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.2rem; margin: 1.2rem 0; }
dt { font-weight: 600; } dd { margin: 0; }
h3 { font-size: 1rem; font-weight: 400; margin: 1.4rem 0 .5rem; } h3, .texts, code {
  overflow-wrap: anywhere; }
.texts { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; }
.texts article { background: var(--card); border-radius: 8px; padding: .7rem .9rem; }
.texts b { display: block; font-size: .8rem; color: var(--quiet); font-weight: 600; }
.texts small { display: block; margin-top: .3rem; color: var(--quiet); }
a { color: #1a7fc4; }
code { font: .9em ui-monospace, monospace; background: var(--card); padding: .1rem .3rem;
  border-radius: 4px; }
@media (max-width: 44rem) { body { margin: 1.5rem auto; } th, td { padding: .4rem .35rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; }
  .texts { grid-template-columns: 1fr; } figure svg text { font-size: 14px; } }
"""

# The terms of the page, in the order of the table's rows.
TERMS = {
    "learned reward": "Score of the reward model, which PPO maximises: an imperfect copy of gold.",
    "gold": "Score of a program that parses the text and stands for what people want. It made the "
    "comparisons that the reward model was trained on; the policy never sees it.",
    "KL to base": "How far the policy's distribution of completions is from the base model's, in "
    "nats, units of the natural logarithm (1 nat is 1.44 bits).",
    "entropy": "How uncertain the policy is about the next token, in nats.",
    "distinct-2": "Share of distinct pairs of adjacent words, over all completions together; low "
    "values mean repetition.",
    "EOS rate": "Share of completions that end before the length limit.",
}


def write_page(
    path: Path,
    table: Mapping[str, Mapping[str, float]],
    labels: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Curve],
    accuracy: float,
    config: Any,
) -> Path:
    """Write the page to `path`, and its charts beside it as an .svg.

    `table` holds the metrics of each policy, `labels` the name of each metric to show, `samples`
    completions of every policy, `curves` the metrics of each run; `accuracy` is the reward model's.
    """
    saved_text(path.with_suffix(".svg"), over_optimisation(curves))
    free, near, base = table["without KL"], table["with KL"], table["base"]
    preset = () if config.preset == "full" else ("--preset", config.preset)
    too_short = "This short run does not show it." if free["gold"] > base["gold"] else ""
    inspect = html.escape(command("inspect", path.parent / "with-kl"))
    repeat = html.escape(command("demo", *preset, "--seed", config.seed))
    body = f"""<h1>RLHF on film notes, with and without a KL penalty</h1>
<p class="lead">Without the KL penalty, the learned reward goes from {signed(base["score"])} to
{signed(free["score"])}; gold, a score that stands for what people want and that the policy never
sees, goes from {signed(base["gold"])} to {signed(free["gold"])}. With the penalty, gold ends at
{signed(near["gold"])}.</p>
<p>A language model was trained on film notes (the base model). A reward model was trained on
{config.pairs:,} comparisons of its samples; it agrees with {accuracy:.0%} of held-out ones. PPO
maximised this learned reward twice: with a penalty on the KL divergence from the base model, and
without.</p>
<figure>{"".join(_charts(curves))}<figcaption>Mean learned reward and mean gold score of the 64
completions of each iteration.</figcaption></figure>
<h2>Why gold falls without the penalty</h2>
<p><b>Gold</b> is what we want; the <b>learned reward</b> is what we can train on. It is accurate
only for texts like those that the reward model was trained on. Without the penalty, PPO moves to
unusual texts that the reward model overrates: the learned reward rises while gold falls
(over-optimisation). The penalty keeps the policy near the base model, where the reward model is
accurate. {too_short}</p>
<h2>Means on held-out prompts</h2>
{_table(table, labels)}
<dl>{"".join(f"<dt>{term}</dt><dd>{meaning}</dd>" for term, meaning in TERMS.items())}</dl>
<h2>Completions of held-out prompts</h2>
{_texts(samples)}
<h2>Next</h2>
<p>Every metric and every token's advantage: <a href="with-kl/report.html">the page of the run with
KL</a>, <a href="without-kl/report.html">the page of the run without</a>. <code>{inspect}</code>
writes it again with the true advantages beside the estimated ones.</p>
<p><code>{repeat}</code> repeats this demo.</p>"""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        f'content="{content_policy([STYLE, chart.STYLE])}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>rlhf-pg demo</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )
    saved_text(path, page)
    return path


def over_optimisation(curves: Mapping[str, Curve]) -> str:
    """Learned reward and gold over iterations as one SVG, a panel for each run, on one scale."""
    description = "Learned reward and gold score over iterations, with and without the KL penalty"
    return picture(_panels(curves), description)


def _charts(curves: Mapping[str, Curve]) -> list[str]:
    """The same as one SVG per run, so that narrow pages can stack them."""
    return [
        picture([one], f"Learned reward and gold score over iterations of PPO {name}")
        for name, one in zip(curves, _panels(curves), strict=True)
    ]


def _panels(curves: Mapping[str, Curve]) -> list[Any]:
    values = [row[key] for rows in curves.values() for row in rows for key in ("score", "gold")]
    panels = []
    for name, rows in curves.items():
        last = max(row["iteration"] for row in rows)
        series = [
            Series(
                [(row["iteration"], row[key]) for row in rows], colour, label, signed(rows[-1][key])
            )
            for label, key, colour in (("learned reward", "score", BLUE), ("gold", "gold", ORANGE))
        ]
        whole = [1, *(mark for mark in ticks(0, last) if mark > 1 and mark == int(mark))]
        scale = (min(values), max(values))
        panels.append(
            panel(
                f"PPO {name}: mean score",
                series,
                "iteration",
                (1, last),
                scale,
                whole,
                y_label="score of a completion",
            )
        )
    return panels


def _table(table: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> str:
    head = "".join(f'<th scope="col">{html.escape(policy)}</th>' for policy in table)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{_decimal(metrics[key])}</td>" for metrics in table.values())
        + "</tr>"
        for key, label in labels.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _decimal(value: float) -> str:
    """Two decimals, a proper minus sign, and no minus zero."""
    text = f"{value:.2f}".replace("-", "−")
    return text.lstrip("−") if float(f"{value:.2f}") == 0 else text


def _texts(samples: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for prompt in dict.fromkeys(row["prompt"] for row in samples):
        parts.append(f"<h3>{html.escape(prompt)}</h3><div class='texts'>")
        for row in (row for row in samples if row["prompt"] == prompt):
            cut = "" if row["finished"] else " … (cut at the length limit)"
            scores = f"learned reward {signed(row['score'])}, gold {signed(row['gold'])}"
            parts.append(
                f"<article><b>{html.escape(row['policy'])}</b>{html.escape(row['completion'])}{cut}"
                f"<small>{scores}</small></article>"
            )
        parts.append("</div>")
    return "".join(parts)
