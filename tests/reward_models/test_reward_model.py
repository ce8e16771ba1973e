"""A reward model reads the last real token, whatever stands around it."""

import json
import logging
import math

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from reward_models import RewardError
from reward_models.reward_model import SIDECAR, RewardModel

from .conftest import tiny_config, word_tokenizer

PROMPTS = ["the film", "a plot", "the", "by far the long and very very long plot"]
COMPLETIONS = [" was good", " was not so very dull and bad", "", " was great"]


def model_of(kind="gpt2", tokenizer=None, **options) -> RewardModel:
    tokenizer = tokenizer or word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    config = tiny_config(kind, len(tokenizer), options.pop("context", 32))
    return RewardModel.from_base(config, tokenizer, device="cpu", **options)


def folder_of_lm(path, tokenizer, kind="gpt2"):
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer))).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gpt-neox"])
def test_a_score_does_not_depend_on_the_batch_around_it(kind):
    model = model_of(kind)
    together = model(prompts=PROMPTS, completions=COMPLETIONS)
    alone = [model([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(together)) == 4
    model.batch_size = 3
    assert model(PROMPTS[::-1], COMPLETIONS[::-1]) == pytest.approx(alone[::-1], abs=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_tokenizers_padding_side_changes_nothing(kind):
    model = model_of(kind)
    scores = model(PROMPTS, COMPLETIONS)
    model.tokenizer.padding_side = "left"
    assert model(PROMPTS, COMPLETIONS) == scores


def test_a_pad_token_inside_the_text_is_a_token_like_any_other():
    """The end comes from the length: a row that ends in the pad's id is read there."""
    model = model_of()
    pad = model.tokenizer.pad_token_id
    row, longer = [5, 6, pad], [5, 6, 7, 8, 9]
    alone = model.score_rows([row])
    assert model.score_rows([row, longer])[0] == pytest.approx(alone[0].item(), abs=1e-6)
    assert abs(model.score_rows([row[:2]])[0] - alone[0]) > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_hugging_faces_own_forward_gives_the_same_raw_score(kind):
    model = model_of(kind)
    for row in model.encode(PROMPTS, COMPLETIONS):
        padded = torch.tensor([row + [model.tokenizer.pad_token_id] * 3])
        theirs = model.model(padded, attention_mask=(padded != model.tokenizer.pad_token_id).long())
        assert model.score_rows([row]).item() == pytest.approx(theirs.logits.item(), abs=1e-5)


def test_ended_and_cut_texts_score_differently():
    model = model_of()
    prompts, completions = ["the film"] * 2, [" was good"] * 2
    rows = model.encode(prompts, completions, [True, False])
    assert rows[0] == [*rows[1], model.tokenizer.eos_token_id]
    ended, cut = model(prompts, completions, finished=[True, False])
    assert abs(ended - cut) > 1e-3
    assert model(prompts, completions) == pytest.approx([ended, ended])


def test_a_tokenizer_that_adds_bos_and_eos_itself_says_no_more_about_the_end():
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    rows = model_of(tokenizer=tokenizer).encode(["the"] * 2, [" film"] * 2, [True, False])
    assert [tokenizer.convert_ids_to_tokens(row) for row in rows] == [
        ["<bos>", "the", "film", "<eos>"],
        ["<bos>", "the", "film"],
    ]


def test_an_empty_text_and_an_empty_batch_are_scored():
    model = model_of()
    assert model([], []) == []
    assert all(map(math.isfinite, model(["", ""], ["", ""], finished=[True, False])))


def test_a_long_text_loses_its_beginning_with_a_note(caplog):
    model = model_of(context=8)
    with caplog.at_level(logging.WARNING):
        rows = model.encode(["the " * 20], [" was good"])
    tokens = model.tokenizer.convert_ids_to_tokens(rows[0])
    assert tokens == ["the"] * 5 + ["was", "good", "<eos>"]
    assert "cut on the left to its context of 8" in caplog.text


def test_dropout_is_off_when_scoring():
    model = model_of()
    model.model.train()
    assert model(PROMPTS, COMPLETIONS) == model(PROMPTS, COMPLETIONS)


def test_the_heads_spread_is_one_over_root_d_plus_one():
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    config = tiny_config("gpt2", len(tokenizer))
    config.n_embd = 1024
    head = RewardModel.from_base(config, tokenizer, seed=1, device="cpu").model.score.weight
    assert head.std().item() == pytest.approx(1 / math.sqrt(1025), rel=0.1)
    again = RewardModel.from_base(config, tokenizer, seed=1, device="cpu").model.score.weight
    assert torch.equal(head, again)


def test_a_language_models_trunk_is_taken_over_from_folder_and_memory(tmp_path, tokenizer):
    folder = folder_of_lm(tmp_path / "lm", tokenizer)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    for base, given in ((folder, None), (str(folder), None), (lm, tokenizer)):
        model = RewardModel.from_base(base, given, device="cpu")
        ours, theirs = model.model.base_model.state_dict(), lm.base_model.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("special", [{"eos_token": "<eos>"},
                                     {"eos_token": "<eos>", "pad_token": "<eos>"}])  # fmt: skip
def test_a_pad_token_that_is_missing_or_eos_is_mended(tmp_path, special):
    tokenizer = word_tokenizer(**special)
    folder = folder_of_lm(tmp_path / "lm", tokenizer)
    model = RewardModel.from_base(folder, device="cpu")
    assert model.tokenizer.pad_token == "<pad>"
    assert model.tokenizer.pad_token_id == len(tokenizer) == model.model.config.pad_token_id
    assert model.model.get_input_embeddings().weight.shape[0] == len(tokenizer) + 1
    alone = [model([p], [c])[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    assert model(PROMPTS, COMPLETIONS) == pytest.approx(alone, abs=1e-5)
    model.save_pretrained(tmp_path / "rm")
    again = RewardModel.from_pretrained(tmp_path / "rm", device="cpu")
    assert again(PROMPTS, COMPLETIONS) == model(PROMPTS, COMPLETIONS)


def test_a_pad_token_that_is_eos_is_refused_where_it_cannot_be_mended():
    model = model_of()
    model.tokenizer.pad_token = "<eos>"
    with pytest.raises(RewardError, match="pad is the same token as EOS.*from_base"):
        RewardModel(model.model, model.tokenizer)


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(RewardError, match="EOS"):
        model_of(tokenizer=word_tokenizer(pad_token="<pad>"))


def test_saved_and_opened_again_it_is_the_same_bit_for_bit(tmp_path):
    model = model_of("llama")
    model.mean, model.std, model.report = 0.3, 2.5, {"accuracy": 0.75, "pairs": 4}
    model.save_pretrained(tmp_path / "runs" / "rm")
    again = RewardModel.from_pretrained(tmp_path / "runs" / "rm", device="cpu")
    assert again(PROMPTS, COMPLETIONS) == model(PROMPTS, COMPLETIONS)
    assert (again.mean, again.std, again.report) == (0.3, 2.5, model.report)
    mine, theirs = model.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    files = {path.name for path in (tmp_path / "runs" / "rm").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", SIDECAR} <= files
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "runs" / "rm")
    assert plain.config.num_labels == 1


def test_a_save_that_fails_leaves_the_old_model_and_no_half(tmp_path):
    model = model_of()
    model.save_pretrained(tmp_path / "rm")
    before = model(PROMPTS, COMPLETIONS)
    model.report = {"loss": float("nan")}  # JSON has no NaN
    with pytest.raises(ValueError):
        model.save_pretrained(tmp_path / "rm")
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]
    again = RewardModel.from_pretrained(tmp_path / "rm", device="cpu")
    assert again(PROMPTS, COMPLETIONS) == pytest.approx(before, abs=1e-5)
    model.report, model.mean = {}, 7.0
    model.save_pretrained(tmp_path / "rm")
    assert RewardModel.from_pretrained(tmp_path / "rm", device="cpu").mean == 7.0
    assert [path.name for path in tmp_path.iterdir()] == ["rm"]


def test_a_folder_with_something_else_in_it_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RewardError, match="holds something else"):
        model_of().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_folders_that_are_no_reward_model_are_named(tmp_path, tokenizer):
    lm = folder_of_lm(tmp_path / "lm", tokenizer)
    with pytest.raises(RewardError, match="no trained reward model"):
        RewardModel.from_pretrained(lm)
    (lm / SIDECAR).write_text(json.dumps({"mean": 0.0, "std": 1.0}))
    with pytest.raises(
        RewardError, match="lacks weights of its model .*score.weight.*train a reward model"
    ):
        RewardModel.from_pretrained(lm)
    for broken in ("{", '{"mean": 0}', '{"mean": 0, "std": 0}', "[]", '{"mean": NaN, "std": 1}'):
        (lm / SIDECAR).write_text(broken)
        with pytest.raises(RewardError, match=SIDECAR):
            RewardModel.from_pretrained(lm)


def test_weights_in_a_pickle_are_not_read(tmp_path, tokenizer):
    lm = folder_of_lm(tmp_path / "lm", tokenizer)
    weights = AutoModelForCausalLM.from_pretrained(lm).state_dict()
    (lm / "model.safetensors").unlink()
    torch.save(weights, lm / "pytorch_model.bin")
    with pytest.raises(RewardError, match="safetensors"):
        RewardModel.from_base(lm)
