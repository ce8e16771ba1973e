"""`rlhf-pg label`: a person judges pairs of completions in the terminal, with one key each.

FOLDER/
  judgements.jsonl    one line per key pressed, append-only; written to disk before the next pair
  preferences.jsonl   the pairs decided so far, as `rlhf-pg reward --data` reads them
"""

import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from reward_models.files import saved_text
from reward_models.loading import load_reward
from reward_models.pretrained import limit_threads, usable_device
from rlhf_pg.language import data, models
from rlhf_pg.language.check import check_model
from rlhf_pg.language.config import LabelConfig
from rlhf_pg.language.loaded import with_run_options
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward, score_completions
from rlhf_pg.language.sampling import check_rows_fit, sample
from rlhf_pg.progress import Progress, command, console

KEYS = {
    "\x1b[D": "left", "\x1bOD": "left", "a": "left", "h": "left", "1": "left",
    "\x1b[C": "right", "\x1bOC": "right", "d": "right", "l": "right", "2": "right",
    "t": "tie", "=": "tie", "0": "tie",
    "s": "skip", " ": "skip",
    "u": "undo", "\x7f": "undo",
    "q": "quit", "\x04": "quit",
}  # fmt: skip
HELP = "← or a: left   → or d: right   t: tie   s: skip   u: undo   q: stop"


def label(config: LabelConfig) -> None:
    """Let a person judge pairs; judgements made so far are kept on any exit."""
    config = with_run_options(config)
    with keys() as read_key:
        kept = Judgements(Path(config.output))
        reward = load_reward(config.reward) if config.reward else None
        pairs = make_pairs(config, reward, skip=len(kept.made))
        judge(pairs, kept, read_key)
    decided = kept.folder / "preferences.jsonl"
    if count := len(kept.preferences()):
        console.print(f"{count} pair{'s'[: count - 1]} in {decided}; learn from them with:")
        console.print(command("reward", "--data", decided), markup=False)


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, as shown; the person does not see the scores."""

    prompt: str
    left: str
    right: str
    left_finished: bool = True
    right_finished: bool = True
    left_score: float | None = None  # by the current reward model
    right_score: float | None = None


class Judgements:
    """The judgements in a folder, stored line by line; an existing folder is continued."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "judgements.jsonl"
        self.made: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        text = self.file.read_text(encoding="utf-8") if self.file.is_file() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a session that was killed while it wrote
            self._take(row)
        if text and not text.endswith("\n"):
            self._append("\n")
        self._write_preferences()

    def _take(self, row: dict[str, Any]) -> None:
        if row["judgement"] != "undo":
            self.made.append(row)
        elif self.made:
            self.made.pop()

    def add(self, pair: Pair, judgement: str) -> None:
        """Keep a judgement ("left", "right", "tie" or "skip") of a pair."""
        self._record({**vars(pair), "judgement": judgement})

    def undo(self) -> Pair | None:
        """Take the last judgement back; returns its pair, to be judged again."""
        if not self.made:
            return None
        last = self.made[-1]
        self._record({"judgement": "undo"})
        return Pair(**{key: value for key, value in last.items() if key != "judgement"})

    def _record(self, row: dict[str, Any]) -> None:
        self._append(json.dumps(row, ensure_ascii=False) + "\n")
        self._take(row)
        self._write_preferences()

    def _append(self, text: str) -> None:
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _write_preferences(self) -> None:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.preferences()]
        saved_text(self.folder / "preferences.jsonl", "".join(lines))

    def preferences(self) -> list[dict[str, Any]]:
        """The decided pairs, without ties and skipped pairs."""
        rows = []
        for row in self.made:
            if row["judgement"] in ("left", "right"):
                better = row["judgement"]
                worse = "right" if better == "left" else "left"
                rows.append(
                    {
                        "prompt": row["prompt"],
                        "chosen": row[better],
                        "rejected": row[worse],
                        "chosen_finished": row[f"{better}_finished"],
                        "rejected_finished": row[f"{worse}_finished"],
                    }
                )
        return rows

    def agreement(self) -> tuple[int, int]:
        """(how often the reward model preferred the same, of how many decided pairs it scored)."""
        agreed = [
            (row["left_score"] > row["right_score"]) == (row["judgement"] == "left")
            for row in self.made
            if row["judgement"] in ("left", "right")
            and None not in (row["left_score"], row["right_score"])
        ]
        return sum(agreed), len(agreed)

    def seen(self, pair: Pair) -> bool:
        """Whether the pair was judged before, in either order."""
        texts = {pair.left, pair.right}
        return any(
            row["prompt"] == pair.prompt and {row["left"], row["right"]} == texts
            for row in self.made
        )


