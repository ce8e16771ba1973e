"""How good a policy is, on prompts it was not trained on."""

from collections.abc import Sequence
from typing import Any

import torch

from rlhf_pg.core import kl
from rlhf_pg.core.masked import masked_mean, zero_padding
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
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over one completion of each prompt, and a row per completion.

    `rewards` are scored by name ("score", "gold"). KL(policy || reference) is in nats per
    completion, entropy in nats per token.
    """
    generator = torch.Generator().manual_seed(seed)
    done = sample(policy, tokenizer, prompts, max_new_tokens, generator)
    drift = zero_padding(kl.k1(done.logprobs, reference_logprobs(reference, done)), done.mask)
    scores = {
        name: score_completions(reward, done, columns or {})[0] for name, reward in rewards.items()
    }
    metrics = {
        **{name: float(values.mean()) for name, values in scores.items()},
        "kl": float(drift.sum(1).mean()),
        "entropy": float(masked_mean(policy.evaluate(unscored(done)).entropies, done.mask)),
        "distinct_2": distinct(done.texts, 2),
        "eos_rate": float(done.finished.float().mean()),
        "length": float(done.mask.sum(1).float().mean()),
    }
    return metrics, sample_rows(done, scores, drift.sum(1))


def sample_rows(
    done: Completions, scores: dict[str, torch.Tensor], drift: torch.Tensor
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
    """Share of n-grams of words that differ, over all texts together (Li et al. 2016)."""
    grams = [
        tuple(words[i : i + n])
        for words in (text.split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0
