"""Next-token training: the loss falls, EOS is learned, every text is read once a pass."""

import math
from pathlib import Path

import pytest
import torch

from rlhf_pg.language import models
from rlhf_pg.language.config import FinetuneConfig
from rlhf_pg.language.finetune import (
    NextTokenTrainer,
    corpus_loss,
    encode,
    finetune,
    length_buckets,
    next_token_loss,
    read_corpus,
)
from rlhf_pg.runs import METRICS, read_jsonl
from support.language import TEXTS, tiny_lm, write_rows


@pytest.fixture
def corpus(tmp_path):
    return write_rows(tmp_path / "corpus.jsonl", [{"text": text} for text in TEXTS * 20])


@pytest.fixture
def config_of(corpus, tmp_path):
    def config_of(**changes):
        small = {
            "width": 32,
            "layers": 1,
            "heads": 2,
            "context": 32,
            "epochs": 6,
            "batch_size": 8,
            "lr": 1e-2,
        }
        options = {"data": corpus, "output": str(tmp_path / "run"), **small, **changes}
        return FinetuneConfig(**options)

    return config_of


def test_the_loss_falls_and_the_run_is_whole(config_of):
    run = finetune(config_of())
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert set().union(*lines) <= set(METRICS)
    held_out = [line["held_out_loss"] for line in lines if "held_out_loss" in line]
    assert len(held_out) == 6 and held_out[-1] < 1.0 < held_out[0]
    model, tokenizer = models.load(str(run.path))
    again = corpus_loss(model, encode(tokenizer, read_corpus(config_of())[1], 32))
    assert again == pytest.approx(held_out[-1], abs=1e-5)


def test_the_learning_rate_depends_on_the_size_of_the_model(config_of, monkeypatch, capsys):
    assert config_of(lr=None).lr is None and FinetuneConfig().lr is None
    finetune(config_of(lr=None, epochs=1))
    assert "learning rate 0.003" in capsys.readouterr().out
    monkeypatch.setattr("rlhf_pg.language.finetune.TINY", 1000)  # the model is larger than that
    finetune(config_of(lr=None, epochs=1, output=config_of().output + "-large"))
    assert "learning rate 5e-05" in capsys.readouterr().out


def test_held_out_texts_are_none_of_those_trained_on(config_of, tmp_path, monkeypatch):
    texts = [f"the film {i} is good ." for i in range(60)]
    data = write_rows(tmp_path / "many.jsonl", [{"text": text} for text in texts])
    learned, held_out = read_corpus(config_of(data=data))
    assert learned + held_out == texts and len(held_out) == 3
    seen, first = [], NextTokenTrainer.__init__
    monkeypatch.setattr(
        NextTokenTrainer, "__init__", lambda self, *given: seen.append(given) or first(self, *given)
    )
    finetune(config_of(data=data, epochs=1))
    rows = [value for value in seen[0] if isinstance(value, list)]
    assert [len(row) for row in rows] == [57, 3]
    assert not {tuple(row) for row in rows[0]} & {tuple(row) for row in rows[1]}


