"""The shipped data is what the generator makes, and every clean note is a good citizen."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

from reward_models.film_notes import VOCABULARY, breakdown, genre_and_aspect, gold_score, parse
from reward_models.film_notes_lexicon import GENRES, NOUNS

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "film_notes"
FILES = [
    f"{kind}.{s}.jsonl" for kind in ("corpus", "prompts", "preferences") for s in ("train", "test")
]
SPLITS = ("train", "test")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def prompts(split: str) -> set[str]:
    return {row["prompt"] for row in rows(f"prompts.{split}.jsonl")}


def notes(split: str) -> list[tuple[str, str]]:
    """The corpus as prompts and completions; a prompt ends with the first ":" or "?" that fits."""
    known = prompts(split)
    pairs = []
    for row in rows(f"corpus.{split}.jsonl"):
        ends = [m.end() for m in re.finditer(" [:?]", row["text"])]
        end = next(end for end in ends if row["text"][:end] in known)
        pairs.append((row["text"][:end], row["text"][end:]))
    return pairs


def make(folder: Path, *options: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make_data.py"), "--output", str(folder)]
    subprocess.run([*command, *options], check=True)


def test_the_generator_reproduces_the_shipped_files_byte_for_byte(tmp_path: Path) -> None:
    make(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), name


def test_another_seed_gives_other_data_of_the_same_size(tmp_path: Path) -> None:
    make(tmp_path, "--seed", "1")
    for name in FILES:
        other, shipped = (tmp_path / name).read_bytes(), (DATA / name).read_bytes()
        assert other != shipped and other.count(b"\n") == shipped.count(b"\n"), name


def test_train_and_test_share_no_combination_of_genre_and_aspect() -> None:
    train, test = ({genre_and_aspect(prompt) for prompt in prompts(split)} for split in SPLITS)
    assert train.isdisjoint(test)
    assert train | test == {(genre, noun) for genre in GENRES for noun in NOUNS}
    assert prompts("train").isdisjoint(prompts("test"))
    assert len(prompts("train")) == len(rows("prompts.train.jsonl")) > 150
    for split in SPLITS:
        assert {row["prompt"] for row in rows(f"preferences.{split}.jsonl")} <= prompts(split)


@pytest.mark.parametrize("split", SPLITS)
def test_every_note_parses_wholly_and_pays_no_penalty(split: str) -> None:
    for prompt, completion in notes(split):
        assert None not in parse(completion), completion
        assert 2 <= len(parse(completion)) <= 4 and len(completion.split()) <= 44
        parts = breakdown(prompt, completion)
        paid = {name for name, value in parts.items() if value < 0}
        assert paid <= {"valence"}, (completion, paid)


def test_texts_are_lower_case_words_with_single_spaces() -> None:
    form = re.compile(r"[a-z]+( ([a-z]+|[.,:?]))+")
    assert all(form.fullmatch(row["text"]) for row in rows("corpus.train.jsonl"))
    for row in rows("preferences.train.jsonl"):
        for side in ("chosen", "rejected"):
            assert form.fullmatch(row["prompt"] + row[side])


def test_articles_and_verbs_agree_in_prompts_and_notes() -> None:
    wrong = re.compile(
        r"\ba [aeiou]|\ban [^aeiou]|\b(jokes|songs|costumes|sets) is\b|the [a-z ]*[^s] are\b"
    )
    texts = [
        *prompts("train"),
        *prompts("test"),
        *(row["text"] for row in rows("corpus.train.jsonl")),
    ]
    assert [text for text in texts if wrong.search(text)] == []


def test_the_corpus_uses_every_word_of_the_vocabulary_and_no_other() -> None:
    used = {word for row in rows("corpus.train.jsonl") for word in row["text"].split()}
    assert sorted(used) == VOCABULARY


def test_the_corpus_is_average_so_that_learning_has_room() -> None:
    scores = [gold_score(*note) for note in notes("train")]
    assert 0.5 < mean(scores) < 1.1 and 1.2 < stdev(scores) < 1.8
    assert 0.45 < mean(score > 0.8 for score in scores) < 0.6
    assert len({completion for _, completion in notes("train")}) > 5900


@pytest.mark.parametrize("split", SPLITS)
def test_preferences_follow_the_gold_with_noise(split: str) -> None:
    pairs = [
        [gold_score(row["prompt"], row[side]) for side in ("chosen", "rejected")]
        for row in rows(f"preferences.{split}.jsonl")
    ]
    assert 0.76 < mean(chosen > rejected for chosen, rejected in pairs) < 0.84
    close = [chosen > rejected for chosen, rejected in pairs if 0 < abs(chosen - rejected) < 0.5]
    clear = [chosen > rejected for chosen, rejected in pairs if abs(chosen - rejected) > 3]
    assert mean(close) < 0.65 and mean(clear) > 0.93


def test_slips_are_few() -> None:
    """Penalties are rare in the pairs, so a model fitted to them learns valence above all."""
    pairs = rows("preferences.train.jsonl")
    spoilt = sum(
        any(v < 0 for k, v in breakdown(row["prompt"], row[side]).items() if k != "valence")
        for row in pairs
        for side in ("chosen", "rejected")
    )
    assert 0.05 < spoilt / len(pairs) < 0.1


def test_the_card_states_the_counts_and_the_folder_is_small() -> None:
    card = (DATA / "README.md").read_text()
    for name in FILES:
        assert f"| `{name}` | {len(rows(name)):,} |" in card
    assert f"{len(VOCABULARY)} words" in card
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 2.5e6
