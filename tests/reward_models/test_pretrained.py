"""Folders and hub names are opened whole or refused in one line."""

import json

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    RobertaConfig,
)

from reward_models import RewardError
from reward_models.pretrained import context_length, hub_must_answer, open_classifier
from reward_models.pretrained import open_pretrained as opened
from reward_models.reward_model import RewardModel

from .conftest import tiny_config, word_tokenizer

KINDS = ["gpt2", "llama", "gpt-neox"]


def lm_folder(path, kind="gpt2", auto_class=AutoModelForCausalLM, **options):
    tokenizer = word_tokenizer(pad_token="<pad>", eos_token="<eos>")
    config = tiny_config(kind, len(tokenizer))
    for key, value in options.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def edit_config(path, **values):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


def edit_weights(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_is_opened(tmp_path, kind, tied):
    lm_folder(tmp_path, kind, tie_word_embeddings=tied)
    opened(AutoModelForCausalLM, tmp_path)
    opened(AutoTokenizer, str(tmp_path))
    RewardModel.from_base(tmp_path)  # the language model's head is left over, and harmless


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_with_fewer_layers_than_the_weights_is_refused(tmp_path, kind):
    lm_folder(tmp_path, kind)
    edit_config(tmp_path, **{"n_layer" if kind == "gpt2" else "num_hidden_layers": 1})
    for open_it in (lambda: opened(AutoModelForCausalLM, tmp_path),
                    lambda: RewardModel.from_base(tmp_path)):  # fmt: skip
        with pytest.raises(RewardError, match=r"does not use .first: \S+\.1\.\S+\).*smaller"):
            open_it()


def test_a_configuration_with_more_layers_or_other_sizes_is_refused(tmp_path):
    lm_folder(tmp_path, "llama")
    edit_config(tmp_path, num_hidden_layers=3)
    with pytest.raises(RewardError, match="lacks weights of its model .first: model.layers.2"):
        opened(AutoModelForCausalLM, tmp_path)
    edit_config(tmp_path, num_hidden_layers=2, intermediate_size=48)
    with pytest.raises(RewardError, match="other shapes .*first: model.layers.0.mlp.down_proj"):
        opened(AutoModelForCausalLM, tmp_path)


def test_stored_buffers_are_harmless(tmp_path):
    lm_folder(tmp_path)

    def add(weights):
        weights["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
        weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
        weights["transformer.h.0.attn.rotary_emb.inv_freq"] = torch.ones(4)
        weights["transformer.position_ids"] = torch.arange(32)

    edit_weights(tmp_path, add)
    opened(AutoModelForCausalLM, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_is_no_language_model_and_a_language_model_no_classifier(tmp_path, kind):
    lm_folder(tmp_path / "cl", kind, AutoModelForSequenceClassification, tie_word_embeddings=True)
    with pytest.raises(RewardError, match="score.weight|lm_head.weight|embed_out.weight"):
        opened(AutoModelForCausalLM, tmp_path / "cl")
    open_classifier(tmp_path / "cl")
    lm_folder(tmp_path / "lm", kind)
    with pytest.raises(RewardError, match="first: score.weight.*train a reward model"):
        open_classifier(tmp_path / "lm")
    assert open_classifier(tmp_path / "lm", new_head=True, num_labels=1).score.out_features == 1


def test_a_reward_model_may_begin_from_a_classifier_with_more_labels(tmp_path):
    lm_folder(tmp_path, "llama", AutoModelForSequenceClassification, num_labels=3)
    assert RewardModel.from_base(tmp_path, device="cpu").model.score.out_features == 1


def test_code_in_a_folder_is_not_run(tmp_path):
    lm_folder(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')\n")
    code = {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}
    edit_config(tmp_path, model_type="mine", auto_map=code)
    with pytest.raises(RewardError, match="needs code of its own .auto_map") as error:
        opened(AutoModelForCausalLM, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_incomplete_folder_is_named_in_one_line(tmp_path, kind, missing):
    lm_folder(tmp_path, kind)
    (tmp_path / missing).unlink()
    if missing == "tokenizer.json":
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(RewardError, match="is a folder but no language model: .*expected") as error:
        opened(AutoTokenizer, tmp_path, wanted="language model")
        opened(AutoModelForCausalLM, tmp_path, wanted="language model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b/c", "/no/where", "./nowhere", "~/no/where"])
def test_a_name_that_is_no_hub_id_either_is_no_folder(name):
    with pytest.raises(RewardError, match="no model at .*there is no such folder.*spelling") as e:
        opened(AutoModelForCausalLM, name)
    assert "\n" not in str(e.value)


def test_the_hub_is_tried_once_and_the_cache_first(monkeypatch):
    calls = []

    class NoNetwork:
        def head(self, *_, **__):
            calls.append("head")
            raise ConnectionError("no route to host")

    class AutoFake:
        @staticmethod
        def from_pretrained(name, **options):
            calls.append((name, options))

    monkeypatch.setattr(huggingface_hub, "get_session", NoNetwork)
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    with pytest.raises(RewardError, match="'someone/model' is no file or folder here, and the Hug"):
        opened(AutoFake, "someone/model")
    with pytest.raises(ValueError, match="'someone/data' is no file or folder"):
        hub_must_answer("someone/data")
    assert calls == ["head", "head"]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/config.json")
    opened(AutoFake, "someone/model")
    options = {"local_files_only": True, "trust_remote_code": False}
    assert calls[2:] == [("someone/model", options)]


def test_context_length_is_the_least_that_is_known():
    class Unknown:
        config = json

    class Model:
        config = RobertaConfig(max_position_embeddings=12, pad_token_id=1)

    tokenizer = word_tokenizer(pad_token="<pad>")
    assert context_length(Unknown()) is None and context_length(Unknown(), tokenizer) is None
    assert context_length(Model()) == context_length(Model(), tokenizer) == 10
    tokenizer.model_max_length = 7
    assert context_length(Model(), tokenizer) == context_length(Unknown(), tokenizer) == 7
