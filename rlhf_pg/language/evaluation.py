"""How good a policy is, on prompts it was not trained on."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core import kl
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward, reference_logprobs, score_completions, unscored
from rlhf_pg.language.sampling import Completions, sample


@torch.no_grad()
def evaluate(
    policy: LanguagePolicy,
    reference: LanguagePolicy,
    tokenizer: Any,
    prompts: list[str],
    rewards: dict[str, Reward],
    max_new_tokens: int,
    columns: dict[str, list[Any]] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over one completion of each prompt, and a row per completion.

    `rewards` are scored by name ("score", "gold"). KL(policy || reference) is in nats per
    completion, entropy in nats per token; `ref_perplexity` is the reference's per token of what
    the policy wrote. Completions are drawn `batch_size` at a time, and
    `progress` is told how many there are.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    entropy = surprise = tokens = 0.0
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        done = sample(policy, tokenizer, prompts[part], max_new_tokens, generator)
        beside = {name: values[part] for name, values in (columns or {}).items()}
        scores = {r: score_completions(rewards[r], done, beside)[0] for r in rewards}
        ref_logprobs = reference_logprobs(reference, done)
        drift = zero_padding(kl.k1(done.logprobs, ref_logprobs), done.mask).sum(1)
        rows += sample_rows(done, scores, drift)
        entropy += _total(policy.evaluate(unscored(done)).entropies, done.mask)
        surprise -= _total(ref_logprobs, done.mask)
        tokens += float(done.mask.sum())
        if progress:
            progress(len(rows))
    per_token = {
        "ref_perplexity": math.exp(min(surprise / tokens, 700.0)),
        "entropy": entropy / tokens,
    }
    return {**_means(rows, [*rewards, "kl"]), **per_token}, rows


def _means(rows: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    """The means of the named numbers of the rows, and what their texts are like."""
    texts = [row["completion"] for row in rows]
    return {
        **{name: _mean(row[name] for row in rows) for name in names},
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "repetition": repetition(texts),
        "eos_rate": _mean(row["finished"] for row in rows),
        "length": _mean(row["length"] for row in rows),
    }


def sample_rows(
    done: Completions, scores: dict[str, Tensor], drift: Tensor
) -> list[dict[str, Any]]:
    """One row for each completion, as samples.jsonl keeps them."""
    return [
        {
            "prompt": done.prompts[i],
            "completion": done.texts[i],
            **{name: round(float(values[i]), 4) for name, values in scores.items()},
            "kl": round(float(drift[i]), 4),
            "length": int(done.mask[i].sum()),
            "finished": bool(done.finished[i]),
        }
        for i in range(len(done.texts))
    ]


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of n-grams of words that differ, over all texts together (Li et al. 2016).

    It falls as more texts are counted: compare only samples of one size.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Mean share of a text's n-grams of words that it has had before (Welleck et al. 2019)."""
    shares = []
    for text in texts:
        grams = _grams(text, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return _mean(shares)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _total(x: Tensor, mask: Tensor) -> float:
    return float(zero_padding(x, mask).sum())


def _mean(values: Any) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers) if numbers else 0.0
