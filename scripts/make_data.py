"""Write the film-notes data set: a corpus, prompts and preference pairs, from a seed.

The same seed gives the same bytes on every machine. No language model takes part.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it also runs where the package is not installed

from film_notes_writer import note  # noqa: E402

from reward_models.film_notes import gold_score  # noqa: E402
from reward_models.film_notes_lexicon import (  # noqa: E402
    ADJECTIVES,
    GENRES,
    NOUNS,
    PROMPTS,
    article,
    be,
)

NOTES = {"train": 6000, "test": 500}
PAIRS = {"train": 4000, "test": 500}
HELD_OUT = 28  # combinations of genre and aspect whose prompts occur in the test files alone
CHOICE_NOISE = 1.0  # P(chosen) = sigmoid(difference in gold / noise)
CORRUPTED = 0.1  # share of pairs in which one side carries a slip such as a language model makes

Subject = tuple[str, str, str]  # prompt, genre, noun


def slip(rng: random.Random, text: str) -> str:
    """Spoil a completion as a language model might."""
    words, sentences = text.split(), text.split(" .")[:-1]
    at = rng.randrange(len(words))
    form = rng.choice(("drop", "repeat", "swap", "cut"))
    if form == "repeat":
        sentences.insert(at % len(sentences), sentences[at % len(sentences)])
        return "".join(f"{sentence} ." for sentence in sentences)
    if form == "cut":
        words = words[: max(at, 3)]
    if form == "drop":
        del words[at]
    adjectives = [i for i, word in enumerate(words) if word in ADJECTIVES]
    if form == "swap" and adjectives:
        words[rng.choice(adjectives)] = rng.choice(list(ADJECTIVES))
    return " " + " ".join(words)


def subjects(seed: int) -> dict[str, list[Subject]]:
    """All prompts, split by combinations of genre and aspect."""
    combinations = [(genre, noun) for genre in GENRES for noun in NOUNS]
    random.Random(f"{seed} prompts").shuffle(combinations)
    parts = {"train": combinations[HELD_OUT:], "test": combinations[:HELD_OUT]}
    return {
        split: [
            (prompt.format(a_genre=article(genre), noun=noun, be=be(noun)), genre, noun)
            for genre, noun in part
            for prompt in PROMPTS
        ]
        for split, part in parts.items()
    }


def corpus(rng: random.Random, asked: list[Subject], count: int) -> Iterator[dict[str, str]]:
    for _ in range(count):
        prompt, genre, noun = rng.choice(asked)
        yield {"text": prompt + note(rng, genre, noun)}


def preferences(rng: random.Random, asked: list[Subject], count: int) -> Iterator[dict[str, str]]:
    """Pairs of notes, chosen with P = sigmoid(difference in gold / CHOICE_NOISE)."""
    for _ in range(count):
        prompt, genre, noun = rng.choice(asked)
        first, second = note(rng, genre, noun), note(rng, genre, noun)
        if rng.random() < CORRUPTED:
            second = slip(rng, second)
        margin = gold_score(prompt, first) - gold_score(prompt, second)
        if rng.random() > 1 / (1 + math.exp(-margin / CHOICE_NOISE)):
            first, second = second, first
        yield {"prompt": prompt, "chosen": first, "rejected": second}


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(lines.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "data" / "film_notes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for split, asked in subjects(args.seed).items():
        # A stream of its own for each file, so that the size of one does not change another.
        notes, pairs = (random.Random(f"{args.seed} {name} {split}") for name in ("notes", "pairs"))
        write(args.output / f"prompts.{split}.jsonl", ({"prompt": row[0]} for row in asked))
        write(args.output / f"corpus.{split}.jsonl", corpus(notes, asked, NOTES[split]))
        write(args.output / f"preferences.{split}.jsonl", preferences(pairs, asked, PAIRS[split]))


if __name__ == "__main__":
    main()
