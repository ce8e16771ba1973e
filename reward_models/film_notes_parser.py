"""A parser for the film-notes language: what a note says, sentence by sentence."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from reward_models.film_notes_lexicon import (
    ADJECTIVES,
    FACTS,
    FEELINGS,
    GENRES,
    INTENSIFIERS,
    NEGATION,
    NOUNS,
    PREDICATES,
    UNFELT,
    VERDICTS,
    article,
    be,
    conjugate,
    noun_phrase,
)


@dataclass(frozen=True)
class Opinion:
    """What a sentence says of one subject: a noun, "film" (the whole) or "verdict"."""

    subject: str
    valence: float


@dataclass(frozen=True)
class Sentence:
    """A sentence of the language: a fact holds no opinion, a coordination holds two."""

    kind: str  # "opinion", "overview", "fact" or "verdict"
    opinions: tuple[Opinion, ...] = ()
    genre: str | None = None  # which genre an overview names

    @property
    def valence(self) -> float:
        """The sum of its opinions' valences."""
        return sum(opinion.valence for opinion in self.opinions)


def parse(completion: str) -> list[Sentence | None]:
    """Read a completion sentence by sentence; None stands for one outside the language."""
    return [parse_sentence(text) for text in split_sentences(completion)]


def split_sentences(text: str) -> list[str]:
    """Sentences without their full stops; words after the last full stop are one too."""
    sentences: list[list[str]] = [[]]
    for word in text.split():
        if word == ".":
            sentences.append([])
        else:
            sentences[-1].append(word)
    return [" ".join(words) for words in (sentences if sentences[-1] else sentences[:-1])]


def asked(prompt: str) -> tuple[str | None, str | None]:
    """The genre and the noun a prompt asks about, None where it names none."""
    genre, noun = _GENRE.search(prompt), _ASKED.search(prompt)
    return genre and genre[0], noun and noun[1]


def _either(words: Iterable[str]) -> str:
    return "|".join(words)


_NOUN, _ADJECTIVE, _HOW = _either(NOUNS), _either(ADJECTIVES), _either(INTENSIFIERS)
_GENRE = re.compile(rf"\b({_either(GENRES)})\b")
_ASKED = re.compile(rf"\bthe ({_NOUN})\b")
_CLAUSE = re.compile(
    rf"the ({_NOUN}) (is|are) (not |never )?(?:({_HOW}) )?({_ADJECTIVE})(?: and ({_ADJECTIVE}))?"
)
_ACTION = re.compile(rf"the ({_NOUN}) (.+)")
_THING = re.compile(rf"(?:an? )?((?:({_HOW}) )?({_ADJECTIVE})) ({_NOUN})")
_FEELING = re.compile(
    rf"i (really )?({_either(FEELINGS)}) the ({_NOUN})(?: (and|but not) the ({_NOUN}))?"
)
_UNFELT = re.compile(rf"i did not ({_either(UNFELT)}) the ({_NOUN})")
_OVERVIEW = re.compile(rf"this is (an?) ((?:({_HOW}) )?({_ADJECTIVE}) ({_either(GENRES)}))")


def parse_sentence(text: str) -> Sentence | None:
    """Read one sentence, without its full stop."""
    if text in FACTS:
        return Sentence("fact")
    if text in VERDICTS:
        return Sentence("verdict", (Opinion("verdict", VERDICTS[text]),))
    if overview := _overview(text):
        return overview
    opinions = _feelings(text) or _things(text) or _clauses(text)
    return Sentence("opinion", tuple(opinions)) if opinions else None


def _overview(text: str) -> Sentence | None:
    match = _OVERVIEW.fullmatch(text)
    if not match or article(match[2]) != f"{match[1]} {match[2]}":
        return None
    return Sentence("overview", (_judgement("film", match[4], match[3]),), genre=match[5])


def _feelings(text: str) -> list[Opinion]:
    """ "i really liked the plot but not the ending", "i did not enjoy the songs"."""
    if match := _UNFELT.fullmatch(text):
        return [Opinion(match[2], NEGATION * UNFELT[match[1]])]
    if not (match := _FEELING.fullmatch(text)):
        return []
    valence = FEELINGS[match[2]]
    opinions = [Opinion(match[3], valence * (INTENSIFIERS["really"] if match[1] else 1.0))]
    if match[5]:
        opinions.append(Opinion(match[5], valence * (1.0 if match[4] == "and" else NEGATION)))
    return opinions


def _things(text: str) -> list[Opinion]:
    """ "the film has a truly gripping plot but loud music"."""
    start, _, rest = text.partition("the film has ")
    things = [_THING.fullmatch(part) for part in re.split(" and | but ", rest)]
    if start or len(things) > 2:
        return []
    agreed = [m for m in things if m and noun_phrase(m[4], m[1]) == m[0]]
    return [_judgement(m[4], m[3], m[2]) for m in agreed] if len(agreed) == len(things) else []


def _clauses(text: str) -> list[Opinion]:
    """One clause, or two that are coordinated."""
    clauses = [_clause(part) for part in re.split(" and (?=the )| but (?=the )| , while ", text)]
    return [o for clause in clauses for o in clause] if len(clauses) < 3 and all(clauses) else []


def _clause(text: str) -> list[Opinion]:
    """ "the plot is never dull", "the songs are very loud", "the jokes work well"."""
    if match := _CLAUSE.fullmatch(text):
        noun, verb, negation, how, *adjectives = match.groups()
        said = [_judgement(noun, word, how, bool(negation)) for word in adjectives if word]
        mean = sum(opinion.valence for opinion in said) / len(said)
        return [Opinion(noun, mean)] if verb == be(noun) else []
    if match := _ACTION.fullmatch(text):
        for predicate, (valence, nouns) in PREDICATES.items():
            if conjugate(predicate, match[1]) == match[2]:
                return [Opinion(match[1], valence if match[1] in nouns else 0.0)]
    return []


def _judgement(noun: str, adjective: str, how: str | None, negated: bool = False) -> Opinion:
    valence, nouns = ADJECTIVES[adjective]
    if noun not in nouns:
        return Opinion(noun, 0.0)
    return Opinion(noun, valence * (NEGATION if negated else INTENSIFIERS.get(how or "", 1.0)))
