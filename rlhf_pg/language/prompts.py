"""Prompts in the order they are answered, and whether they fit the model."""

from collections.abc import Iterator
from typing import Any

import torch

from rlhf_pg.language import data, models
from rlhf_pg.language.settings import TrainConfig


def prompt_batches(
    rows: data.Rows, config: TrainConfig, rank: int, processes: int
) -> Iterator[data.Rows]:
    """Batches of prompts with their columns, K of each in a row, for ever; shuffled each pass."""
    generator = torch.Generator().manual_seed(config.seed)
    wanted = config.rows // config.samples_per_prompt
    queue: list[int] = []
    while True:
        while len(queue) < wanted:
            queue += torch.randperm(len(rows["prompt"]), generator=generator).tolist()
        batch, queue = queue[:wanted], queue[wanted:]
        mine = batch[rank * wanted // processes : (rank + 1) * wanted // processes]
        repeated = [i for i in mine for _ in range(config.samples_per_prompt)]
        yield {name: [values[i] for i in repeated] for name, values in rows.items()}


def watched_prompts(rows: data.Rows, config: TrainConfig) -> data.Rows:
    """The prompts looked at all through a run, spread over the data, K of each in a row."""
    count = max(1, config.samples_kept // config.samples_per_prompt)
    return spread(rows, count, config.samples_per_prompt)


def spread(rows: data.Rows, count: int, samples_per_prompt: int = 1) -> data.Rows:
    """`count` rows spread evenly over the data (all, where there are no more), K of each."""
    every = len(rows["prompt"])
    chosen = [i * every // min(count, every) for i in range(min(count, every))]
    repeated = [i for i in chosen for _ in range(samples_per_prompt)]
    return {name: [values[i] for i in repeated] for name, values in rows.items()}


def check_prompt_lengths(
    model: Any, tokenizer: Any, prompts: list[str], max_new_tokens: int
) -> None:
    """Raise ValueError where a prompt and its completion do not fit the model's context."""
    limit = models.context_length(model)
    lengths = [len(ids) for ids in models.encode(tokenizer, prompts)]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if limit is not None and lengths[longest] + max_new_tokens > limit:
        raise ValueError(
            f"prompt {longest} has {lengths[longest]} tokens ({prompts[longest][:40]!r}...); with "
            f"max_new_tokens {max_new_tokens} that is more than the model's context of "
            f"{limit}. Shorten the prompts or lower --max_new_tokens"
        )
    if not all(lengths):
        raise ValueError(f"prompt {lengths.index(0)} has no tokens: {prompts[lengths.index(0)]!r}")
