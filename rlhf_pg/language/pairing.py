"""Pairs of completions for a person to judge, those first of which the reward model is least sure.

Where the scores differ most, a judgement would mostly say what the model knows already (uncertainty
sampling, Lewis & Gale 1994; for preferences, Christiano et al. 2017, arXiv 1706.03741).
"""

import random
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import torch
from accelerate import Accelerator

from rlhf_pg.labelling import Pair
from rlhf_pg.language import data, models
from rlhf_pg.language.bench import spread
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.prompts import check_prompt_lengths
from rlhf_pg.language.rollout import Reward, score_completions
from rlhf_pg.language.sampling import sample
from rlhf_pg.progress import Progress


@dataclass
class LabelConfig:
    """Judge pairs of completions yourself, as data for `rlhf-pg reward`."""

    model: str = "runs/base"
    """Whose completions to judge: a run, a folder, or a hub name."""
    reward: str | None = None
    """The current reward model, as `rlhf-pg train` takes a reward: pairs it is least sure of come
    first, and its agreement with you is shown. None asks about pairs at random."""
    data: str = "film-notes"
    """Prompts: a file, folder or hub name with a `prompt` column."""
    count: int = 50
    """Pairs to judge in this session, usually 20 to 200."""
    samples_per_prompt: int = 4
    """Completions of each prompt to choose a pair from, usually 2 to 8."""
    max_new_tokens: int = 48
    """Longest completion, EOS included."""
    temperature: float = 1.0
    """Of sampling, usually 0.7 to 1."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one; "cpu" does not."""
    seed: int = 0
    """Of the draws, and of which completion stands left."""
    output: str = "runs/label"
    """Folder of the judgements; one that is there already is continued."""


def check(config: LabelConfig) -> None:
    """Raise ValueError for options that make no pairs."""
    if config.count < 1 or config.max_new_tokens < 1:
        raise ValueError("count and max_new_tokens must be at least 1")
    if config.samples_per_prompt < 2:
        raise ValueError(
            f"samples_per_prompt must be at least 2 to make a pair, not {config.samples_per_prompt}"
        )


def draw_pairs(config: LabelConfig, reward: Reward | None, skip: int = 0) -> list[Pair]:
    """At most `count` pairs of different completions, the least sure first.

    `skip` moves the seed on, so that a session continued draws others. Every prompt gives its
    least sure pair before any gives a second.
    """
    check(config)
    model, tokenizer = models.load(config.model)
    models.suit_threads(model)
    device = Accelerator(cpu=config.device == "cpu").device
    policy = LanguagePolicy(model, config.temperature, "none").to(device)
    columns = spread(data.read(config.data, "prompts", tokenizer=tokenizer), config.count)
    check_prompt_lengths(model, tokenizer, columns["prompt"], config.max_new_tokens)
    generator = torch.Generator().manual_seed(config.seed + 1_000 * skip)
    sides = random.Random(config.seed + skip)
    ranked: list[tuple[int, float, Pair]] = []  # (n-th of its prompt, how far apart, the pair)
    with Progress(len(columns["prompt"]), "drawing pairs") as progress:
        for start in range(0, len(columns["prompt"]), 32):
            part = {
                name: [
                    x for x in values[start : start + 32] for _ in range(config.samples_per_prompt)
                ]
                for name, values in columns.items()
            }
            ranked += _candidates(policy, tokenizer, part, config, reward, generator, sides)
            progress.update(min(start + 32, len(columns["prompt"])))
    ranked.sort(key=lambda candidate: candidate[:2])
    return [pair for _, _, pair in ranked[: config.count]]


def _candidates(
    policy: LanguagePolicy,
    tokenizer: Any,
    columns: data.Rows,
    config: LabelConfig,
    reward: Reward | None,
    generator: torch.Generator,
    sides: random.Random,
) -> list[tuple[int, float, Pair]]:
    """All pairs of a few prompts, ranked within each."""
    prompts = columns.pop("prompt")
    done = sample(policy, tokenizer, prompts, config.max_new_tokens, generator)
    scores: list[float] | None = None
    if reward is not None:
        scores = score_completions(reward, done, columns)[0].tolist()
    found = []
    for first in range(0, len(prompts), config.samples_per_prompt):
        own = []
        for pair in combinations(range(first, first + config.samples_per_prompt), 2):
            a, b = pair if sides.random() < 0.5 else pair[::-1]
            if done.texts[a] == done.texts[b]:
                continue
            gap = abs(scores[a] - scores[b]) if scores else sides.random()
            shown = Pair(
                prompts[a],
                done.texts[a],
                done.texts[b],
                bool(done.finished[a]),
                bool(done.finished[b]),
                scores[a] if scores else None,
                scores[b] if scores else None,
            )
            own.append((gap, shown))
        own.sort(key=lambda candidate: candidate[0])
        found += [(rank, gap, shown) for rank, (gap, shown) in enumerate(own)]
    return found
