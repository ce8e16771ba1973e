"""A text task small enough to enumerate: eight tokens, a tiny model, and a reward with grammar."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_pg.language import models
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward

WORDS = "good bad not very film"
OPINIONS = {"good": 1.0, "bad": -1.0}


@dataclass
class SmallTask:
    """Everything that a run needs, in memory."""

    policy: LanguagePolicy
    reference: LanguagePolicy
    tokenizer: Any
    prompt: str
    reward: Reward
    max_new_tokens: int


def small_task(seed: int = 0, max_new_tokens: int = 4) -> SmallTask:
    """A random tiny Llama over eight tokens as the reference, a perturbed copy as the policy.

    Both are far enough from uniform that every token changes what follows; the critic is zero, as
    at the start of a run. There are 2,801 completions of at most 4 tokens, and 19,608 of at most 5.
    """
    tokenizer = models.train_tokenizer([WORDS], "word")
    with torch.random.fork_rng(devices=[]):
        return SmallTask(
            policy=LanguagePolicy(random_llama(tokenizer, seed, noise=0.15)),
            reference=LanguagePolicy(random_llama(tokenizer, seed), critic="none"),
            tokenizer=tokenizer,
            prompt="film",
            reward=opinion,
            max_new_tokens=max_new_tokens,
        )


def random_llama(tokenizer: Any, seed: int, std: float = 0.3, noise: float = 0.0) -> Any:
    """A tiny Llama with normal weights of deviation `std`, plus normal noise of deviation `noise`.

    The usual 0.02 would make it nearly uniform. Seeds torch's global generator.
    """
    torch.manual_seed(seed)
    model = models.tiny_model(tokenizer, width=16, layers=1, heads=2, context=32)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    with torch.no_grad():
        for p in matrices:
            p.normal_(std=std)
        # Drawn after all weights, so that policy and reference of one seed share these.
        for p in matrices:
            p.add_(noise * torch.randn_like(p))
    return model


def opinion(completions: Sequence[str], **columns: Any) -> list[float]:
    """The reward: "good" counts 1 and "bad" -1, turned by "not" and doubled (once) by "very".

    "not" and "very" act on the next good or bad; any other word between cancels them. Alone they
    are worth nothing, and their value depends on what follows: a question of credit.
    """
    return [_opinion(text.split()) for text in completions]


def _opinion(words: list[str]) -> float:
    total, weight = 0.0, 1.0
    for word in words:
        if word == "not":
            weight = -weight
        elif word == "very":
            weight = 2.0 if weight > 0 else -2.0
        else:
            total += weight * OPINIONS.get(word, 0.0)
            weight = 1.0
    return total
