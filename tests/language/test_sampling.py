"""What was sampled is what is scored; masks come from lengths; texts keep their spaces."""

import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from rlhf_pg.language import models
from rlhf_pg.language.decode import Decoder
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import unscored
from rlhf_pg.language.sampling import (
    OwnForward,
    completion_texts,
    continue_from,
    encode,
    pad_left,
    pad_right,
    sample,
)
from support.language import (
    PROMPTS,
    TEXTS,
    NumberTokenizer,
    alone,
    counting_policy,
    draw,
    tiny_lm,
    with_values,
)

MANY = PROMPTS * 6


@pytest.fixture
def compactions(monkeypatch):
    """How many rows were left each time that finished rows were dropped."""
    kept = []

    def count(kind):
        original = kind.keep

        def counted(self, rows):
            kept.append(len(rows))
            return original(self, rows)

        monkeypatch.setattr(kind, "keep", counted)

    count(Decoder)
    count(OwnForward)
    return kept


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_was_sampled_is_what_is_scored(lm, tokenizer, compactions, temperature):
    policy = with_values(LanguagePolicy(lm, temperature))
    done = draw(policy, tokenizer, MANY)
    assert compactions and len(set(done.mask.sum(1).tolist())) >= 4
    now = policy.evaluate(unscored(done))
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(now.logprobs[done.mask], done.logprobs[done.mask], **close)
    close = {"atol": 1e-5, "rtol": 1e-5}  # values are not small
    torch.testing.assert_close(now.values[done.mask], done.values[:, :-1][done.mask], **close)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_padding_and_dropped_rows_change_nothing(lm, tokenizer, compactions, temperature):
    policy = with_values(LanguagePolicy(lm, temperature))
    done = draw(policy, tokenizer, MANY)
    assert compactions and done.prompt_mask.sum(1).min() < done.prompt_mask.shape[1]
    for row in range(len(MANY)):
        logprobs, tokens, values = alone(policy, done, row)
        real = done.mask[row]
        own = logprobs.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(done.logprobs[row][real], own, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(done.values[row, :-1][real], values, atol=1e-5, rtol=1e-5)


def test_a_sliding_window_slides_over_what_is_real(tokenizer, compactions):
    """Past keys and values are cut to the window; rows are dropped from what is left of them."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.4}
    config = MistralConfig(vocab_size=len(tokenizer), sliding_window=4, **sizes, **heads)
    torch.manual_seed(0)
    policy = LanguagePolicy(AutoModelForCausalLM.from_config(config), critic="none")
    done = draw(policy, tokenizer, MANY)
    assert compactions
    for row in range(len(MANY)):
        logprobs, tokens, _ = alone(policy, done, row)
        own = logprobs.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(done.logprobs[row][done.mask[row]], own, atol=1e-5, rtol=0)


def test_left_padding_would_shift_positions_if_it_were_let(tokenizer):
    """The test above can fail: a GPT-2 that counts pads as positions says something else."""
    model = tiny_lm("gpt2", tokenizer).eval()
    ids, mask = pad_left(encode(tokenizer, PROMPTS), tokenizer.pad_token_id, "cpu")
    right = LanguagePolicy(model)(ids, mask, keep=1)[0]
    wrong = model(ids, attention_mask=mask).logits[:, -1:].log_softmax(-1)
    assert (right - wrong).abs().max() > 0.1


def chi_square_fits(counts, probs):
    """Whether the counts are within 3.5 standard deviations of what the probabilities say."""
    expected = probs * counts.sum()
    statistic, freedom = float(((counts - expected) ** 2 / expected).sum()), len(probs) - 1
    return abs(statistic - freedom) < 3.5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_token_of_the_vocabulary_comes_as_often_as_the_model_says(tokenizer, temperature):
    """Nothing is cut off: no top-k, no top-p."""
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.2), temperature)
    done = draw(policy, tokenizer, ["the film"] * 8_000, steps=1)
    with torch.no_grad():
        logits = policy.model(torch.tensor(encode(tokenizer, ["the film"]))).logits[0, -1]
    counts = torch.bincount(done.ids[:, 0], minlength=len(tokenizer)).double()
    assert chi_square_fits(counts, (logits / temperature).softmax(0).double())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_completions_come_as_often_as_the_model_says(compactions, temperature):
    """Every completion of at most 3 of 5 tokens, by a chi-square test at fixed seed."""
    tokenizer = models.train_tokenizer(["x y"], "word")
    policy = LanguagePolicy(tiny_lm("llama", tokenizer, spread=0.2), temperature)
    eos, words = tokenizer.eos_token_id, [i for i in range(5) if i != tokenizer.eos_token_id]
    completions = [
        (*words_before, eos)
        for n in range(3)
        for words_before in itertools.product(words, repeat=n)
    ] + list(itertools.product(words, repeat=3))
    prompt = encode(tokenizer, ["x"])[0]
    expected = {}
    for completion in completions:
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*prompt, *completion]])).logits[0]
        logp = (logits / temperature).log_softmax(-1)[len(prompt) - 1 : -1]
        expected[completion] = math.exp(
            sum(float(logp[t, token]) for t, token in enumerate(completion))
        )
    assert sum(expected.values()) == pytest.approx(1, abs=1e-5)

    draws = 20_000
    done = draw(policy, tokenizer, ["x"] * draws, steps=3)
    assert compactions
    counts = dict.fromkeys(completions, 0)
    for ids, mask in zip(done.ids, done.mask, strict=True):
        counts[tuple(ids[mask].tolist())] += 1
    probs = torch.tensor([expected[c] for c in completions], dtype=torch.float64)
    assert chi_square_fits(torch.tensor([counts[c] for c in completions]).double(), probs)


def test_the_same_seed_gives_the_same_completions(llama, tokenizer):
    policy = LanguagePolicy(llama)
    first, again, other = (draw(policy, tokenizer, MANY, seed=seed) for seed in (3, 3, 4))
    assert first.texts == again.texts != other.texts
    assert torch.equal(first.logprobs, again.logprobs)


def test_sampling_leaves_the_global_generator_alone(llama, tokenizer):
    policy = LanguagePolicy(llama)
    before = torch.get_rng_state()
    draw(policy, tokenizer)
    assert torch.equal(before, torch.get_rng_state())


def test_eos_is_an_action_and_the_last_one(llama, tokenizer):
    done = draw(LanguagePolicy(llama), tokenizer, MANY)
    eos = tokenizer.eos_token_id
    assert 0 < done.finished.sum() < len(MANY)
    for row in range(len(MANY)):
        tokens = done.ids[row][done.mask[row]].tolist()
        assert eos not in tokens[:-1] and (tokens[-1] == eos) == bool(done.finished[row])
        assert len(tokens) == 12 or done.finished[row]
        assert (done.logprobs[row][done.mask[row]] < 0).all()
        assert (done.ids[row][~done.mask[row]] == tokenizer.pad_token_id).all()
        assert not done.logprobs[row][~done.mask[row]].any()


def test_masks_come_from_lengths_where_pad_is_eos(llama, tokenizer):
    apart = draw(LanguagePolicy(llama), tokenizer, MANY)
    tokenizer.pad_token = tokenizer.eos_token
    same = draw(LanguagePolicy(llama), tokenizer, MANY)
    assert torch.equal(same.mask, apart.mask) and torch.equal(same.prompt_mask, apart.prompt_mask)
    assert (same.ids[same.finished, same.mask.sum(1)[same.finished] - 1] == 1).all()
    torch.testing.assert_close(same.logprobs, apart.logprobs)


def test_the_pad_token_is_an_action_like_any_other_where_it_is_sampled(llama, tokenizer):
    pad = tokenizer.pad_token_id
    policy = LanguagePolicy(llama)
    done = draw(policy, tokenizer, MANY * 4)
    inside = (done.ids == pad) & done.mask
    assert inside.any()
    row = int(inside.any(1).nonzero()[0])
    logprobs, tokens, _ = alone(LanguagePolicy(llama, critic="none"), done, row)
    assert pad in tokens
    own = logprobs.gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(done.logprobs[row][done.mask[row]], own, atol=1e-5, rtol=0)


def test_counting_ends_where_the_numbers_end(compactions):
    """The model says i + 1 after i, and 9 is EOS: every row's length is known."""
    tokenizer = NumberTokenizer()
    generator = torch.Generator().manual_seed(0)
    prompts = ["8", "3 4", "2", "6 7", "8", "8"]
    done = sample(counting_policy(), tokenizer, prompts, 5, generator)
    assert compactions == [3, 2, 1]
    rows = [ids[mask].tolist() for ids, mask in zip(done.ids, done.mask, strict=True)]
    assert rows == [[9], [5, 6, 7, 8, 9], [3, 4, 5, 6, 7], [8, 9], [9], [9]]
    assert done.finished.tolist() == [True, True, False, True, True, True]
    assert done.texts == ["", " 5 6 7 8", " 3 4 5 6 7", " 8", "", ""]


def test_values_are_read_before_the_token_and_once_after_the_last():
    done = sample(counting_policy(), NumberTokenizer(), ["3 4", "2"], 3, torch.Generator())
    # V(s_t) = 100 * the last token of s_t + its position, counted from the first real token.
    assert done.values.tolist() == [[401, 502, 603, 704], [200, 301, 402, 503]]


def test_a_batch_that_ends_early_is_as_wide_as_its_longest_row():
    done = sample(counting_policy(), NumberTokenizer(), ["8", "7"], 50, torch.Generator())
    assert done.ids.tolist() == [[9, 0], [8, 9]]
    assert done.mask.tolist() == [[True, False], [True, True]]
    assert done.values.shape == (2, 3) and done.logprobs.shape == (2, 2)


def test_one_token_at_most_is_one_token(llama, tokenizer):
    done = draw(LanguagePolicy(llama), tokenizer, steps=1)
    assert done.ids.shape == (len(PROMPTS), 1) and done.mask.all()


def test_greedy_takes_the_likeliest_token(lm, tokenizer):
    policy = LanguagePolicy(lm, critic="none")
    done = draw(policy, tokenizer, greedy=True)
    for row in range(len(PROMPTS)):
        logprobs, tokens, _ = alone(policy, done, row)
        assert tokens.tolist() == logprobs.argmax(1).tolist()


def test_rows_are_padded_on_the_left_or_on_the_right():
    ids, mask = pad_left([[5], [6, 7, 8]], 0, "cpu")
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]] and mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    ids, mask = pad_right([[5], [6, 7, 8]], 0, "cpu")
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8]] and mask.dtype == torch.bool
    assert mask.tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize("kind", ["word", "bpe"])
