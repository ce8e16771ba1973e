"""Whether a model has the same probabilities in sampling, in scoring and for one text alone.

A wrong answer raises nothing and trains a wrong policy: models differ in what they do with padding,
positions and their cache.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import unscored
from rlhf_pg.language.sampling import Completions, continue_from, encode, pad_left

ROUNDING = 1e-3  # nats; a larger difference of log-probabilities is no rounding error of fp32
PROMPT_TOKENS, NEW_TOKENS = 7, 4  # of the texts of `check_model`, at most
REMEDY = "use a decoder-only model (GPT-2, Llama, Qwen, Gemma, ...)"


def sampling_differences(completions: Completions, scored: Tensor) -> Tensor:
    """Log-probabilities of sampling minus those of scoring, `scored`; (B, T), 0 on padding."""
    return zero_padding(completions.logprobs - scored, completions.mask)


@torch.no_grad()
def alone_differences(
    policy: LanguagePolicy, completions: Completions, scored: Tensor, rows: Iterable[int]
) -> Tensor:
    """Log-probabilities of scoring, `scored` (B, T), minus those of each row alone; (rows, T).

    Alone: one plain call of the model, without padding, mask, positions or cache.
    """
    differences = []
    for row in rows:
        mask = completions.mask[row]
        prompt = completions.prompt_ids[row][completions.prompt_mask[row].bool()]
        tokens = completions.ids[row][mask]
        logprobs = policy.plain(torch.cat([prompt, tokens])[None])[0, len(prompt) - 1 : -1]
        difference = torch.zeros_like(scored[row])
        difference[mask] = scored[row][mask] - logprobs.gather(1, tokens[:, None])[:, 0]
        differences.append(difference)
    return torch.stack(differences)


def check_model(
    policy: LanguagePolicy, tokenizer: Any, prompts: list[str], max_new_tokens: int, name: str
) -> None:
    """Raise ValueError, with the remedy, if the model `name` would be trained wrongly.

    Samples a few tokens after short prompts, padded if `prompts` need padding, in fp32, and
    compares their probabilities. Takes about ten short forward passes, and changes no generator.
    Weights that are not finite pass: training itself reports them.
    """
    bf16, policy.bf16 = policy.bf16, False
    try:
        some, new = encode(tokenizer, prompts[:64]), min(NEW_TOKENS, max_new_tokens)
        fault = _fault(policy, tokenizer, some, new, padded=True)
        # Prompts of one length need no padding, so a model that ignores it can be trained on them.
        if fault and _have_one_length(tokenizer, prompts):
            fault = _fault(policy, tokenizer, some, new, padded=False)
    except Exception as error:  # of any architecture
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        fault = f"cannot be sampled and scored: {' '.join(reason.split())[:200]}; {REMEDY}"
        raise ValueError(f"{name}: {_kind(policy)} {fault}") from error
    finally:
        policy.bf16 = bf16
    if fault:
        raise ValueError(f"{name}: {_kind(policy)} {fault}")


def check_causal(model: Any, tokens: list[int], name: str) -> None:
    """Raise ValueError if the model `name` reads the tokens after the one that it predicts.

    `tokens` is any text; of a short part of it, two forward passes are made.
    """
    device = next(model.parameters()).device
    row = torch.tensor([tokens[: PROMPT_TOKENS + NEW_TOKENS]], device=device)
    policy = LanguagePolicy(model, critic="none")
    if fault := _reads_ahead(policy, row):
        raise ValueError(f"{name}: {_kind(policy)} {fault}")


def _kind(policy: LanguagePolicy) -> str:
    return type(policy.lm).__name__


@torch.no_grad()
def _reads_ahead(policy: LanguagePolicy, row: Tensor) -> str | None:
    """What is wrong if the end of a row (1, T) changes the probabilities before it, or None."""
    half = max(1, row.shape[1] // 2)
    difference = _largest(policy.plain(row)[0, :half] - policy.plain(row[:, :half])[0])
    if not difference > ROUNDING / min(1.0, policy.temperature):  # NaN is training's to report
        return None
    return (
        "reads the tokens after the one that it predicts, as an encoder does (off by "
        f"{difference:.2g} nats); {REMEDY}"
    )


@torch.no_grad()
def _fault(
    policy: LanguagePolicy, tokenizer: Any, some: list[list[int]], new: int, padded: bool
) -> str | None:
    """What is wrong with the model and the remedy, or None; `some` are token rows of prompts."""
    device = next(policy.parameters()).device
    longest = min(PROMPT_TOKENS, max(map(len, some)))
    cuts = [1, (1 + longest) // 2, longest] if padded else [longest] * 3
    text = sum(some, []) * (longest + new + 2)

    if fault := _reads_ahead(policy, torch.tensor([text[: longest + new]], device=device)):
        return fault
    # Each prompt twice: where the cache allows it, prompts are read once.
    rows = [text[start : start + n] for start, n in enumerate(cuts) for _ in range(2)]
    ids, mask = pad_left(rows, 0, device)
    begun, generator = ids[:, :0], torch.Generator().manual_seed(0)
    names = [""] * len(ids)
    done = continue_from(policy, tokenizer, names, ids, mask, begun, new, generator)
    scored = policy.evaluate(unscored(done)).logprobs
    sampling = _largest(sampling_differences(done, scored))
    alone = alone_differences(policy, done, scored, range(0, len(ids), 2))
    tolerance = ROUNDING / min(1.0, policy.temperature)
    short, unpadded = _largest(alone[:-1]), _largest(alone[-1])  # the last prompt is the longest
    if unpadded > tolerance:
        return (
            "has other log-probabilities if positions are counted from 0 and a mask is given than "
            f"without both (off by {unpadded:.2g} nats); {REMEDY}"
        )
    if short > tolerance:
        return (
            "ignores attention_mask or position_ids, so padded prompts have other "
            f"log-probabilities than alone (off by {short:.2g} nats); {REMEDY}, or prompts that "
            "all have the same number of tokens"
        )
    if sampling > tolerance:
        return (
            "has other log-probabilities in sampling, with its cache, than in scoring, without "
            f"(off by {sampling:.2g} nats); {REMEDY}"
        )
    return None


def _have_one_length(tokenizer: Any, prompts: list[str], part: int = 1000) -> bool:
    """Whether all prompts have the same number of tokens; stops at the first that has not."""
    lengths = (
        len(ids)
        for start in range(0, len(prompts), part)
        for ids in encode(tokenizer, prompts[start : start + part])
    )
    first = next(lengths)
    return all(length == first for length in lengths)


def _largest(differences: Tensor) -> float:
    """The largest absolute difference; 0 if there is none, NaN if there is one."""
    return float(differences.abs().max()) if differences.numel() else 0.0