def test_held_out_texts_are_not_trained_on_and_steps_are_counted_right(config_of):
    run = finetune(config_of(epochs=2))
    # 60 texts, 3 of them held out, make 8 batches a pass.
    lines = read_jsonl(run.path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [8, 10, 16]


def test_the_model_learns_to_end(config_of, tokenizer):
    run = finetune(config_of())
    model, tokenizer = models.load(str(run.path))
    whole, half = TEXTS[0], "the film is good and"
    with torch.no_grad():
        end = [
            float(
                model(torch.tensor([tokenizer(text)["input_ids"]]))
                .logits[0, -1]
                .softmax(-1)[tokenizer.eos_token_id]
            )
            for text in (whole, half)
        ]
    assert end[0] > 0.5 > 0.05 > end[1]


def test_the_same_seed_trains_the_same_model(config_of, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = finetune(config_of(epochs=1, seed=seed, output=str(tmp_path / name)))
        weights.append((run.path / "policy" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_pretrained_model_is_trained_on_with_its_own_tokenizer(config_of, base, tmp_path):
    run = finetune(config_of(model=base, epochs=1))
    _, tokenizer = models.load(str(run.path))
    assert tokenizer.get_vocab() == models.load(base)[1].get_vocab()


def test_every_text_ends_in_eos_and_long_ones_are_in_pieces(tokenizer):
    words = tokenizer("the film is good and long and clear .")["input_ids"]
    whole = [*words, tokenizer.eos_token_id]
    for limit in range(2, len(whole) + 3):
        pieces = encode(tokenizer, ["the film is good and long and clear ."], limit)
        assert max(map(len, pieces)) <= limit and min(map(len, pieces)) >= 2
        predicted = [token for piece in pieces for token in piece[1:]]
        assert [pieces[0][0], *predicted] == whole


def test_texts_in_pieces_are_counted(config_of, capsys):
    finetune(config_of(context=4, epochs=1))
    printed = capsys.readouterr().out
    assert "texts longer than the context of 4 tokens are trained on in pieces" in printed


def test_every_text_is_in_one_batch_and_like_lengths_are_together():
    texts = [[i] * (i % 7 + 1) for i in range(50)]
    generator = torch.Generator().manual_seed(0)
    first, second = (length_buckets(texts, 8, generator) for _ in range(2))
    assert sorted(row for batch in first for row in batch) == sorted(texts)
    assert [len(batch) for batch in sorted(first, key=len)] == [2, 8, 8, 8, 8, 8, 8]
    assert all(max(map(len, b)) - min(map(len, b)) <= 1 for b in first if len(b) == 8)
    assert first != second


def by_hand(model, rows):
    """Summed loss and count of the predicted tokens, one text at a time."""
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logp = model(torch.tensor([row])).logits[0].log_softmax(-1)
        total -= sum(float(logp[t, row[t + 1]]) for t in range(len(row) - 1))
        count += len(row) - 1
    return total, count


def test_the_loss_is_the_mean_over_real_tokens_eos_among_them(lm, tokenizer):
    lm.eval()
    rows = encode(tokenizer, ["the film", TEXTS[0], "a"], 48)
    total, count = by_hand(lm, rows)
    assert count == 2 + 10 + 1
    assert float(next_token_loss(lm, rows).detach()) == pytest.approx(total / count, rel=1e-4)


def test_the_loss_is_the_same_where_pad_is_eos(tokenizer):
    model = tiny_lm("gpt2", tokenizer).eval()
    rows = encode(tokenizer, ["the film", TEXTS[0]], 48)
    before = float(next_token_loss(model, rows).detach())
    model.config.pad_token_id = tokenizer.eos_token_id
    assert float(next_token_loss(model, rows).detach()) == before


def test_the_held_out_loss_is_per_token_and_not_per_batch(llama, tokenizer):
    llama.eval()
    rows = encode(tokenizer, ["a", "a", "a", *TEXTS], 48)
    total, count = by_hand(llama, rows)
    for batch_size in (1, 4, 128):
        assert corpus_loss(llama, rows, batch_size) == pytest.approx(total / count, rel=1e-4)


def test_a_held_out_file_is_used_where_it_is_given(config_of, tmp_path):
    (tmp_path / "test.txt").write_text("a long film .\n")
    train, test = read_corpus(config_of(test=str(tmp_path / "test.txt")))
    assert test == ["a long film ."] and len(train) == 60


def test_a_loss_that_is_no_longer_finite_is_an_error_and_leaves_no_model(config_of, monkeypatch):
    monkeypatch.setattr("rlhf_pg.language.finetune.corpus_loss", lambda *_: math.nan)
    config = config_of(epochs=1)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        finetune(config)
    assert not (Path(config.output) / "policy").exists()
    assert not list(Path(config.output).glob(".*"))
