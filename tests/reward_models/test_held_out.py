"""The split of preference pairs keeps texts apart, as far as the data allow."""

import random

import pytest

from reward_models.held_out import split


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def texts(pairs, *columns):
    return {row[column] for row in pairs for column in columns}


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_and_no_completion_is_on_both_sides(seed):
    draw = random.Random(seed)
    pairs = [
        pair(f"p{draw.randrange(200)}", f"t{draw.randrange(900)}", f"t{draw.randrange(900)}")
        for _ in range(150)
    ]
    train, held_out, apart = split(pairs, 0.2, seed)
    assert apart == "prompts and completions" and 15 <= len(held_out) <= 30
    assert not texts(train, "prompt") & texts(held_out, "prompt")
    assert not texts(train, "chosen", "rejected") & texts(held_out, "chosen", "rejected")
    assert sorted(map(str, train + held_out)) == sorted(map(str, pairs))
    assert split(pairs, 0.2, seed) == (train, held_out, apart)
    assert split(pairs, 0.2, seed + 1).held_out != held_out


def test_pairs_that_share_texts_through_others_stay_together():
    chain = [pair(f"p{i}", f"t{i}", f"t{i + 1}") for i in range(5)]  # 0 and 4 share nothing
    alone = [pair(f"q{i}", f"a{i}", f"b{i}") for i in range(15)]
    for seed in range(5):
        train, held_out, _ = split(chain + alone, 0.25, seed)
        assert len(held_out) == 5
        assert all(row in train for row in chain) or all(row in held_out for row in chain)


def test_an_empty_prompt_connects_nothing():
    pairs = [pair("", f"a{i}", f"b{i}") for i in range(10)]
    assert split(pairs, 0.2, 0)[2] == "prompts and completions"


@pytest.mark.parametrize(
    ("row", "apart"),
    [
        (lambda i: pair("always", f"a{i}", f"b{i}"), "completions"),
        (lambda i: pair(f"p{i}", "yes", "no"), "prompts"),
        (lambda i: pair("always", "yes", "no"), "pairs"),
    ],
)
def test_a_text_that_all_pairs_share_does_not_forbid_a_split(row, apart):
    train, held_out, said = split([row(i) for i in range(20)], 0.2, 0)
    assert (len(train), len(held_out), said) == (16, 4, apart)


def test_a_share_of_0_holds_nothing_out():
    pairs = [pair(f"p{i}", f"a{i}", f"b{i}") for i in range(4)]
    assert split(pairs, 0.0, 0).held_out == []
