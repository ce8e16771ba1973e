"""The bench that policies are measured on: the same prompts, rewards and reference for all."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_pg.language import data
from rlhf_pg.language.best_of_n import best_of_n, kl_bound, pool_kl
from rlhf_pg.language.evaluation import evaluate
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.progress import Progress


@dataclass
class Bench:
    """What every policy is measured on: prompts, rewards, and the reference to be near."""

    reference: LanguagePolicy
    tokenizer: Any
    columns: data.Rows
    rewards: dict[str, Reward]
    max_new_tokens: int

    def measure(
        self, policy: LanguagePolicy, samples: int, seed: int, title: str
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """The policy's means and completions, `samples` of each prompt in a row."""
        rows = {name: [x for x in xs for _ in range(samples)] for name, xs in self.columns.items()}
        prompts = rows.pop("prompt")
        with Progress(len(prompts), title) as progress:
            return evaluate(
                policy,
                self.reference,
                self.tokenizer,
                prompts,
                self.rewards,
                self.max_new_tokens,
                rows,
                seed,
                progress=progress.update,
            )


def best_of_n_rows(
    pool: list[dict[str, Any]], samples: int, chosen_by: str, names: list[str]
) -> list[dict[str, float]]:
    """For n = 1, 2, 4, ... `samples`: KL, its upper bound and the mean of each reward.

    `pool` holds `samples` completions of each prompt in a row; the best is the one of highest
    `chosen_by`.
    """
    scores = score_table(pool, chosen_by, samples)
    return [
        {
            "n": n,
            "kl": float(pool_kl(scores, n).mean()),
            "kl_bound": kl_bound(n),
            **{r: float(best_of_n(scores, score_table(pool, r, samples), n).mean()) for r in names},
        }
        for n in (2**i for i in range(int(math.log2(samples)) + 1))
    ]


def score_table(rows: list[dict[str, Any]], name: str, samples: int) -> torch.Tensor:
    """One reward of the rows as (P, samples), float64."""
    return torch.tensor([row[name] for row in rows], dtype=torch.float64).reshape(-1, samples)


def spread(rows: data.Rows, most: int) -> data.Rows:
    """At most `most` rows, evenly from the whole."""
    count = len(rows["prompt"])
    chosen = [i * count // min(most, count) for i in range(min(most, count))]
    return {name: [values[i] for i in chosen] for name, values in rows.items()}
