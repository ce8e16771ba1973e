"""Prompts in, completions out, with the log-probability and value of every token."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from rlhf_pg.language import decode
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.memory import check_fits

SELECTABLE = (DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer)


@dataclass
class Completions:
    """B completions of at most T tokens, padded on the right."""

    prompt_ids: Tensor  # (B, P) padded on the left
    prompt_mask: Tensor  # (B, P)
    ids: Tensor  # (B, T) EOS included
    mask: Tensor  # (B, T) from lengths: True up to and including the EOS
    logprobs: Tensor  # (B, T) at the time of sampling
    values: Tensor  # (B, T + 1) V(s_t), and V of the state after the T-th token
    finished: Tensor  # (B,) ended by EOS, not by the length limit
    prompts: list[str]
    texts: list[str]  # with the space that joins them to their prompt; no special tokens

    def __getitem__(self, rows: Tensor) -> "Completions":
        """Those rows (an index tensor), in that order."""
        chosen: dict[str, Any] = {
            name: [x[i] for i in rows.tolist()] if isinstance(x, list) else x[rows]
            for name, x in vars(self).items()
        }
        return Completions(**chosen)


def concatenated(first: Completions, second: Completions) -> Completions:
    """The rows of both, padded to the longer prompts and completions of the two."""

    def joined(a: Tensor, b: Tensor, left: bool = False) -> Tensor:
        width = max(a.shape[1], b.shape[1])
        wide = [
            torch.nn.functional.pad(x, (width - x.shape[1], 0) if left else (0, width - x.shape[1]))
            for x in (a, b)
        ]
        return torch.cat(wide)

    return Completions(
        prompt_ids=joined(first.prompt_ids, second.prompt_ids, left=True),
        prompt_mask=joined(first.prompt_mask, second.prompt_mask, left=True),
        ids=joined(first.ids, second.ids),
        mask=joined(first.mask, second.mask),
        logprobs=joined(first.logprobs, second.logprobs),
        values=joined(first.values, second.values),
        finished=torch.cat([first.finished, second.finished]),
        prompts=first.prompts + second.prompts,
        texts=first.texts + second.texts,
    )


def check_rows_fit(model: Any, rows: int, max_new_tokens: int, lower: str, device: Any) -> None:
    """Raise ValueError if so many completions cannot be sampled at once; `lower` names options.

    Counts the tokens with their log-probabilities and values, and the log-probabilities of the
    whole vocabulary at one step; activations and keys and values come on top.
    """
    vocabulary = model.config.get_text_config().vocab_size
    needed = rows * (16 * max_new_tokens + 8 * vocabulary)
    check_fits(needed, f"sampling {rows:,} completions at once", lower, device)


@torch.no_grad()
def sample(
    policy: LanguagePolicy,
    tokenizer: Any,
    prompts: list[str],
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool = False,
) -> Completions:
    """One completion of each prompt, sampled token by token from the policy's full distribution.

    No top-k, no top-p: the distribution sampled from is the one scored.
    """
    device = next(policy.parameters()).device
    ids, mask = pad_left(encode(tokenizer, prompts), tokenizer.pad_token_id, device)
    begun = ids[:, :0]
    return continue_from(
        policy, tokenizer, prompts, ids, mask, begun, max_new_tokens, generator, greedy
    )


@torch.no_grad()
def continue_from(
    policy: LanguagePolicy,
    tokenizer: Any,
    prompts: list[str],
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    begun: Tensor,
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool = False,
) -> Completions:
    """Completions that begin with the tokens `begun` (B, t), sampled to at most `max_new_tokens`.

    `prompt_ids` and `prompt_mask` are (B, P), padded on the left. Log-probabilities and values of
    the begun tokens are not computed: they are 0.
    """
    device, (rows, start) = prompt_ids.device, begun.shape
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = torch.full((rows, max_new_tokens), pad, device=device)
    ids[:, :start] = begun
    logprobs = torch.zeros(rows, max_new_tokens, device=device)
    values = torch.zeros(rows, max_new_tokens + 1, device=device)
    lengths = torch.full((rows,), max_new_tokens, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    live = torch.arange(rows, device=device)  # rows still being written
    # One number for every token, from the generator's device so that runs repeat anywhere: what a
    # row samples does not depend on which other rows have ended.
    uniforms = torch.rand(max_new_tokens - start, rows, generator=generator, dtype=torch.float64)
    uniforms = uniforms.to(device)

    # The first forward reads prompt and begun tokens, each later one only the newest token.
    text = torch.cat([prompt_ids, begun], dim=1)
    attention = torch.cat([prompt_mask, torch.ones_like(begun)], dim=1)
    logp, value, decoder = _read_prompts(policy, text, attention, max_new_tokens - start)
    for t in range(start, max_new_tokens):
        values[live, t] = value
        token = logp.argmax(-1) if greedy else choose(logp, uniforms[t - start, live])
        ids[live, t] = token
        logprobs[live, t] = logp.gather(1, token[:, None])[:, 0]
        ended = live[(token == eos) & ~finished[live]]
        lengths[ended] = t + 1
        finished[ended] = True
        going = ~finished[live]
        if not going.any() or (t + 1 == max_new_tokens and policy.value_head is None):
            break
        # Finished rows cost as much as live ones: drop them once they are an eighth of the batch.
        if decoder.can_drop and going.sum() <= 0.875 * len(live):
            kept = going.nonzero().squeeze(1)
            decoder.keep(kept)
            live, token = live[kept], token[kept]
        logp, value = decoder.step(token)
    else:
        # Rows cut at the limit: V of the state after their last token, for bootstrapping.
        values[live, max_new_tokens] = value

    steps = int(lengths.max())
    mask = torch.arange(steps, device=device) < lengths[:, None]
    ids = torch.where(mask, ids[:, :steps], pad)
    if policy.separate_critic is not None:
        # A separate critic has no cache: it reads the whole text once, at the end.
        whole = torch.cat([prompt_ids, ids], dim=1)
        values = policy.state_values(whole, torch.cat([prompt_mask, mask.long()], 1), steps + 1)
    texts = completion_texts(tokenizer, prompt_ids, prompt_mask, ids, mask)
    return Completions(
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        ids=ids,
        mask=mask,
        logprobs=torch.where(mask, logprobs[:, :steps], 0.0),
        values=values[:, : steps + 1],
        finished=finished,
        prompts=prompts,
        texts=texts,
    )


def choose(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """One token per row (B,): the inverse of the cumulative distribution at `uniforms` (B,).

    In float64: the sum of 50,000 float32 numbers would move the last tokens' probabilities.
    """
    cumulative = logprobs.exp().cumsum(-1, dtype=torch.float64)
    wanted = (uniforms * cumulative[:, -1])[:, None]
    # right=True: a token of probability 0 is never chosen.
    tokens = torch.searchsorted(cumulative, wanted, right=True).clamp(max=logprobs.shape[1] - 1)
    return tokens[:, 0]


def _read_prompts(
    policy: LanguagePolicy, text: Tensor, attention: Tensor, new: int
) -> "tuple[Tensor, Tensor, decode.Decoder | OwnForward]":
    """Log-probabilities (B, V) and values (B,) of the first new token, and what makes the next.

    A text that several rows begin with is read once.
    """
    rows = torch.cat([text, attention], dim=1)
    distinct, place = torch.unique(rows, dim=0, return_inverse=True)
    whole = DynamicCache(config=policy.model.config)
    if len(distinct) < len(rows) and _can_select(whole):
        text_once, mask_once = distinct.split(text.shape[1], dim=1)
        logp, value, cache = policy(text_once, mask_once, keep=1, cache=whole)
        cache.batch_select_indices(place)
        logp, value = logp[place], value[place]
    else:
        logp, value, cache = policy(text, attention, keep=1, cache=whole)
    decoder: decode.Decoder | OwnForward = OwnForward(policy, cache, attention)
    if policy.plain_head is not None and decode.supports(policy.model):
        decoder = decode.Decoder(policy.model, policy.read, cache, attention, new, policy.bf16)
    return logp[:, -1], value[:, -1], decoder


class OwnForward:
    """The next tokens by the model's own forward and transformers' cache: any architecture."""

    def __init__(self, policy: LanguagePolicy, cache: DynamicCache, attention: Tensor) -> None:
        self.policy, self.cache, self.attention = policy, cache, attention
        self.can_drop = _can_select(cache)

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, V) and values (B,) after one more token (B,) of each row."""
        new = tokens[:, None]
        self.attention = torch.cat([self.attention, torch.ones_like(new)], dim=1)
        logp, value, self.cache = self.policy(new, self.attention, keep=1, cache=self.cache)
        return logp[:, -1], value[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.cache.batch_select_indices(rows)
        self.attention = self.attention[rows]


def _can_select(cache: DynamicCache) -> bool:
    """Whether rows of the cache can be selected.

    Not those of a state-space layer, nor of a layer that is one beside attention (Falcon-H1): it is
    a DynamicLayer whose state `batch_select_indices` leaves as it is.
    """
    return all(type(layer) in SELECTABLE for layer in cache.layers)


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of each text as a prefix: with BOS if the tokenizer adds one, never with EOS."""
    eos = tokenizer.eos_token_id
    rows = tokenizer(texts, verbose=False)["input_ids"]
    return [row[:-1] if row and row[-1] == eos else row for row in rows]


def pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token rows as ids (B, P) that end in the last column, and their mask (B, P)."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) >= width - lengths[:, None]).long()


def pad_right(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token rows as ids (B, T) that begin in the first column, and their mask (B, T), bool."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]


def completion_texts(
    tokenizer: Any, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor
) -> list[str]:
    """What each completion adds to its prompt's text.

    Some tokenizers drop the leading space of a completion decoded alone, so prompt and whole text
    are both decoded and the first is taken off the second. The prompt keeps its special tokens
    there: a prompt of unknown words alone would otherwise be empty, and no space follow it.
    """
    special = set(tokenizer.all_special_ids)
    heads = [p[m.bool()].tolist() for p, m in zip(prompt_ids, prompt_mask, strict=True)]
    tails = [
        [token for token in c[m.bool()].tolist() if token not in special]
        for c, m in zip(ids, mask, strict=True)
    ]
    before = tokenizer.batch_decode(heads)
    after = tokenizer.batch_decode([head + tail for head, tail in zip(heads, tails, strict=True)])
    alone = tokenizer.batch_decode(tails)
    return [
        whole[len(head) :] if whole.startswith(head) else tail
        for head, whole, tail in zip(before, after, alone, strict=True)
    ]
