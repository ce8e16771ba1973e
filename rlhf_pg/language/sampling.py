"""Prompts in, completions out, with the log-probability and value of every token on the way."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy


@dataclass
class Completions:
    """B completions of at most T tokens, padded on the right."""

    prompt_ids: Tensor  # (B, P) padded on the left
    prompt_mask: Tensor  # (B, P)
    ids: Tensor  # (B, T) EOS included
    mask: Tensor  # (B, T) from lengths: True up to and with the EOS
    logprobs: Tensor  # (B, T)
    values: Tensor  # (B, T + 1) V(s_t), and last of all V of the state after the T-th token
    finished: Tensor  # (B,) ended by EOS, not by the length limit
    prompts: list[str]
    texts: list[str]  # with the space that joins them to their prompt; no special tokens


@dataclass
class Drawn:
    """The tokens of B completions of at most T, padded on the right."""

    ids: Tensor  # (B, T) EOS included
    mask: Tensor  # (B, T)
    logprobs: Tensor  # (B, T)
    values: Tensor  # (B, T + 1)
    finished: Tensor  # (B,)


def sample(
    policy: LanguagePolicy,
    tokenizer: Any,
    prompts: list[str],
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool = False,
) -> Completions:
    """One completion of each prompt, drawn token by token from the policy's whole distribution.

    Nothing is cut off the distribution (no top-k, no top-p), so what was sampled is what is scored.
    """
    device = next(policy.parameters()).device
    encoded = models.encode(tokenizer, prompts)
    ids, mask = pad_left(encoded, tokenizer.pad_token_id, device)
    drawn = draw(policy, tokenizer, ids, mask, max_new_tokens, generator, greedy)
    return completions(tokenizer, prompts, ids, mask, drawn)


def completions(
    tokenizer: Any, prompts: list[str], prompt_ids: Tensor, prompt_mask: Tensor, drawn: Drawn
) -> Completions:
    """Drawn tokens with the prompts they complete, and their texts."""
    texts = completion_texts(tokenizer, prompt_ids, prompt_mask, drawn.ids, drawn.mask)
    return Completions(
        prompt_ids, prompt_mask, drawn.ids, drawn.mask, drawn.logprobs,
        drawn.values, drawn.finished, prompts, texts,
    )  # fmt: skip


@torch.no_grad()
def draw(
    policy: LanguagePolicy,
    tokenizer: Any,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    max_new_tokens: int,
    generator: torch.Generator,
    greedy: bool = False,
) -> Drawn:
    """At most `max_new_tokens` tokens after each row of ids (B, P), padded on the left."""
    device, rows = prompt_ids.device, len(prompt_ids)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ids = torch.full((rows, max_new_tokens), pad, device=device)
    logprobs = torch.zeros(rows, max_new_tokens, device=device)
    values = torch.zeros(rows, max_new_tokens + 1, device=device)
    lengths = torch.full((rows,), max_new_tokens, device=device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    live = torch.arange(rows, device=device)  # rows still being written

    cache, fed, seen = DynamicCache(config=policy.model.config), prompt_ids, prompt_mask
    for t in range(max_new_tokens):
        logp, value, cache = policy(fed, seen, keep=1, cache=cache)
        logp, values[live, t] = logp[:, -1], value[:, -1]
        token = logp.argmax(-1, keepdim=True) if greedy else _choose(logp, generator)
        ids[live, t] = token.squeeze(1)
        logprobs[live, t] = logp.gather(1, token).squeeze(1)
        ended = live[(token.squeeze(1) == eos) & ~finished[live]]
        lengths[ended] = t + 1
        finished[ended] = True
        going = ~finished[live]
        if not going.any():
            break
        if going.sum() <= 0.75 * len(live):  # finished rows cost as much as live ones: drop them
            kept = going.nonzero().squeeze(1)
            cache.batch_select_indices(kept)
            live, token, seen = live[kept], token[kept], seen[kept]
        fed, seen = token, torch.cat([seen, torch.ones_like(token)], dim=1)
    else:
        _, value, _ = policy(fed, seen, keep=1, cache=cache)
        values[live, max_new_tokens] = value[:, -1]

    steps = int(lengths.max())
    mask = torch.arange(steps, device=device) < lengths[:, None]
    ids = torch.where(mask, ids[:, :steps], pad)
    if policy.own_critic is not None:
        whole = torch.cat([prompt_ids, ids], dim=1)
        values = policy.state_values(whole, torch.cat([prompt_mask, mask.long()], 1), steps + 1)
    logprobs = torch.where(mask, logprobs[:, :steps], 0.0)
    return Drawn(ids, mask, logprobs, values[:, : steps + 1], finished)


def pad_left(rows: list[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token rows as ids (B, P), so that all end in the last column, and their mask."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device) >= width - lengths[:, None]).long()


def _choose(logprobs: Tensor, generator: torch.Generator) -> Tensor:
    """One token per row (B, 1), drawn on the generator's device so that runs repeat anywhere."""
    probs = logprobs.exp().to(generator.device)
    return torch.multinomial(probs, 1, generator=generator).to(logprobs.device)


def completion_texts(
    tokenizer: Any, prompt_ids: Tensor, prompt_mask: Tensor, ids: Tensor, mask: Tensor
) -> list[str]:
    """What each completion adds to its prompt's text.

    A completion decoded alone would lose the space before it in some tokenizers, so prompt and
    whole are both decoded and the one is taken off the other. The prompt keeps its special tokens
    there: one of unknown words alone would else be empty, and no space follow it.
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
