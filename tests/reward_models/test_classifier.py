"""Sequence classifiers as rewards: labels by name, decoders and encoders."""

import logging
import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, RobertaConfig

from reward_models import RewardError
from reward_models.classifier import Classifier

from .conftest import tiny_config, word_tokenizer

PROMPTS = ["the film", "a plot", "by far the long and very long plot"]
COMPLETIONS = [" was good", " was not so very dull and bad", " was great"]
LABELS = {0: "Negative", 1: "neutral", 2: "positive"}


def save(path, kind="gpt2", labels=LABELS, tokenizer=None, **options):
    tokenizer = tokenizer or word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    size |= {"intermediate_size": 32, "vocab_size": len(tokenizer), "bos_token_id": None}
    if kind == "bert":
        config = BertConfig(max_position_embeddings=12, **size)
    elif kind == "roberta":
        config = RobertaConfig(max_position_embeddings=12, pad_token_id=0, **size)
    else:
        config = tiny_config(kind, len(tokenizer), 12)
    config.id2label, config.label2id = labels, {name: i for i, name in labels.items()}
    config.pad_token_id = tokenizer.pad_token_id
    for key, value in options.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_a_score_does_not_depend_on_the_batch_around_it(tmp_path, kind):
    reward = Classifier(save(tmp_path, kind) + "#positive", device="cpu")
    together = reward(prompts=PROMPTS, completions=COMPLETIONS, finished=[True] * 3)
    alone = [reward([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 3
    assert reward([], []) == []


def test_the_label_is_found_by_name_case_or_number(tmp_path):
    path = save(tmp_path)
    for label, number in [("positive", 2), ("NEGATIVE", 0), ("1", 1)]:
        assert Classifier(path, label, device="cpu").label == number
    with pytest.raises(RewardError, match="'positve'. Did you mean 'positive'.*Negative, neutral"):
        Classifier(f"{path}#positve", device="cpu")
    with pytest.raises(RewardError, match="choose one: .*#LABEL with Negative, neutral, positive"):
        Classifier(path, device="cpu")


def test_logits_and_probabilities_agree(tmp_path):
    path = save(tmp_path)
    every = {
        score: torch.tensor([Classifier(path, str(i), score, "cpu")(PROMPTS, COMPLETIONS)
                             for i in range(3)])
        for score in ("logit", "logprob", "prob")
    }  # fmt: skip
    assert torch.allclose(every["prob"].sum(0), torch.ones(3))
    assert torch.allclose(every["logit"].softmax(0), every["prob"])
    assert torch.allclose(every["logprob"].exp(), every["prob"])


@pytest.mark.parametrize("labels", [{0: "toxic"}, LABELS])
def test_labels_that_do_not_exclude_each_other_have_a_sigmoid(tmp_path, labels):
    path = save(tmp_path, labels=labels, problem_type="multi_label_classification")
    label = "0" if len(labels) > 1 else None
    (logit,) = Classifier(path, label, device="cpu")(["the film"], [" was good"])
    (prob,) = Classifier(path, label, "prob", "cpu")(["the film"], [" was good"])
    assert prob == pytest.approx(1 / (1 + math.exp(-logit)))


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta"])
def test_a_long_text_loses_its_beginning_with_a_note(tmp_path, kind, caplog):
    reward = Classifier(save(tmp_path, kind) + "#positive", device="cpu")
    assert reward.limit == (11 if kind == "roberta" else 12)
    tail = " was good and very long" + " so" * (reward.limit - 5)
    with caplog.at_level(logging.WARNING):
        long, short = reward(["the film " * 20, ""], [tail, tail])
    assert long == pytest.approx(short, abs=1e-5)
    assert f"1 texts cut on the left to its context of {reward.limit}" in caplog.text


def test_a_decoder_whose_pad_is_eos_is_refused(tmp_path):
    tokenizer = word_tokenizer(eos_token="<eos>", pad_token="<eos>")
    with pytest.raises(RewardError, match="pad is the same token as EOS.*pad token of its own"):
        Classifier(save(tmp_path, tokenizer=tokenizer), "positive", device="cpu")


def test_without_a_pad_token_texts_are_scored_one_by_one(tmp_path):
    with_pad = Classifier(save(tmp_path / "a"), "positive", device="cpu")
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    tokenizer.pad_token = None
    without = Classifier(save(tmp_path / "b", tokenizer=tokenizer), "positive", device="cpu")
    assert without.batch_size == 1
    assert without(PROMPTS, COMPLETIONS) == pytest.approx(with_pad(PROMPTS, COMPLETIONS), abs=1e-5)


def test_what_is_no_classifier_is_named(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RewardError, match="empty is a folder but no reward model or sequence"):
        Classifier(str(tmp_path / "empty"), "positive")
    with pytest.raises(RewardError, match="no such folder"):
        Classifier(str(tmp_path / "missing"), "positive")
    with pytest.raises(RewardError, match="unknown score 'odds'; it is one of logit"):
        Classifier(str(tmp_path), score="odds")


def test_a_hub_name_without_a_network_is_one_clear_line(monkeypatch):
    import huggingface_hub

    def no_network():
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(huggingface_hub, "get_session", no_network)
    with pytest.raises(
        RewardError, match="'someone/model' is no file or folder.*cannot be reached"
    ) as e:
        Classifier("someone/model#positive")
    assert "\n" not in str(e.value)
