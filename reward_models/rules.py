"""Rule-based rewards: each factory below takes parameters and returns a reward.

Rules score the completion alone, because the policy does not choose the prompt; the gold score of
film notes also depends on the prompt. Words are counted in lower case, without punctuation. Higher
is better in every rule, so penalties are at most 0. `RULES` lists the factories by their names on
the command line, and `make_rule` parses their parameters.
"""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from reward_models import RewardError
from reward_models.calling import Reward, suggest

Words = tuple[str, ...]
FILM_NOTES = "film-notes"  # the name of the shipped data set
FILM_NOTES_GOLD = "film-notes-gold"  # the name of its gold score

POSITIVE = frozenset(
    """
    amazing beautiful best better brilliant charming clean clear clever comfortable compact
    delightful durable easy elegant enjoy enjoyable enjoyed excellent fantastic fast fine fresh fun
    funny good gorgeous great happy helpful impressive inexpensive inventive like liked love loved
    lovely memorable nice outstanding perfect pleasant powerful quick quiet recommend recommended
    reliable sharp simple smart smooth solid strong stunning superb terrific thrilling tidy useful
    vivid warm well witty wonderful worth
    """.split()
)
NEGATIVE = frozenset(
    """
    annoying awful awkward bad badly bland boring broken bulky cheesy cheaply clumsy cluttered cold
    confusing crash crashes dated defective difficult dim dire dirty disappointed disappointing
    dreadful dull expensive fail fails failed fake flat flimsy forgettable grainy hard hate hated
    heavy horrible lame lazy limited loud messy mediocre noisy overpriced painful poor poorly
    predictable problem problems rough sad silly slow stale stiff terrible tedious tired ugly
    uneven unreliable useless wasted weak wooden worse worst
    """.split()
)
NEGATIONS = frozenset(
    """
    not no never neither nor without hardly barely cannot nothing lacks lacking isnt arent wasnt
    werent dont doesnt didnt cant couldnt wont wouldnt shouldnt aint
    """.split()
)
INTENSIFIERS = {"very": 1.3, "really": 1.3, "so": 1.3, "extremely": 1.5, "truly": 1.3, "utterly":
                1.5, "quite": 0.9, "rather": 0.9, "somewhat": 0.7, "slightly": 0.7}  # fmt: skip


def _at_least_one(number: int, rule: str) -> None:
    if number < 1:
        raise RewardError(f"rule {rule!r}: {number} words; it must be at least 1")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; "don't" is one word, punctuation is left out."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def _each(score: Callable[[str], float]) -> Reward:
    """Turn a function of one completion into a reward."""

    def reward(completions: Sequence[str], **columns: Any) -> list[float]:
        return [score(completion) for completion in completions]

    return reward


def valence(text: str) -> float:
    """Return the sum of the words' valences, +1 or -1 by the lexicon (VADER's rules, Hutto &
    Gilbert 2014).

    A negation in the three words before, in the same clause, multiplies a word's valence by -0.74;
    an intensifier just before scales it.
    """
    total = 0.0
    for clause in re.split(r"[.,;:!?]|\bbut\b", text.lower().replace("'", "").replace("’", "")):
        words = words_of(clause)
        for i, word in enumerate(words):
            weight = float(word in POSITIVE) - float(word in NEGATIVE)
            weight *= INTENSIFIERS.get(words[i - 1], 1.0) if i else 1.0
            if NEGATIONS & set(words[max(0, i - 3) : i]):
                weight *= -0.74
            total += weight
    return total


def sentiment() -> Reward:
    """Sentiment by a word list, in (-1, 1): v / sqrt(v^2 + 15) of the summed valence v."""
    return _each(lambda text: (v := valence(text)) / math.sqrt(v * v + 15.0))


def length(target: int = 20) -> Reward:
    """Minus the relative distance to a target number of words: 0 at the target, -1 if empty."""
    _at_least_one(target, "length")
    return _each(lambda text: -abs(len(words_of(text)) - target) / target)


def keyword(words: Words) -> Reward:
    """Share of the given words that occur at least once, as whole words in any case: 0 to 1."""
    wanted = {word.lower() for word in words}
    if not wanted:
        raise RewardError("rule 'keyword': no words; write keyword:words=good+great")
    return _each(lambda text: len(wanted & set(words_of(text))) / len(wanted))


