"""Draw film notes from a small grammar.

The mood of a note decides how many of its opinions are kind; its verdict follows from them.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from reward_models.film_notes_lexicon import (
    ADJECTIVES,
    FACTS,
    FEELINGS,
    FUNCTION_WORDS,
    NOUNS,
    PREDICATES,
    UNFELT,
    VERDICTS,
    article,
    be,
    conjugate,
    noun_phrase,
)

MAX_WORDS = 44
ON_TOPIC = 0.85  # how often a note judges the aspect that was asked for

# (the chance that an opinion is kind, weight)
MOODS = ((0.9, 42), (0.5, 30), (0.1, 28))
# (sentence kinds in order, weight)
PLANS = (
    (("opinion", "verdict"), 4),
    (("opinion", "opinion"), 3),
    (("fact", "opinion"), 2),
    (("overview", "opinion"), 2),
    (("fact", "opinion", "verdict"), 4),
    (("opinion", "fact", "verdict"), 2),
    (("overview", "opinion", "verdict"), 3),
    (("opinion", "opinion", "verdict"), 4),
    (("fact", "opinion", "opinion"), 2),
    (("overview", "fact", "opinion"), 2),
    (("fact", "opinion", "opinion", "verdict"), 2),
    (("overview", "opinion", "opinion", "verdict"), 1),
    (("overview", "fact", "opinion", "verdict"), 2),
    (("opinion", "fact", "opinion", "verdict"), 1),
)
NEVER = ("dull", "boring", "slow", "silly", "funny", "gripping")
NOT_VERY = ("good", "clever", "funny", "lively")
NEGATABLE = (*NEVER, *NOT_VERY, "natural", "bad", "predictable")
TOO = ("slow", "loud", "silly", "predictable", "dim")
ADMIRABLE = ("acting", "cast", "camera work", "lighting", "costumes", "sets")


T = TypeVar("T")
Form = Callable[["Draft", float], str]  # the draft and the chance that an opinion is kind


def weighted(rng: random.Random, table: Sequence[tuple[T, int]]) -> T:
    return rng.choices([row[0] for row in table], [row[1] for row in table])[0]


class Draft:
    """A note in the making, which says no content word twice."""

    def __init__(self, rng: random.Random, genre: str, asked: str | None) -> None:
        self.rng = rng
        self.genre = genre
        self.asked = asked
        self.said = set(genre.split())
        self.opinions: list[bool] = []  # kind or not
        self.forms: set[Form] = set()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options: Iterable[str]) -> str:
        """Draw an option of which no content word was said; IndexError if there is none."""
        choice = self.rng.choice([o for o in options if self.said.isdisjoint(o.split())])
        self.said.update(set(choice.split()) - FUNCTION_WORDS)
        return choice

    def noun(self) -> str:
        """The aspect that was asked for, then others."""
        noun, self.asked = self.asked, None
        return self.pick([noun] if noun else NOUNS)

    def kind(self, kindness: float) -> bool:
        self.opinions.append(self.chance(kindness))
        return self.opinions[-1]

    def adjective(self, noun: str, kind: bool, special: bool = False) -> str:
        """A word made for the noun ("shaky camera work"), or one that suits most nouns."""
        fit = fitting(ADJECTIVES, noun, kind)
        made_for = [a for a in fit if len(ADJECTIVES[a][1]) < len(NOUNS) - 1]
        return self.pick(made_for if special else made_for + fit)

    def intensified(self, adjective: str, predicative: bool = False) -> str:
        if self.chance(0.65):
            return adjective
        if is_strong(adjective):
            return f"{self.pick(('truly', 'simply'))} {adjective}"
        how = ["very", "really"]
        if predicative:  # "a quite clever plot" and "a too slow pace" are clumsy
            how += ["quite" if ADJECTIVES[adjective][0] > 0 else "rather"]
            how += ["too", "too"] if adjective in TOO else []
        return f"{self.pick(how)} {adjective}"


def fitting(table: dict[str, tuple[float, tuple[str, ...]]], noun: str, kind: bool) -> list[str]:
    """The words of a table that suit a noun and are of the given sign."""
    return [w for w, (valence, nouns) in table.items() if noun in nouns and (valence > 0) == kind]


def is_strong(adjective: str) -> bool:
    return abs(ADJECTIVES[adjective][0]) == 1.5


def opinion(draft: Draft, kindness: float) -> str:
    """An opinion on one aspect or on two; of the rarer forms a note has one each."""
    form = weighted(draft.rng, OPINIONS)
    if form in draft.forms:
        form = clause
    draft.forms.add(form)
    return form(draft, kindness)


def coordination(draft: Draft, kindness: float) -> str:
    """Two clauses, joined by what their signs ask for."""
    first, second = clause(draft, kindness), clause(draft, kindness)
    alike = draft.opinions[-1] == draft.opinions[-2]
    joint = "and" if alike else draft.rng.choice(("but", "but", ", while"))
    return f"{first} {joint} {second}"


def possession(draft: Draft, kindness: float) -> str:
    """ "the film has a gripping plot", "the film has lovely songs but wooden dialogue"."""
    kind = draft.kind(kindness)
    if draft.chance(0.35):
        return f"the film has {thing(draft, kind)}"
    other = draft.kind(kindness)
    joint = "and" if kind == other else "but"
    return f"the film has {thing(draft, kind)} {joint} {thing(draft, other)}"


def thing(draft: Draft, kind: bool) -> str:
    noun = draft.noun()
    return noun_phrase(noun, draft.intensified(draft.adjective(noun, kind)))


def clause(draft: Draft, kindness: float) -> str:
    """ "the plot is never dull", "the songs are loud and forgettable", "the jokes work well"."""
    kind, noun, form = draft.kind(kindness), draft.noun(), draft.rng.random()
    subject = f"the {noun} {be(noun)}"
    if form < 0.2:
        return f"the {noun} {draft.pick(conjugations(noun, kind))}"
    if form < 0.33:
        return f"{subject} {negation(draft, noun, kind)}"
    if form < 0.45:
        first, second = (draft.adjective(noun, kind, special=True) for _ in range(2))
        return f"{subject} {first} and {second}"
    return f"{subject} {draft.intensified(draft.adjective(noun, kind), predicative=True)}"


def conjugations(noun: str, kind: bool) -> list[str]:
    return [conjugate(predicate, noun) for predicate in fitting(PREDICATES, noun, kind)]


def negation(draft: Draft, noun: str, kind: bool) -> str:
    """The opposite, denied: "never dull", "not very clever"."""
    adjective = draft.pick([a for a in fitting(ADJECTIVES, noun, not kind) if a in NEGATABLE])
    if adjective in NEVER and draft.chance(0.5):
        return f"never {adjective}"
    if adjective in NOT_VERY:
        return f"not {draft.pick(('very', 'really'))} {adjective}"
    return f"not {adjective}"


def feeling(draft: Draft, kindness: float) -> str:
    """ "i really liked the plot but not the ending", "i did not enjoy the songs"."""
    kind, noun = draft.kind(kindness), draft.noun()
    if not kind and draft.chance(0.5):
        return f"i did not {draft.pick(UNFELT)} the {noun}"
    verbs = [verb for verb, valence in FEELINGS.items() if (valence > 0) == kind]
    verb = draft.pick(v for v in verbs if v != "admired" or noun in ADMIRABLE)
    if verb != "admired" and draft.chance(0.3):
        verb = f"{draft.pick(['really'])} {verb}"
    if draft.chance(0.6):
        return f"i {verb} the {noun}"
    second = draft.kind(kindness)
    joint = "and" if second == kind else "but not"
    return f"i {verb} the {noun} {joint} the {draft.noun()}"


def overview(draft: Draft, kindness: float) -> str:
    # "awful" or "superb" would not go with opinions that disagree.
    adjective = draft.adjective("film", draft.kind(kindness), special=kindness == 0.5)
    return f"this is {article(f'{draft.intensified(adjective)} {draft.genre}')}"


def fact(draft: Draft, kindness: float) -> str:
    return draft.pick(FACTS)


def verdict(draft: Draft, kindness: float) -> str:
    """What follows from the opinions: mild if they disagree."""
    share = sum(draft.opinions) / len(draft.opinions)
    if 0.25 < share < 0.75:
        return draft.pick(v for v, valence in VERDICTS.items() if abs(valence) < 0.4)
    sign = 1 if share > 0.5 else -1
    return draft.pick(v for v, valence in VERDICTS.items() if valence * sign > 0.4)


# (form, weight)
OPINIONS = ((clause, 50), (feeling, 16), (possession, 20), (coordination, 14))
SENTENCES: dict[str, Form] = {
    "opinion": opinion,
    "overview": overview,
    "fact": fact,
    "verdict": verdict,
}


def note(rng: random.Random, genre: str, noun: str) -> str:
    """A completion, with its leading space."""
    while True:
        draft = Draft(rng, genre, noun if rng.random() < ON_TOPIC else None)
        kindness, plan = weighted(rng, MOODS), weighted(rng, PLANS)
        try:
            text = "".join(f" {SENTENCES[kind](draft, kindness)} ." for kind in plan)
        except IndexError:  # it ran out of words that it had not used
            continue
        if len(text.split()) <= MAX_WORDS:
            return text