def judge(pairs: Sequence[Pair], judgements: Judgements, read_key: Callable[[], str]) -> None:
    """Show each pair and record a judgement, until all are judged or the person stops."""
    waiting = [pair for pair in pairs if not judgements.seen(pair)][::-1]
    total, note = len(waiting), ""
    while waiting:
        _show(waiting[-1], total - len(waiting) + 1, total, judgements, note)
        answer = KEYS.get(read_key())
        note = ""
        if answer == "quit":
            return
        if answer == "undo":
            pair = judgements.undo()
            if pair:
                waiting.append(pair)
                total = max(total, len(waiting))
            note = "taken back" if pair else "there is nothing to take back"
        elif answer:
            pair = waiting.pop()
            judgements.add(pair, answer)
            note = _compared(pair, answer)
        else:
            note = "that key means nothing here"
    _show(None, total, total, judgements, note)


def _compared(pair: Pair, answer: str) -> str:
    """The judgement and the reward model's own preference, shown after the judgement."""
    if answer not in ("left", "right") or pair.left_score is None or pair.right_score is None:
        return {"tie": "a tie", "skip": "skipped"}.get(answer, answer)
    difference = pair.left_score - pair.right_score
    same = (difference > 0) == (answer == "left")
    how = "agrees" if same else "disagrees"
    return f"{answer}; the reward model {how} (it sees a difference of {abs(difference):.2f})"


def _show(pair: Pair | None, number: int, total: int, kept: Judgements, note: str) -> None:
    console.clear()
    agreed, scored = kept.agreement()
    status = f"{len(kept.made)} judged, {len(kept.preferences())} decided"
    if scored:
        status += f"; the reward model agrees with {agreed} of {scored} ({agreed / scored:.0%})"
    if note:
        console.print(Text(note, "cyan"))
    console.print(Text(status, "dim"))
    if pair is None:
        return
    console.rule(Text(f"pair {number} of {total}"))
    console.print(Text(pair.prompt, "bold"))
    table = Table("left", "right", expand=True, show_lines=True)
    sides = ((pair.left, pair.left_finished), (pair.right, pair.right_finished))
    table.add_row(*(Text(text.strip() + ("" if end else " … cut")) for text, end in sides))
    console.print(table)
    console.print(Text(HELP, "dim"))


