"""Models and tokenizers: from a folder, a hub that may not answer, or made here."""

import json
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from reward_models.pretrained import context_length, limit_threads
from rlhf_pg.language import models
from support.language import ARCHITECTURES, TEXTS, tiny_lm


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_trained_tokenizer_gives_texts_back(kind):
    tokenizer = models.train_tokenizer(TEXTS, kind, 400)
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.padding_side == "left"


def test_a_bpe_tokenizer_knows_every_text_and_a_word_tokenizer_says_unknown():
    odd = "zebra 雪 \n\t<x>"
    bpe = models.train_tokenizer(TEXTS, "bpe", 400)
    assert bpe.decode(bpe(odd)["input_ids"]) == odd
    word = models.train_tokenizer(TEXTS, "word")
    assert word("the zebra")["input_ids"][1] == word.unk_token_id


def test_a_vocabulary_is_no_larger_than_asked():
    assert len(models.train_tokenizer(TEXTS, "word", 8)) == 8
    assert len(models.train_tokenizer(TEXTS * 50, "bpe", 300)) <= 300


def test_an_unknown_kind_of_tokenizer_is_an_error():
    with pytest.raises(ValueError, match="use 'word' or 'bpe'"):
        models.train_tokenizer(TEXTS, "letters")


def test_training_a_tokenizer_says_nothing(capfd):
    for kind in ("word", "bpe"):
        models.train_tokenizer(TEXTS * 10, kind, 300)
    assert capfd.readouterr() == ("", "")


def test_a_tiny_model_is_a_llama_that_knows_its_tokenizer(tokenizer):
    model = models.tiny_model(tokenizer, width=32, layers=1, heads=2, context=16)
    assert model.config.eos_token_id == 1 and model.config.pad_token_id == 0
    assert context_length(model) == 16 and not model.training
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 32)


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_a_tiny_model_and_its_tokenizer_are_read_back_by_transformers_alone(kind, tmp_path):
    tokenizer = models.train_tokenizer(TEXTS, kind, 400)
    model = models.tiny_model(tokenizer, 16, 1, 2)
    models.save(tmp_path, model, tokenizer)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert (again.pad_token_id, again.eos_token_id) == (0, 1)
    ids = torch.tensor([again(TEXTS[0])["input_ids"]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_saved_folder_is_a_plain_hugging_face_folder(kind, tokenizer, tmp_path):
    model = tiny_lm(kind, tokenizer).eval()
    models.save(tmp_path, model, tokenizer)
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain(ids).logits, model(ids).logits)
    assert not list(tmp_path.glob("*.bin"))
    ours, own = models.load(str(tmp_path))
    torch.testing.assert_close(ours(ids).logits, model(ids).logits)
    assert own.padding_side == "left"


def test_a_run_is_known_by_its_policy(tokenizer, llama, tmp_path):
    models.save(tmp_path / "run" / "policy", llama, tokenizer)
    assert models.model_folder(str(tmp_path / "run")) == str(tmp_path / "run" / "policy")
    assert models.model_folder(str(tmp_path / "other")) == str(tmp_path / "other")
    models.load(str(tmp_path / "run"))


def test_a_model_is_loaded_in_full_precision_without_dropout(tokenizer, tmp_path):
    models.save(tmp_path, tiny_lm("gpt2", tokenizer, resid_pdrop=0.1).bfloat16(), tokenizer)
    model, _ = models.load(str(tmp_path))
    assert next(model.parameters()).dtype == torch.float32 and not model.training


def test_a_tokenizer_without_a_pad_lends_its_eos(tokenizer, llama, tmp_path):
    tokenizer.pad_token = None
    models.save(tmp_path, llama, tokenizer)
    _, loaded = models.load(str(tmp_path))
    assert loaded.pad_token_id == loaded.eos_token_id


def test_a_tokenizer_without_an_eos_is_refused(tokenizer, llama, tmp_path):
    tokenizer.eos_token = None
    models.save(tmp_path, llama, tokenizer)
    with pytest.raises(ValueError, match="no EOS token"):
        models.load(str(tmp_path))


def test_a_tokenizer_too_large_for_its_model_is_refused(tokenizer, llama, tmp_path):
    tokenizer.add_tokens(["zebra"])
    models.save(tmp_path, llama, tokenizer)
    with pytest.raises(ValueError, match="21 tokens and its model embeds 20"):
        models.load(str(tmp_path))


def test_a_model_without_attention_is_refused(tokenizer, tmp_path):
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    models.save(tmp_path, MambaForCausalLM(MambaConfig(**sizes)), tokenizer)
    with pytest.raises(ValueError, match="MambaForCausalLM has no key-value cache"):
        models.load(str(tmp_path))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_is_no_model_is_said_to_be_none(base, missing):
    (Path(base) / missing).unlink()
    if missing == "tokenizer.json":
        (Path(base) / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="is a folder but no causal language model") as error:
        models.load(base)
    assert "\n" not in str(error.value)


def test_a_tokenizer_whose_words_were_renumbered_is_refused(base):
    path = Path(base) / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["film"], words["plot"] = words["plot"], words["film"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="another vocabulary than the model was saved with"):
        models.load(base)


def test_pickled_weights_are_not_read(base):
    path = Path(base)
    weights = AutoModelForCausalLM.from_pretrained(path).state_dict()
    (path / "model.safetensors").unlink()
    torch.save(weights, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no causal language model"):
        models.load(base)


def test_a_name_that_is_nothing_says_what_makes_one():
    with pytest.raises(ValueError, match="no run at runs/base; `rlhf-pg finetune`"):
        models.load("runs/base")
    with pytest.raises(ValueError, match="no model at 'a/b/c'"):
        models.load("a/b/c")


def test_a_hub_that_does_not_answer_is_said_so_at_once(no_network):
    began = time.monotonic()
    with pytest.raises(ValueError, match="'someone/model' is no file or folder here, and the Hug"):
        models.load("someone/model")
    assert no_network.calls == 1 and time.monotonic() - began < 5


def test_a_cached_model_is_read_without_asking_the_network(no_network, monkeypatch):
    asked = []

    def from_pretrained(source, local_files_only, **_):
        asked.append((source, local_files_only))
        raise OSError("far enough")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.raises(ValueError, match="no model at 'someone/model'"):
        models.load("someone/model")
    assert asked == [("someone/model", True)] and no_network.calls == 0


def test_small_models_get_one_thread_unless_the_user_said_otherwise(llama, monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_threads(llama)
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads(llama)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_are_missing_are_not_made_up(kind, tied, tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file

    models.save(tmp_path, tiny_lm(kind, tokenizer, tie_word_embeddings=tied), tokenizer)
    models.load(str(tmp_path))  # a tied head is not missing
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    lost = next(name for name in sorted(weights) if ".0." in name)
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks weights of its model .first: {lost}"):
        models.load(str(tmp_path))
