"""What the gold judge says of notes that were scored by hand, and what holds for every note."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models.film_notes import VOCABULARY, breakdown, gold, gold_score, parse

DATA = Path(__file__).parents[2] / "data" / "film_notes"
PROMPT = "review of a western , on the music :"
GOOD = " the music is superb . i would see it again ."
NEUTRAL = " the film runs for two hours . we saw it on a rainy sunday ."


def read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def parts(completion: str, prompt: str = PROMPT, finished: bool = True) -> dict[str, float]:
    """The components that are not zero."""
    return {name: v for name, v in breakdown(prompt, completion, finished).items() if v}


SENTENCES = {
    "the plot is superb": ("opinion", {"plot": 1.5}),
    "the plot is truly superb": ("opinion", {"plot": 2.1}),
    "the camera work is rather shaky": ("opinion", {"camera work": -0.4}),
    "the songs are never dull": ("opinion", {"songs": 0.35}),
    "the jokes are not very good": ("opinion", {"jokes": -0.35}),
    "the plot is tight and clever": ("opinion", {"plot": 0.75}),
    "the plot is slow but the acting is superb": ("opinion", {"plot": -0.5, "acting": 1.5}),
    "the cast is warm , while the ending is bad": ("opinion", {"cast": 0.5, "ending": -1.0}),
    "the jokes work well": ("opinion", {"jokes": 0.5}),
    "the music stays with you and the pace lets the film down": (
        "opinion",
        {"music": 1.0, "pace": -1.0},
    ),
    "i really loved the sets": ("opinion", {"sets": 1.95}),
    "i liked the plot but not the ending": ("opinion", {"plot": 0.5, "ending": -0.35}),
    "i did not enjoy the songs": ("opinion", {"songs": -0.7}),
    "the film has an awful plot and lovely songs": ("opinion", {"plot": -1.5, "songs": 1.0}),
    "this is a truly great war film": ("overview", {"film": 2.1}),
    "the film is set on an island": ("fact", {}),
    "save your money": ("verdict", {"verdict": -0.8}),
    # A word that does not suit the noun is worth nothing: songs do not grip.
    "the songs are gripping": ("opinion", {"songs": 0.0}),
}


@pytest.mark.parametrize("text", SENTENCES)
def test_sentences_mean_what_a_reader_takes_them_to_mean(text: str) -> None:
    kind, opinions = SENTENCES[text]
    (sentence,) = parse(f" {text} .")
    assert sentence is not None and sentence.kind == kind
    assert {o.subject: o.valence for o in sentence.opinions} == pytest.approx(opinions)
    assert sentence.valence == pytest.approx(sum(opinions.values()))


@pytest.mark.parametrize(
    "text",
    [
        "brilliant plot and brilliant plot",
        "the songs is lovely",
        "the plot are superb",
        "the jokes works well",
        "the plot work well",
        "the film has a awful plot",
        "the film has an lovely songs",
        "the film has good plot",
        "the film has a good plot and",
        "this is an great western",
        "the plot is very",
        "the plot is good and the cast is good and the acting is good",
        "i really the plot",
        "i loved the plot but the ending",
        "The plot is superb",
        "the plot is superb!",
        "",
    ],
)
def test_what_is_not_english_does_not_parse(text: str) -> None:
    assert parse(f" {text} .") == [None]


def test_sentences_are_split_at_full_stops_and_the_last_may_lack_one() -> None:
    kinds = [s and s.kind for s in parse(" the plot is good . no . the room was half empty")]
    assert kinds == ["opinion", None, "fact"]
    assert parse("") == []
    assert parse(" . .") == [None, None]


def test_scores_worked_out_by_hand() -> None:
    assert parts(NEUTRAL) == {}
    assert parts(GOOD) == pytest.approx(
        {"valence": 3 * math.tanh((1.5 + 0.5) / 3), "topic": 0.5, "variety": 0.1}
    )
    # -0.5 and 0.5 cancel; two aspects were judged, neither of them the music.
    balanced = NEUTRAL + " the plot is slow and clumsy but the cast is warm ."
    assert parts(balanced) == {"variety": 0.2}
    # Five words beside the language, one sentence less than two, and no full stop.
    assert parts(
        " the film runs for two hours . brilliant plot and brilliant plot"
    ) == pytest.approx({"unparsable": -1.0, "short": -1.0, "echo": -1.0, "unfinished": -1.0})
    assert parts("") == {"short": -2.0, "unfinished": -1.0}
    # The sentence again, with "film", which is free, and "runs", "for", "two" and "hours".
    assert parts(NEUTRAL + " the film runs for two hours .") == pytest.approx(
        {"repetition": -1.5, "echo": -2.0}
    )


def test_a_subject_is_judged_once() -> None:
    twice = parts(" the music is superb . the music is wonderful . we left early .")
    assert twice["repetition"] == -0.75
    assert twice["valence"] == pytest.approx(3 * math.tanh((1.5 - 0.5) / 3))


def test_variety_saturates_at_three_aspects() -> None:
    four = " the film has a good plot and a good cast . the sets are bold and the pace is tight ."
    assert parts(four)["variety"] == pytest.approx(0.3)


def test_verdicts_do_not_add_up() -> None:
    verdicts = " do not miss it . we left with a smile . bring all your friends ."
    assert parts(verdicts)["valence"] == pytest.approx(3 * math.tanh(0.8 / 3))
    assert parts(verdicts)["repetition"] == -1.5


def test_the_asked_aspect_and_genre_count() -> None:
    assert parts(GOOD)["topic"] == 0.5
    assert "topic" not in parts(GOOD, "review of a western , on the plot :")
    assert "topic" not in parts(GOOD, "tell me more")
    other = " this is a good comedy ."
    assert parts(other)["topic"] == -0.5
    assert "topic" not in parts(other, "tell me more")
    assert "topic" not in parts(" this is a good western .")
    for prompt in (
        "notes on a war film , above all the jokes :",
        "a war film : how are the jokes ?",
    ):
        assert parts(" this is a good war film . the jokes work well .", prompt)["topic"] == 0.5


def test_a_cut_completion_costs_one() -> None:
    assert gold_score(PROMPT, GOOD, finished=False) == pytest.approx(gold_score(PROMPT, GOOD) - 1)
    whole, cut = gold(prompts=[PROMPT] * 2, completions=[GOOD] * 2, finished=[True, False])
    assert whole - cut == pytest.approx(1)


def test_gold_is_a_reward_callable() -> None:
    scores = gold(prompts=[PROMPT, PROMPT], completions=[GOOD, ""], unknown=[1, 2])
    assert scores == [gold_score(PROMPT, GOOD), gold_score(PROMPT, "")]
    with pytest.raises(ValueError):
        gold(prompts=[PROMPT], completions=[GOOD, GOOD])


def test_long_notes_lose() -> None:
    # Six sentences are two too many.
    six = GOOD + NEUTRAL + " the plot is tight . the cast is warm ."
    assert parts(six)["overlength"] == -1.0
    assert parts(" the film" * 25)["overlength"] == pytest.approx(-0.2)


OPPOSITES = [
    ("superb", "awful"), ("great", "terrible"), ("good", "bad"), ("lively", "poor"),
    ("catchy", "loud"), ("moving", "boring"), ("lovely", "forgettable"),
]  # fmt: skip


@pytest.mark.parametrize("kind, unkind", OPPOSITES)
@pytest.mark.parametrize("frame", ["the music is {}", "the plot is dull but the music is very {}"])
def test_an_adjective_and_its_opposite(kind: str, unkind: str, frame: str) -> None:
    better, worse = (f" {frame.format(word)} . there is a dog in it ." for word in (kind, unkind))
    assert gold_score(PROMPT, better) > gold_score(PROMPT, worse) + 0.3


def test_denial_turns_the_sign_and_is_milder() -> None:
    scores = [
        gold_score(PROMPT, f" the music is {words} . there is a dog in it .")
        for words in ("moving", "never boring", "not moving", "boring")
    ]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4


SAMPLE = read("preferences.test.jsonl") + read("preferences.train.jsonl")[:500]
UNSPOILT = [
    (row["prompt"], row["chosen"])
    for row in SAMPLE
    if None not in parse(row["chosen"]) and row["chosen"].endswith(" .")
]


def test_repeating_a_sentence_lowers_the_score() -> None:
    for prompt, text in UNSPOILT:
        sentences = [f"{sentence} ." for sentence in text.split(" .")[:-1]]
        for sentence in sentences:
            assert gold_score(prompt, text + sentence) <= gold_score(prompt, text) - 1.5


def test_cutting_a_note_short_lowers_a_good_score() -> None:
    for prompt, text in UNSPOILT:
        if gold_score(prompt, text) > 2:
            assert gold_score(prompt, text[: text.rindex(" .")]) < gold_score(prompt, text)
            assert gold_score(prompt, text.split(" .")[0] + " .") < gold_score(prompt, text)


DEGENERATE = [
    "brilliant plot and",
    "the music is superb .",
    "superb",
    "the",
    ".",
    "do not miss it .",
]


@pytest.mark.parametrize("phrase", DEGENERATE)
def test_loops_score_far_below_zero_and_the_longer_the_worse(phrase: str) -> None:
    scores = [gold_score(PROMPT, f" {phrase}" * times) for times in range(2, 60)]
    assert scores == sorted(scores, reverse=True)
    words = len(phrase.split())
    assert gold_score(PROMPT, f" {phrase}" * (44 // words)) < -5
    assert scores[-1] == pytest.approx(-8)


words = st.sampled_from([*VOCABULARY, ".", ".", "banana", "<eos>"])
texts = st.one_of(st.text(), st.lists(words, max_size=80).map(" ".join))


@given(texts, texts, st.booleans())
def test_any_text_has_a_bounded_score_that_its_parts_explain(
    prompt: str, completion: str, finished: bool
) -> None:
    score = gold_score(prompt, completion, finished)
    assert score == sum(breakdown(prompt, completion, finished).values())
    assert -8 - 1e-9 <= score <= 3.8
    for sentence in parse(completion):
        assert sentence is None or sentence.kind in ("opinion", "overview", "fact", "verdict")


def test_the_vocabulary_is_sorted_and_small() -> None:
    assert sorted(set(VOCABULARY)) == VOCABULARY
    assert 180 <= len(VOCABULARY) <= 220
