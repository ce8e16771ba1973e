"""Each rule against hand values."""

import math

import pytest

from reward_models import RewardError
from reward_models.calling import call_reward
from reward_models.rules import FILM_NOTES_GOLD, RULES, describe_rules, make_rule, valence


def score(name: str, *completions: str, finished=None, **parameters: str) -> list:
    columns = {} if finished is None else {"finished": finished}
    prompts = ["great , terrible prompt"] * len(completions)
    return call_reward(make_rule(name, parameters), name, prompts, completions, **columns)


def test_sentiment_hand_values():
    assert valence("a good film") == 1
    assert valence("a good film , but a dull plot") == 0
    assert valence("very good") == pytest.approx(1.3)
    assert valence("not good") == pytest.approx(-0.74)
    assert valence("not a very good film") == pytest.approx(-0.74 * 1.3)
    assert valence("not dull") == pytest.approx(0.74)
    assert valence("It wasn't GOOD") == pytest.approx(-0.74)


def test_negation_ends_with_its_clause_and_after_three_words():
    assert valence("not long . good") == 1
    assert valence("not long but good") == 1
    assert valence("not one of the good") == 1
    assert valence("not of the good") == pytest.approx(-0.74)


def test_sentiment_is_bounded_odd_and_reads_the_completion_alone():
    good, bad, none = score("sentiment", " good" * 50, " bad" * 50, " film")
    assert good == pytest.approx(50 / math.sqrt(2515)) and good < 1
    assert bad == -good
    assert none == 0


def test_length_is_0_at_the_target_and_minus_1_when_empty():
    assert score("length", "one two three four", "one, two!", "", target="4") == [0, -0.5, -1]


def test_keyword_counts_each_word_once_and_whole():
    assert score("keyword", "Good good good", "goodness", "great good", words="good+great") == [
        0.5,
        0,
        1,
    ]


def test_regex_is_found_anywhere():
    assert score("regex", "it is 10 out of 10", "ten", pattern=r"\d+ out of \d+$") == [1, 0]


def test_distinct_and_repetition_hand_values():
    assert score("distinct", "a b a b", "a b c", "a", n="2") == [pytest.approx(2 / 3), 1, 0]
    assert score("repetition", "a b a b", "a b c", "a", n="2") == [pytest.approx(-1 / 3), 0, 0]
    assert score("repetition", "so good " * 20)[0] < -0.9


def test_missing_eos_is_penalised_only_where_cut():
    assert score("missing-eos", "a", "b", finished=[True, False], penalty="2") == [0, -2]
    assert score("missing-eos", "a") == [0]


def test_overlength_costs_every_word_beyond_the_limit():
    assert score("overlength", "a b c d", "a b", limit="2", penalty="0.5") == [-1, 0]


def test_film_notes_gold_is_the_gold_scorer():
    from reward_models.film_notes import gold

    columns = {"prompts": ["a western : how is the plot ?"] * 2, "finished": [True, False]}
    columns["completions"] = [" the plot is great .", " plot plot"]
    assert call_reward(make_rule(FILM_NOTES_GOLD), "gold", **columns) == gold(**columns)


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("lenght", {}, "unknown rule 'lenght'. Did you mean 'length'.*sentiment, length"),
        ("length", {"traget": "3"}, "no parameter 'traget'.*Did you mean 'target'"),
        ("length", {"target": "ten"}, "target is 'ten'; it must be a whole number"),
        ("length", {"target": "0"}, "at least 1"),
        ("keyword", {}, "needs 'words': write keyword:words="),
        ("regex", {"pattern": "("}, "not valid"),
        ("sentiment", {"n": "1"}, "it has: none"),
    ],
)
def test_errors_name_the_rule_and_the_remedy(name, parameters, says):
    with pytest.raises(RewardError, match=says):
        make_rule(name, parameters)


def test_every_rule_is_described():
    lines = describe_rules()
    assert [line.split()[0].partition(":")[0] for line in lines] == list(RULES)
    assert lines[1].startswith("length:target=20  Minus the relative distance")
