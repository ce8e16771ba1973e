"""Splitting preference pairs so that no text is on both sides."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Pair = Mapping[str, Any]


class Split(NamedTuple):
    """Training pairs, held-out pairs, and what the two have not in common."""

    train: list[Pair]
    held_out: list[Pair]
    apart: str


# What may not be on both sides, the strictest first, with the texts of a pair that are meant.
APART = {
    "prompts and completions": ("prompt", "chosen", "rejected"),
    "completions": ("chosen", "rejected"),
    "prompts": ("prompt",),
    "pairs": (),
}


def split(pairs: Sequence[Pair], share: float, seed: int) -> Split:
    """Hold out a random `share` of the pairs that has no prompt or completion in common with the
    others.

    Pairs that share a text, directly or through other pairs, stay together. If such groups are too
    large to hold out between half of the share and the share, only completions are kept apart, or
    else only prompts, or else nothing but the pairs: `apart` says which.
    """
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    wanted = int(len(pairs) * share)
    choices = ((apart, _chosen(pairs, order, APART[apart], wanted)) for apart in APART)
    apart, held = next(choice for choice in choices if 2 * len(choice[1]) >= wanted)
    train = [pairs[i] for i in order if i not in held]
    return Split(train, [pairs[i] for i in order if i in held], apart)


def _chosen(
    pairs: Sequence[Pair], order: Sequence[int], columns: Sequence[str], wanted: int
) -> set[int]:
    """At most `wanted` pairs: all groups in the given order that still fit."""
    held: set[int] = set()
    for group in groups(pairs, order, columns):
        if len(held) + len(group) <= wanted:
            held |= set(group)
    return held


def groups(
    pairs: Sequence[Pair], order: Iterable[int], columns: Sequence[str]
) -> Iterable[list[int]]:
    """The connected components of pairs that share a text of the columns, in the given order.

    A text counts for all columns but the prompt alike; empty prompts connect nothing.
    """
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[tuple[bool, str], int] = {}
    for i, pair in enumerate(pairs):
        for column in columns:
            if text := pair[column].strip():
                parent[root(i)] = root(first.setdefault((column == "prompt", text), i))
    found: dict[int, list[int]] = {}
    for i in order:
        found.setdefault(root(i), []).append(i)
    return found.values()
