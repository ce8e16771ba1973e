"""Rewards composed of other rewards, with the scores of every part by name.

A `None` score means "does not apply to this row": sums and ensembles skip it, and are None
themselves only where no part applies. A score of one number per token stays one: in a sum, a
number per row is added to its last token. Penalties (missing EOS, overlength) are terms of a sum
like any other: see the rules of these names.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from reward_models import RewardError
from reward_models.calling import Reward, Score, call_rewards, total

Gather = Callable[[Any], list[Any]]
Present = float | list[float]  # a score that is not None


def alone(value: Any) -> list[Any]:
    """Return the values of all processes where there is only one."""
    return [value]


class Composed:
    """Several named rewards, each called once and combined row by row.

    Subclasses define `combine`, which takes one list of scores (one per row) per member and returns
    one such list.
    """

    def __init__(self, members: Mapping[str, Reward]) -> None:
        if not members:
            raise RewardError("no reward given; name at least one")
        self.members = dict(members)
        self._gather: Gather = alone

    @property
    def gather(self) -> Gather:
        """Lists the value of every process; set it where several share a training run."""
        return self._gather

    @gather.setter
    def gather(self, gather: Gather) -> None:
        self._gather = gather
        for reward in self.members.values():
            if isinstance(reward, Composed):
                reward.gather = gather

    def combine(self, columns: list[list[Score]]) -> list[Score]:
        raise NotImplementedError

    def with_parts(
        self, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> tuple[list[Score], dict[str, list[Score]]]:
        """Return the scores, and by name each member's own; members of members as "a/b"."""
        parts: dict[str, list[Score]] = {}
        answers = call_rewards(self.members, prompts, completions, **columns)
        for name, (parts[name], inner) in answers.items():
            parts |= {f"{name}/{part}": scores for part, scores in inner.items()}
        return self.combine([parts[name] for name in self.members]), parts

    def __call__(
        self, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> list[Score]:
        return self.with_parts(prompts, completions, **columns)[0]

    def parts(
        self, /, prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> dict[str, list[Score]]:
        """Return each member's scores by name, before weights."""
        return self.with_parts(prompts, completions, **columns)[1]

    def state_dict(self) -> dict[str, Any]:
        """Return the state to keep in a checkpoint: that of every member that has one, by name."""
        states = {
            name: reward.state_dict()
            for name, reward in self.members.items()
            if hasattr(reward, "state_dict")
        }
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, inner in state.items():
            self.members[name].load_state_dict(inner)  # type: ignore[attr-defined]


class WeightedSum(Composed):
    """sum_i w_i r_i over the parts that apply to a row; weights are 1 unless given."""

    def __init__(
        self, members: Mapping[str, Reward], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(members)
        unknown = set(weights or {}) - set(members)
        if unknown:
            raise RewardError(
                f"weights for unknown rewards {sorted(unknown)}: there are {list(members)}"
            )
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in members}
        if not all(map(math.isfinite, self.weights.values())):
            raise RewardError(f"a weight is not finite: {self.weights}")

    def combine(self, columns: list[list[Score]]) -> list[Score]:
        weights = list(self.weights.values())
        return [
            _over_present(row, lambda pairs: _sum(_scaled(x, weights[i]) for i, x in pairs))
            for row in zip(*columns, strict=True)
        ]


class Ensemble(Composed):
    """The mean, or the worst case (minimum), of its members (Coste et al. 2023, arXiv 2310.02743).

    Members should share a scale, as reward models normalised to mean 0, std 1 do.
    """

    def __init__(self, members: Mapping[str, Reward], how: str = "mean") -> None:
        super().__init__(members)
        if how not in ("mean", "worst"):
            raise RewardError(f"unknown ensemble {how!r}; it is 'mean' or 'worst'")
        self.how = how

    def combine(self, columns: list[list[Score]]) -> list[Score]:
        def joined(pairs: list[tuple[int, Present]]) -> Present:
            scores = [score for _, score in pairs]
            if self.how == "worst":
                return min(scores, key=lambda score: total(score) or 0.0)
            plain = [score for score in scores if not isinstance(score, list)]
            if len(plain) < len(scores):
                return _scaled(_sum(scores), 1 / len(scores))
            return math.fsum(plain) / len(plain)

        return [_over_present(row, joined) for row in zip(*columns, strict=True)]


class Clip(Composed):
    """Clip the scores of one reward to [low, high].

    Of a score per token the sum is clipped, by a change to the last token.
    """

    def __init__(self, members: Mapping[str, Reward], low: float, high: float) -> None:
        super().__init__(members)
        if not low < high:
            raise RewardError(f"cannot clip to [{low:g}, {high:g}]; low must be below high")
        self.low, self.high = float(low), float(high)

    def combine(self, columns: list[list[Score]]) -> list[Score]:
        return [clipped(score, self.low, self.high) for score in columns[0]]


class Normalise(Composed):
    """(r - mean) / std of one reward, over all scores seen so far, this batch included.

    With several processes the scores of all of them count (see `gather`). Scores per token are
    divided by the deviation of their sums, and the mean is subtracted at the last token.

    The moments are exact (Chan et al. 1979's merge, population variance) and part of
    `state_dict`. Set `updating` to False to score without moving them, as evaluation does.
    """

    def __init__(self, members: Mapping[str, Reward], eps: float = 1e-8) -> None:
        super().__init__(members)
        self.count, self.mean, self.squares, self.eps = 0, 0.0, 0.0, eps
        self.updating = True

    @property
    def std(self) -> float:
        """The running standard deviation; 1 before there is any spread."""
        return math.sqrt(self.squares / self.count) if self.squares > 0 else 1.0

    def combine(self, columns: list[list[Score]]) -> list[Score]:
        if self.updating:
            parts = self.gather([total(score) for score in columns[0] if score is not None])
            self._update_moments([score for part in parts for score in part])
        std = self.std + self.eps
        return [
            None
            if s is None
            else _scaled(_sum([s, -self.mean]), 1 / std)
            if isinstance(s, list)
            else (s - self.mean) / std
            for s in columns[0]
        ]

    def _update_moments(self, scores: list[float]) -> None:
        if not scores:
            return
        mean = math.fsum(scores) / len(scores)
        count, shift = self.count + len(scores), mean - self.mean
        self.squares += math.fsum((score - mean) ** 2 for score in scores)
        self.squares += shift**2 * self.count * len(scores) / count
        self.mean += shift * len(scores) / count
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        moments = {"count": self.count, "mean": self.mean, "squares": self.squares}
        return {"moments": moments, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        inner = dict(state)
        moments = inner.pop("moments")
        self.count, self.mean = int(moments["count"]), float(moments["mean"])
        self.squares = float(moments["squares"])
        super().load_state_dict(inner)


def clipped(score: Score, low: float, high: float) -> Score:
    """The score within [low, high]; that of a list is its sum, which its last number corrects."""
    if isinstance(score, list):
        whole = math.fsum(score)
        return _sum([score, min(max(whole, low), high) - whole])
    return None if score is None else min(max(score, low), high)


def _over_present(
    row: Sequence[Score], join: Callable[[list[tuple[int, Present]]], Present]
) -> Score:
    """Join the scores of a row that are not None, with their positions; None if all are."""
    pairs = [(i, score) for i, score in enumerate(row) if score is not None]
    return join(pairs) if pairs else None


def _scaled(score: Present, factor: float) -> Present:
    return [factor * x for x in score] if isinstance(score, list) else factor * score


def _sum(scores: Iterable[Present]) -> Present:
    """The sum of scores of one row: token by token; a number counts at the last token."""
    scores = list(scores)
    lists = [score for score in scores if isinstance(score, list)]
    alone = sum(score for score in scores if not isinstance(score, list))
    if not lists:
        return alone
    added = [sum(column) for column in zip(*lists, strict=True)]
    return [*added[:-1], added[-1] + alone]