def regex(pattern: str) -> Reward:
    """1 if a regular expression matches anywhere in the completion, else 0."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise RewardError(f"rule 'regex': pattern {pattern!r} is not valid: {error}") from None
    return _each(lambda text: float(search(text) is not None))


def distinct(n: int = 2) -> Reward:
    """Share of word n-grams that are distinct, 0 to 1 (Li et al. 2016, arXiv 1510.03055)."""
    _at_least_one(n, "distinct")
    return _each(lambda text: _distinct_share(text, n, without=0.0))


def repetition(n: int = 4) -> Reward:
    """Minus the share of word n-grams that repeat an earlier one, -1 to 0 (seq-rep-n of Welleck
    et al. 2019, arXiv 1908.04319)."""
    _at_least_one(n, "repetition")
    return _each(lambda text: _distinct_share(text, n, without=1.0) - 1.0)


def _distinct_share(text: str, n: int, without: float) -> float:
    words = words_of(text)
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else without


def missing_eos(penalty: float = 1.0) -> Reward:
    """Minus a penalty for a completion cut at the length limit, 0 for a finished one."""

    def reward(
        completions: Sequence[str], finished: Sequence[bool] | None = None, **columns: Any
    ) -> list[float]:
        ended = [True] * len(completions) if finished is None else finished
        return [0.0 if end else -float(penalty) for end in ended]

    return reward


def overlength(limit: int, penalty: float = 0.1) -> Reward:
    """Minus a penalty for every word beyond a limit."""
    return _each(lambda text: -penalty * max(0, len(words_of(text)) - limit))


def film_notes_gold() -> Reward:
    """Gold score of the film-notes task, computed by a parser; policies are not trained on it."""

    def reward(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        from reward_models.film_notes import gold

        return gold(prompts=prompts, completions=completions, **columns)

    return reward


RULES: dict[str, Callable[..., Reward]] = {
    "sentiment": sentiment,
    "length": length,
    "keyword": keyword,
    "regex": regex,
    "distinct": distinct,
    "repetition": repetition,
    "missing-eos": missing_eos,
    "overlength": overlength,
    FILM_NOTES_GOLD: film_notes_gold,
}


def make_rule(name: str, parameters: dict[str, str] | None = None) -> Reward:
    """Make a rule from its name and its parameters as text, e.g. ("length", {"target": "20"}).

    Raises RewardError for an unknown rule or parameter, or a value of the wrong type.
    """
    if name not in RULES:
        raise RewardError(f"unknown rule {name!r}.{suggest(name, RULES)} Rules: {', '.join(RULES)}")
    factory, given = RULES[name], parameters or {}
    known = inspect.signature(factory).parameters
    for key in given:
        if key not in known:
            raise RewardError(
                f"rule {name!r} has no parameter {key!r}; it has: {', '.join(known) or 'none'}."
                f"{suggest(key, known)}"
            )
    for key, parameter in known.items():
        if key not in given and parameter.default is parameter.empty:
            raise RewardError(f"rule {name!r} needs {key!r}: write {name}:{key}=...")
    types = get_type_hints(factory)
    return factory(**{key: _read(text, types[key], name, key) for key, text in given.items()})


def describe_rules() -> list[str]:
    """Return a line per rule for a help text: name, parameters with defaults, description."""
    lines = []
    for name, factory in RULES.items():
        parts = []
        for key, parameter in inspect.signature(factory).parameters.items():
            default = "..." if parameter.default is parameter.empty else parameter.default
            parts.append(f"{key}={default}")
        usage = f"{name}:{','.join(parts)}" if parts else name
        sentence = " ".join((factory.__doc__ or "").split())
        lines.append(f"{usage}  {sentence}")
    return lines


def _read(text: str, kind: Any, rule: str, key: str) -> Any:
    if kind == Words:
        return tuple(word for word in text.split("+") if word)
    try:
        return kind(text)
    except ValueError:
        raise RewardError(
            f"rule {rule!r}: {key} is {text!r}; it must be {'a whole ' if kind is int else 'a '}"
            "number"
        ) from None
