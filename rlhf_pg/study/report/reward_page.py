"""The credit of a reward model as one HTML file without a script: texts with coloured tokens."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_models.files import saved_text
from rlhf_pg.chart import signed
from rlhf_pg.study.web import content_policy

LEVELS = 5  # of colour, on each side of 0
TEXTS, WORDS = 200, 15  # shown: texts, and words at each end of the table
VIEWS = {
    "deletion": "The score minus that of the text without this token.",
    "prefix": "The score of the text up to this token minus that of the text before it.",
}


def style() -> str:
    """The page's CSS, with a class for every level of colour."""
    shades = [
        f".{side}{level} {{ background: rgb({colour} / {0.8 * level / LEVELS:.2f}); }}"
        for side, colour in (("p", "0 114 178"), ("n", "213 94 0"))
        for level in range(1, LEVELS + 1)
    ]
    return "\n".join(
        [
            ":root { color-scheme: light dark; }",
            "body { font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; "
            "padding: 0 1.2rem; overflow-wrap: anywhere; }",
            ".quiet { opacity: .65; } article { margin: 1.4rem 0; } p { margin: .25rem 0; }",
            "table { border-collapse: collapse; } td, th { text-align: right; padding: .2rem .8rem;"
            " border-bottom: 1px solid rgb(128 128 128 / .35); }",
            "td:first-child, th:first-child { text-align: left; padding-left: 0; }",
            "span { white-space: pre-wrap; border-radius: 3px; }",
            *shades,
        ]
    )


def write_page(
    path: Path,
    name: str,
    records: Sequence[Mapping[str, Any]],
    words: Sequence[Mapping[str, Any]],
) -> Path:
    """Write the page atomically and return its path."""
    saved_text(path, document(name, records, words))
    return path


def document(
    name: str, records: Sequence[Mapping[str, Any]], words: Sequence[Mapping[str, Any]]
) -> str:
    """The page as text; texts are escaped, so nothing in them is markup."""
    css, title = style(), f"What {html.escape(name)} pays for"
    scales = {view: _scale(records, view) for view in VIEWS}
    terms = "".join(f"<p><b>by {view}</b>: {text}</p>" for view, text in VIEWS.items())
    shown = "".join(_article(record, scales) for record in records[:TEXTS])
    left_out = len(records) - TEXTS
    note = f"<p>{left_out} more are in reward_credit.jsonl.</p>" if left_out > 0 else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy([css])}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{css}</style></head><body><h1>{title}</h1>"
        f"<p>Blue tokens raise the score, orange ones lower it.</p>{terms}"
        f"<h2>Words</h2>{_words(words)}<h2>Texts</h2>{shown}{note}</body></html>"
    )


def _scale(records: Sequence[Mapping[str, Any]], view: str) -> float:
    """The change that gets the strongest colour: the 98th percentile of all."""
    sizes = sorted(abs(t[view]) for r in records for t in r["tokens"] if t[view] is not None)
    return (sizes[int(0.98 * (len(sizes) - 1))] if sizes else 0.0) or 1.0


def _article(record: Mapping[str, Any], scales: Mapping[str, float]) -> str:
    prompt = html.escape(record["prompt"])
    lines = "".join(
        f'<p><small class="quiet">by {view}</small> '
        + "".join(_token(token, view, scales[view]) for token in record["tokens"])
        + "</p>"
        for view in VIEWS
    )
    score = signed(record["score"], 2)
    return f'<article><p><b>{score}</b> <span class="quiet">{prompt}</span></p>{lines}</article>'


def _token(token: Mapping[str, Any], view: str, scale: float) -> str:
    text, change = html.escape(token["token"]), token[view]
    if change is None:
        return f"<span>{text}</span>"
    level = min(LEVELS, round(LEVELS * abs(change) / scale))
    shade = f' class="{"p" if change > 0 else "n"}{level}"' if level else ""
    return f'<span{shade} title="{signed(change, 3)}">{text}</span>'


def _words(words: Sequence[Mapping[str, Any]]) -> str:
    rows = [*words[:WORDS], *words[max(WORDS, len(words) - WORDS) :]]
    cells = "".join(
        f"<tr><td>{html.escape(row['word'])}</td><td>{row['count']}</td>"
        f"<td>{signed(row['deletion'], 3)}</td>"
        f"<td>{'–' if row['prefix'] is None else signed(row['prefix'], 3)}</td></tr>"
        for row in rows
    )
    heads = "".join(f"<th>{head}</th>" for head in ("word", "times", "by deletion", "by prefix"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"
