"""Preference pairs: rows of `prompt`, `chosen`, `rejected`, and their token rows.

A pair may also have a `margin`, and `chosen_finished` and `rejected_finished` (False: that
completion was cut at the length limit; default True).
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_models import RewardError
from reward_models.reward_model import RewardModel

Pair = Mapping[str, Any]


@dataclass
class EncodedPairs:
    """Pairs as token rows; `margins[i]` is None where the pair has none of its own."""

    chosen: list[list[int]]
    rejected: list[list[int]]
    margins: list[float | None]

    def batches(self, batch_size: int, order: random.Random) -> list[list[int]]:
        """Row numbers in batches of like length, in a random order, ties of length shuffled."""
        rows = list(range(len(self.chosen)))
        order.shuffle(rows)
        rows.sort(key=lambda i: max(len(self.chosen[i]), len(self.rejected[i])))
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        order.shuffle(batches)
        return batches


def encode_pairs(model: RewardModel, pairs: Sequence[Pair]) -> EncodedPairs:
    """Tokenise pairs once; RewardError names a pair without prompt, chosen or rejected text."""
    if not pairs:
        raise RewardError("no preference pairs; give rows with prompt, chosen, rejected")
    for row, pair in enumerate(pairs):
        for column in ("prompt", "chosen", "rejected"):
            if not isinstance(pair.get(column), str):
                raise RewardError(
                    f"preference pair {row} has no text in column {column!r} (its columns: "
                    f"{', '.join(map(str, pair))}); a pair has prompt, chosen, rejected"
                )
    prompts = [pair["prompt"] for pair in pairs]
    sides = {
        side: model.encode(
            prompts,
            [pair[side] for pair in pairs],
            [pair.get(f"{side}_finished") is not False for pair in pairs],
        )
        for side in ("chosen", "rejected")
    }
    return EncodedPairs(**sides, margins=[pair.get("margin") for pair in pairs])


def split(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return (training, held-out) pairs, a random `share` of them held out."""
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    kept = int(len(pairs) * share)
    return [pairs[i] for i in order[kept:]], [pairs[i] for i in order[:kept]]


def completions_of(pairs: Sequence[Pair]) -> dict[str, list[Any]]:
    """Return both completions of every pair as columns: prompts, completions, finished."""
    sides = [(pair, side) for pair in pairs for side in ("chosen", "rejected")]
    return {
        "prompts": [pair["prompt"] for pair, _ in sides],
        "completions": [pair[side] for pair, side in sides],
        "finished": [pair.get(f"{side}_finished") is not False for pair, side in sides],
    }
