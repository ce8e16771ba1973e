"""`rlhf-pg study credit` of a reward model: what each token of a text adds to its score.

Two answers, both in units of the normalised score. By prefix: r(tokens up to t) - r(tokens before
t); over a text these sum to its score minus the prompt's. By deletion: r(text) - r(text without
token t), an occlusion (Zeiler & Fergus 2013, arXiv 1311.2901), which takes later words into
account. A reward model is trained on whole texts, so its scores of prefixes are extrapolations.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from reward_models.files import reward_model_folder, saved_text
from reward_models.reward_model import RewardModel
from rlhf_pg.language import data
from rlhf_pg.language.config import FILM_NOTES
from rlhf_pg.language.conversations import has_conversations
from rlhf_pg.language.data import Rows
from rlhf_pg.language.token_records import piece
from rlhf_pg.progress import console, plain
from rlhf_pg.runs import options_of
from rlhf_pg.study.config import CreditConfig
from rlhf_pg.study.report.reward_page import write_page
from rlhf_pg.trust import check

SHOWN = 10  # words of each end of the table


class Scored(NamedTuple):
    """A text to explain; `finished` says whether EOS follows it."""

    prompt: str
    completion: str
    finished: bool = True


def reward_credit(config: CreditConfig) -> list[dict[str, Any]]:
    """Explain texts of a reward model, print its best and worst words, and write
    reward_credit.jsonl and reward_credit.html; returns the records.

    Raises ValueError if no texts are known, or they are those of somebody else's run.
    """
    folder = reward_model_folder(config.run)
    assert folder is not None
    run = folder.parent if folder.name == "reward_model" else folder
    model = RewardModel.from_pretrained(folder)
    rows = _rows(config, run)
    texts = texts_of(rows, config.data or str(run), model.tokenizer)
    count = min(config.completions, len(texts))
    chosen = [texts[i * len(texts) // count] for i in range(count)]
    records = [record(model, text) for text in chosen]
    output = Path(config.output) if config.output else run
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in records)
    saved_text(output / "reward_credit.jsonl", "".join(lines))
    words = by_word(records)
    page = write_page(output / "reward_credit.html", str(config.run), records, words)
    _show(words)
    console.print(f"saved in {output}: reward_credit.jsonl; open {page} in a browser", markup=False)
    return records


def _rows(config: CreditConfig, run: Path) -> Rows:
    """The rows of the given data, else the held-out data that the run was tested on."""
    source, columns = config.data, None
    if source is None:
        options = options_of(run)
        source, columns = options.get("test") or options.get("data"), options.get("columns")
        if source is None:
            raise ValueError(f"{run} names no texts: give --data")
        check(run, {"data": source}, config.trust, flags=("data",))
    path = data.film_notes("preferences", "test") if source == FILM_NOTES else source
    return data.renamed(data.load(path, "test"), columns, source)


def texts_of(rows: Rows, source: str, tokenizer: Any) -> list[Scored]:
    """Both completions of pairs, or the texts of any other rows."""
    if data.form_of(rows, "preferences", source):
        pairs = data.parse(rows, "preferences", source, tokenizer)
        ended: list[list[bool]] = [
            [x is not False for x in pairs.get(f"{side}_finished", [True] * len(pairs["prompt"]))]
            for side in ("chosen", "rejected")
        ]
        columns = zip(pairs["prompt"], pairs["chosen"], pairs["rejected"], *ended, strict=True)
        return [
            Scored(prompt, text, end)
            for prompt, good, bad, good_end, bad_end in columns
            for text, end in ((good, good_end), (bad, bad_end))
        ]
    form = data.form_of(rows, "corpus", source)
    whole = data.parse(rows, "corpus", source, tokenizer)["text"]
    if form == ["prompt", "completion"] and not has_conversations(rows, form):
        return [Scored(*pair) for pair in zip(rows["prompt"], rows["completion"], strict=True)]
    return [Scored("", text) for text in whole]


def record(model: RewardModel, text: Scored) -> dict[str, Any]:
    """A text's score and, of each token of its completion (EOS included), what it adds.

    `prefix` is None for the first token of all, `deletion` for the only one. The tokens of the
    completion are those after the longest beginning that the tokenised prompt shares with the whole
    text.
    """
    (row,) = model.encode_whole([text.prompt], [text.completion], [text.finished])
    head = model.encode_whole([text.prompt], [""], [False])[0] if text.prompt else []
    start = 0
    while start < min(len(head), len(row) - 1) and head[start] == row[start]:
        start += 1
    places = range(start, len(row))
    prefixes = [row[: end + 1] for end in places]
    before = [row[:start]] if start else []
    deleted = [row[:t] + row[t + 1 :] for t in places] if len(row) > 1 else []
    rows = [model.cut(tokens) for tokens in (*before, *prefixes, *deleted)]
    raw = [(x - model.mean) / model.std for x in model.score_rows(rows).double().tolist()]
    first: list[float | None] = [None] if not start else []
    scores = [*first, *raw[: len(before) + len(prefixes)]]
    without = raw[len(before) + len(prefixes) :]
    tokens = []
    for i, t in enumerate(places):
        earlier, score = scores[i], scores[i + 1]
        assert score is not None
        tokens.append(
            {
                "token": piece(model.tokenizer, row[:t], row[t]),
                "prefix": None if earlier is None else round(score - earlier, 6),
                "deletion": round(scores[-1] - without[i], 6) if without else None,  # type: ignore[operator]
            }
        )
    about = {"prompt": text.prompt, "completion": text.completion, "finished": text.finished}
    return {**about, "score": round(scores[-1] or 0.0, 6), "tokens": tokens}


def by_word(records: Sequence[dict[str, Any]], least: int = 2) -> list[dict[str, Any]]:
    """Tokens that occur at least so often, by their mean effect of deletion, the greatest first."""
    found: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for row in records:
        for token in row["tokens"]:
            found[token["token"].strip()].append(token)
    words = []
    for word, tokens in found.items():
        means = {
            name: sum(values) / len(values) if values else None
            for name in ("deletion", "prefix")
            if (values := [x for token in tokens if (x := token[name]) is not None]) is not None
        }
        if len(tokens) >= least and means["deletion"] is not None:
            words.append({"word": word, "count": len(tokens), **means})
    return sorted(words, key=lambda row: -row["deletion"])


def _show(words: list[dict[str, Any]]) -> None:
    """The words that raise and lower the score most."""
    table = Table(
        "word", "times", "by deletion", "by prefix", title="Words that pay, and that cost"
    )
    ends = [*words[:SHOWN], *words[max(SHOWN, len(words) - SHOWN) :]]
    for row in ends:
        prefix = "–" if row["prefix"] is None else f"{row['prefix']:+.3f}"
        table.add_row(
            Text(plain(row["word"])), str(row["count"]), f"{row['deletion']:+.3f}", prefix
        )
    console.print(table)
