"""The bench that policies are measured on: the same prompts, rewards and reference for all."""

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

    def best_of_n(
        self, policy: LanguagePolicy, most: int, seed: int, chosen_by: str
    ) -> list[dict[str, float]]:
        """For n = 1, 2, 4, ... `most`: KL, its upper bound, and the mean of each reward.

        The best is the one of highest `chosen_by`. `most` samples of each prompt are drawn, or
        more where the prompts are few.
        """
        samples = most * max(1, 64 // len(self.columns["prompt"]))
        pool = self.measure(policy, samples, seed, f"best of {most}")[1]
        scores = score_table(pool, chosen_by, samples)
        values = {name: score_table(pool, name, samples) for name in self.rewards}
        return [
            {
                "n": n,
                "kl": float(pool_kl(scores, n).mean()),
                "kl_bound": kl_bound(n),
                **{name: float(best_of_n(scores, x, n).mean()) for name, x in values.items()},
            }
            for n in (2**i for i in range(most.bit_length()))
        ]


def score_table(rows: list[dict[str, Any]], name: str, samples: int) -> torch.Tensor:
    """One reward of the rows as (P, samples), float64."""
    return torch.tensor([row[name] for row in rows], dtype=torch.float64).reshape(-1, samples)


def spread(rows: data.Rows, most: int) -> data.Rows:
    """At most `most` rows, evenly from the whole."""
    count = len(rows["prompt"])
    chosen = [i * count // min(most, count) for i in range(min(most, count))]
    return {name: [values[i] for i in chosen] for name, values in rows.items()}
