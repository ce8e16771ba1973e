"""Fixtures that several folders use. Functions and classes they share are in tests/support."""

import os

import huggingface_hub
import pytest
import torch

ARCHITECTURES = ["gpt2", "llama", "qwen2", "gpt-neox"]


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny models gain nothing from more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Files read through `datasets` are not cached in the user's home."""
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory):
    """Runs are signed with a secret of the tests' own, also in the commands that they start."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


class NoNetwork:
    """A hub client that reaches nothing; counts its calls."""

    calls = 0

    def head(self, *_, **__):
        NoNetwork.calls += 1
        raise ConnectionError("no route to host")


@pytest.fixture
def no_network(monkeypatch):
    """The hub cannot be reached, and offline mode is not set."""
    NoNetwork.calls = 0
    monkeypatch.setattr(huggingface_hub, "get_session", NoNetwork)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return NoNetwork


# Language models. transformers is imported where it is used: most of the core's tests do without.


@pytest.fixture
def tokenizer():
    """Whole words of three sentences."""
    from rlhf_pg.language import models
    from support.language import TEXTS

    return models.train_tokenizer(TEXTS, "word")


@pytest.fixture(params=ARCHITECTURES)
def lm(request, tokenizer):
    """A tiny untrained model, of each architecture in turn."""
    from support.language import tiny_lm

    return tiny_lm(request.param, tokenizer)


@pytest.fixture
def llama(tokenizer):
    """A tiny untrained Llama."""
    from support.language import tiny_lm

    return tiny_lm("llama", tokenizer)


@pytest.fixture
def base(tmp_path, tokenizer):
    """The folder of a tiny model."""
    from rlhf_pg.language import models
    from support.language import tiny_lm

    models.save(tmp_path / "base", tiny_lm("llama", tokenizer, spread=0.1), tokenizer)
    return str(tmp_path / "base")


# Tabular policies.


@pytest.fixture
def tree():
    """121 completions of at most 4 tokens out of 4."""
    from support.core import Tree

    return Tree(length=4)


@pytest.fixture
def small_tree():
    """13 completions of at most 2 tokens, for tests that enumerate pairs of them."""
    from support.core import Tree

    return Tree(length=2)