@contextmanager
def keys() -> Iterator[Callable[[], str]]:
    """Single key presses from the terminal, which is put back as it was whatever happens.

    Raises ValueError where there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError("label needs a terminal to show pairs in and to read keys from")
    try:
        import termios
        import tty
    except ImportError:
        raise ValueError("label reads single keys by termios, which this system lacks") from None
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    waiting = ""  # what was pressed faster than it is read

    def read() -> str:
        nonlocal waiting
        if not waiting:
            pressed = os.read(descriptor, 64)
            if not pressed:  # the terminal is gone
                return "q"
            waiting = pressed.decode("utf-8", "replace")
        length = 3 if waiting.startswith("\x1b") else 1  # an arrow is three characters
        key, waiting = waiting[:length], waiting[length:]
        return key if length > 1 else key.lower()

    try:
        tty.setcbreak(descriptor)
        yield read
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


# Which pairs to show: those whose scores differ least come first, since a judgement of a clear pair
# would mostly repeat what the reward model knows (uncertainty sampling, Lewis & Gale 1994; for
# preferences, Christiano et al. 2017, arXiv 1706.03741).


def make_pairs(config: LabelConfig, reward: Reward | None, skip: int = 0) -> list[Pair]:
    """At most `count` pairs of different completions, the smallest score difference first.

    `skip` advances the seed, so that a continued session samples new pairs. Every prompt gives one
    pair before any gives a second. Raises ValueError for options that make no pairs.
    """
    config = with_run_options(config)
    assert config.data and config.max_new_tokens and config.temperature
    model, tokenizer = models.load(config.model)
    limit_threads(model)
    device = usable_device("cpu" if config.device == "cpu" else None)
    policy = LanguagePolicy(model, config.temperature, "none").to(device)
    prompts = data.read(config.data, "prompts", tokenizer=tokenizer, columns=config.columns)
    columns = data.spread(prompts, config.count)
    data.check_prompt_lengths(model, tokenizer, columns["prompt"], config.max_new_tokens)
    check_model(policy, tokenizer, columns["prompt"], config.max_new_tokens, config.model)
    rows = min(32, len(columns["prompt"])) * config.samples_per_prompt
    check_rows_fit(model, rows, config.max_new_tokens, "--samples_per_prompt", device)
    generator = torch.Generator().manual_seed(config.seed + 1_000 * skip)
    sides = random.Random(config.seed + skip)
    ranked: list[tuple[int, float, Pair]] = []  # (rank within its prompt, score difference, pair)
    with Progress(len(columns["prompt"]), "sampling pairs") as progress:
        for start in range(0, len(columns["prompt"]), 32):
            stop = min(start + 32, len(columns["prompt"]))
            part = data.repeated(columns, range(start, stop), config.samples_per_prompt)
            ranked += _candidates(policy, tokenizer, part, config, reward, generator, sides)
            progress.update(stop)
    ranked.sort(key=lambda candidate: candidate[:2])
    return [pair for _, _, pair in ranked[: config.count]]


def _candidates(
    policy: LanguagePolicy,
    tokenizer: Any,
    columns: data.Rows,
    config: LabelConfig,
    reward: Reward | None,
    generator: torch.Generator,
    sides: random.Random,
) -> list[tuple[int, float, Pair]]:
    """All pairs of a few prompts, ranked within each."""
    assert config.max_new_tokens
    prompts = columns["prompt"]
    completions = sample(policy, tokenizer, prompts, config.max_new_tokens, generator)
    scores: list[float | None] = [None] * len(prompts)
    if reward is not None:
        given = score_completions(reward, completions, columns)[0]
        scores = [None if math.isnan(score) else score for score in given.tolist()]
    candidates = []
    for first in range(0, len(prompts), config.samples_per_prompt):
        own = []
        for pair in combinations(range(first, first + config.samples_per_prompt), 2):
            a, b = pair if sides.random() < 0.5 else pair[::-1]
            if completions.texts[a] == completions.texts[b]:
                continue
            gap = sides.random() if reward is None else _gap(scores[a], scores[b])
            shown = Pair(
                prompts[a],
                completions.texts[a],
                completions.texts[b],
                bool(completions.finished[a]),
                bool(completions.finished[b]),
                scores[a],
                scores[b],
            )
            own.append((gap, shown))
        own.sort(key=lambda candidate: candidate[0])
        candidates += [(rank, gap, shown) for rank, (gap, shown) in enumerate(own)]
    return candidates


def _gap(a: float | None, b: float | None) -> float:
    """The difference of two scores; infinite if the reward does not apply to one of them."""
    return math.inf if a is None or b is None else abs(a - b)
