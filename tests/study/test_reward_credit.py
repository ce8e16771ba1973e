"""What a reward model's score owes to each token: beside scores of shortened texts, and by hand."""

import pytest

from reward_models.reward_model import RewardModel
from rlhf_pg.cli import main
from rlhf_pg.language import models
from rlhf_pg.runs import read_jsonl
from rlhf_pg.study.report.reward_page import document
from rlhf_pg.study.reward_credit import Scored, by_word, record, texts_of
from support.language import TEXTS, tiny_lm, write_rows


@pytest.fixture(scope="module")
def model():
    tokenizer = models.train_tokenizer(TEXTS, "word")
    made = RewardModel.from_base(tiny_lm("llama", tokenizer, spread=0.3), tokenizer, device="cpu")
    made.mean, made.std = 0.3, 0.7
    return made


def test_changes_are_differences_of_the_scores_of_shortened_texts(model):
    words = ["is", "good", "and", "clear"]
    found = record(model, Scored("the film", " is good and clear"))
    assert [token["token"].strip() for token in found["tokens"]] == [*words, "<eos>"]

    def score(*kept, finished=True):
        return model(["the film"], ["".join(f" {word}" for word in kept)], [finished])[0]

    whole = score(*words)
    for i, token in enumerate(found["tokens"][:-1]):
        before, upto = score(*words[:i], finished=False), score(*words[: i + 1], finished=False)
        assert token["prefix"] == pytest.approx(upto - before, abs=1e-4)
        assert token["deletion"] == pytest.approx(
            whole - score(*words[:i], *words[i + 1 :]), abs=1e-4
        )
    end = whole - score(*words, finished=False)
    assert found["tokens"][-1]["prefix"] == pytest.approx(end, abs=1e-4)
    assert found["tokens"][-1]["deletion"] == pytest.approx(end, abs=1e-4)
    total = sum(token["prefix"] for token in found["tokens"])
    assert total == pytest.approx(whole - score(finished=False), abs=1e-4)
    assert found["score"] == pytest.approx(whole, abs=1e-5)


def test_a_text_without_a_prompt_or_of_one_token(model):
    first, second, _ = record(model, Scored("", "the film"))["tokens"]
    assert first["prefix"] is None and second["prefix"] is not None
    assert first["deletion"] is not None
    (only,) = record(model, Scored("", "the", finished=False))["tokens"]
    assert (only["prefix"], only["deletion"]) == (None, None)


def test_words_by_hand():
    tokens = [
        {"token": " a", "prefix": None, "deletion": 1.0},
        {"token": "a", "prefix": 4.0, "deletion": 2.0},
        {"token": " b", "prefix": 1.0, "deletion": 3.0},
        {"token": " b", "prefix": 2.0, "deletion": 5.0},
        {"token": " c", "prefix": 9.0, "deletion": 9.0},
    ]
    assert by_word([{"tokens": tokens}]) == [
        {"word": "b", "count": 2, "deletion": 4.0, "prefix": 1.5},
        {"word": "a", "count": 2, "deletion": 1.5, "prefix": 4.0},
    ]


def test_texts_of_pairs_are_both_sides_and_others_stand_alone():
    pair = {"prompt": ["p"], "chosen": [" a"], "rejected": [" b"], "rejected_finished": [False]}
    assert texts_of(pair, "x", None) == [Scored("p", " a"), Scored("p", " b", False)]
    completed = {"prompt": ["p"], "completion": [" a"]}
    assert texts_of(completed, "x", None) == [Scored("p", " a")]
    assert texts_of({"text": ["t"]}, "x", None) == [Scored("", "t")]


def test_texts_on_the_page_are_no_markup():
    tokens = [{"token": "<b>&", "prefix": -2.0, "deletion": 0.5}]
    rows = [{"prompt": "<script>", "completion": "<b>&", "score": -1.0, "tokens": tokens}]
    page = document("<i>", rows, [{"word": "<u>", "count": 2, "deletion": 1.0, "prefix": None}])
    for tag in ("<b>&", "<script>", "<i>", "<u>"):
        assert tag not in page.replace("<b>by", "").replace("<b>−", "")
    assert '<span class="n5" title="−2.000">&lt;b&gt;&amp;</span>' in page
    assert '<span class="p5" title="+0.500">&lt;b&gt;&amp;</span>' in page


def test_the_command_explains_the_held_out_pairs_of_a_run(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(tmp_path / "judge")
    pairs = [{"prompt": "the film", "chosen": " is good", "rejected": " is dull"}] * 3
    write_rows(tmp_path / "pairs.jsonl", pairs)
    assert main("study credit judge --data pairs.jsonl --completions 4".split()) == 0
    rows = read_jsonl(tmp_path / "judge/reward_credit.jsonl")
    assert [row["completion"] for row in rows] == [" is good", " is dull", " is dull", " is good"]
    assert "is dull" not in capsys.readouterr().err
    assert "by deletion" in (tmp_path / "judge/reward_credit.html").read_text()
    assert main(["study", "credit", "judge"]) == 2
    assert "give --data" in capsys.readouterr().err