def test_prompt_and_completion_make_the_text_again(kind):
    tokenizer = models.train_tokenizer(TEXTS, kind, 300)
    for text, cut in itertools.product(TEXTS, (1, 3, 5)):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        head, tail = ids[:cut], torch.cat([ids[cut:], torch.tensor([tokenizer.eos_token_id])])
        ones = torch.ones_like
        (completion,) = completion_texts(
            tokenizer, head[None], ones(head)[None], tail[None], ones(tail)[None]
        )
        assert tokenizer.decode(head) + completion == text


def test_texts_hold_no_special_tokens_and_tokenise_to_what_was_sampled(llama, tokenizer):
    done = draw(LanguagePolicy(llama), tokenizer, MANY)
    special = set(tokenizer.all_special_ids)
    for row, text in enumerate(done.texts):
        assert not any(token in text for token in ("<pad>", "<eos>", "<unk>"))
        sampled = [i for i in done.ids[row][done.mask[row]].tolist() if i not in special]
        prompt = tokenizer(done.prompts[row])["input_ids"]
        assert tokenizer(done.prompts[row] + text)["input_ids"] == prompt + sampled


def test_a_completion_keeps_its_space_after_a_prompt_of_unknown_words(llama, tokenizer):
    done = draw(LanguagePolicy(llama), tokenizer, ["zebra", "zebra quagga"] * 10)
    assert all(text == "" or text.startswith(" ") for text in done.texts)


def test_a_bos_begins_the_prompt_and_no_eos_ends_it(llama, tokenizer):
    from tokenizers.processors import TemplateProcessing

    eos = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<unk> $A <eos>", special_tokens=[("<unk>", 2), ("<eos>", eos)]
    )
    assert tokenizer("the")["input_ids"][-1] == eos
    done = draw(LanguagePolicy(llama), tokenizer, ["the film"])
    assert done.prompt_ids[0, 0] == 2 and eos not in done.prompt_ids


def test_encoding_has_no_eos_at_the_end(tokenizer):
    assert encode(tokenizer, ["the film <eos>"]) == encode(tokenizer, ["the film"])


# Continuing from tokens that are given


def test_a_completion_continues_its_tokens_as_if_they_had_been_sampled(tokenizer, compactions):
    policy = with_values(LanguagePolicy(tiny_lm("llama", tokenizer), temperature=0.7))
    done = draw(policy, tokenizer, MANY)
    kept = done.mask.sum(1) > 2  # rows that have not ended by then
    whole = continue_from(
        policy,
        tokenizer,
        [prompt for prompt, row in zip(MANY, kept.tolist(), strict=True) if row],
        done.prompt_ids[kept],
        done.prompt_mask[kept],
        done.ids[kept, :2],
        12,
        torch.Generator().manual_seed(1),
    )
    assert compactions and torch.equal(whole.ids[:, :2], done.ids[kept, :2])
    assert whole.mask[:, :2].all() and not whole.logprobs[:, :2].any()
    assert not torch.equal(whole.ids, done.ids[kept, : whole.ids.shape[1]])
    for row in range(len(whole.texts)):
        logprobs, tokens, values = alone(policy, whole, row)
        real = whole.mask[row]
        own = logprobs.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(whole.logprobs[row][real][2:], own[2:], atol=1e-5, rtol=0)
        torch.testing.assert_close(whole.values[row, :-1][real][2:], values[2:], atol=1e-5, rtol=0)
        assert bool(whole.finished[row]) == (int(tokens[-1]) == tokenizer.eos_token_id)


def test_counting_is_continued_from_the_number_given():
    tokenizer, generator = NumberTokenizer(), torch.Generator()
    ids, mask = pad_left(encode(tokenizer, ["3 4", "5"]), 0, "cpu")
    begun = torch.tensor([[6], [2]])
    done = continue_from(counting_policy(), tokenizer, ["3 4", "5"], ids, mask, begun, 4, generator)
    assert done.ids.tolist() == [[6, 7, 8, 9], [2, 3, 4, 5]]
    assert done.finished.tolist() == [True, False] and done.texts == [" 6 7 8", " 2 3 4 5"]
    # V(s_t) = 100 * the last token of s_t + its position; 0 before the first sampled token.
    assert done.values[1].tolist() == [0, 201, 302, 403, 504]
