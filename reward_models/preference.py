"""Learning a reward from preference pairs: P(a preferred to b) = sigmoid(r_a - r_b).

Bradley & Terry 1952, as used for language models by Ziegler et al. 2019 (arXiv 1909.08593),
Stiennon et al. 2020 (arXiv 2009.01325) and Askell et al. 2021 (arXiv 2112.00861). One epoch with
the learning rate annealed to 0: reward models overfit quickly.

A pair is a mapping with the texts `prompt`, `chosen` and `rejected`, and optionally a `margin`,
`chosen_finished` and `rejected_finished` (False: cut at the length limit; default True).
"""

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from reward_models import RewardError
from reward_models.config import PreferenceConfig
from reward_models.reward_model import RewardModel
from reward_models.state import fingerprint, random_state, set_random_state

Pair = Mapping[str, Any]
Progress = Callable[[int, int, dict[str, float]], None]
AfterStep = Callable[[int, int, Callable[[], dict[str, Any]]], None]


@dataclass
class EncodedPairs:
    """Pairs as token rows; `margins[i]` is None where the pair has no margin of its own."""

    chosen: list[list[int]]
    rejected: list[list[int]]
    margins: list[float | None]

    def batches(self, batch_size: int, order: random.Random) -> list[list[int]]:
        """Return row numbers in batches of similar length; batches and ties are in random order."""
        rows = list(range(len(self.chosen)))
        order.shuffle(rows)
        rows.sort(key=lambda i: max(len(self.chosen[i]), len(self.rejected[i])))
        batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
        order.shuffle(batches)
        return batches


def encode_pairs(model: RewardModel, pairs: Sequence[Pair]) -> EncodedPairs:
    """Tokenise pairs; raises RewardError as `check_pairs`."""
    check_pairs(pairs)
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


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Raise RewardError, naming the pair and column, for anything that cannot be learned from."""
    if not pairs:
        raise RewardError("no preference pairs; give rows with prompt, chosen, rejected")
    for row, pair in enumerate(pairs):
        for column in ("prompt", "chosen", "rejected"):
            if not isinstance(pair.get(column), str):
                raise RewardError(
                    f"preference pair {row} has no text in column {column!r} (its columns: "
                    f"{', '.join(map(str, pair))}); a pair has prompt, chosen, rejected"
                )
        margin = pair.get("margin")
        number = isinstance(margin, int | float) and not isinstance(margin, bool)
        if margin is not None and not (number and math.isfinite(margin)):
            raise RewardError(
                f"preference pair {row} has the margin {margin!r}; it must be a finite number"
            )
        for column in ("chosen_finished", "rejected_finished"):
            if not isinstance(pair.get(column), bool | None):
                raise RewardError(
                    f"preference pair {row}: {column} is {pair[column]!r}; it must be true or false"
                )


def without_equal(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose chosen and rejected completions differ; of the others nothing is learned.

    Equal texts differ if only one of them was cut at the length limit.
    """
    sides = ("chosen", "rejected")
    return [
        pair
        for pair in pairs
        if len({(pair[side], pair.get(f"{side}_finished") is not False) for side in sides}) == 2
    ]


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


def bradley_terry_loss(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: Any = 0.0, centring: float = 0.0
) -> torch.Tensor:
    """-log sigmoid(r_chosen - r_rejected - margin) + centring (r_chosen + r_rejected)^2.

    Scores are (B,), the margin a number or (B,) (Touvron et al. 2023, arXiv 2307.09288); the
    result is the mean over pairs. Centring is of Eisenstein et al. 2023 (arXiv 2312.09244).
    """
    losses = -logsigmoid(chosen - rejected - margin)
    if centring:
        losses = losses + centring * (chosen + rejected) ** 2
    return losses.mean()


def train(
    model: RewardModel,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair] | None = None,
    config: PreferenceConfig | None = None,
    *,
    reference: Mapping[str, Sequence[Any]] | None = None,
    progress: Progress | None = None,
    after_step: AfterStep | None = None,
    resume: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a reward model in place on pairs, normalise it, and set and return its report.

    `held_out` is split off the pairs if not given. `reference` holds the samples to normalise on
    (`prompts`, `completions`, optionally `finished`); by default the held-out pairs' completions,
    or the training pairs' if none are held out. `progress(step, steps, {"loss", "accuracy", "lr"})`
    is called after every step. For checkpoints, `after_step(step, steps, state)` is called then
    too; `state()` returns what `resume` takes. Raises RewardError for missing columns, no pairs, a
    loss that is not finite, or a state of other pairs.
    """
    config = config or PreferenceConfig()
    if held_out is None:
        pairs, held_out = split(pairs, config.held_out, config.seed)
    check_pairs(held_out or pairs)  # not only when they are measured, at the end
    encoded = encode_pairs(model, pairs)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        _fit(model, encoded, config, progress, after_step, resume)
    report: dict[str, Any] = {"pairs": len(pairs), "held_out_pairs": len(held_out)}
    if held_out:
        report |= evaluate(model, held_out)
    if reference is None:
        reference = completions_of(held_out or pairs)
    report |= normalise(model, **reference)
    model.report = report | {"training": asdict(config)}
    return model.report


def _fit(
    model: RewardModel,
    pairs: EncodedPairs,
    config: PreferenceConfig,
    progress: Progress | None,
    after_step: AfterStep | None,
    resume: dict[str, Any] | None,
) -> None:
    """Take one AdamW step per batch; chosen and rejected rows share a forward pass."""
    network = model.model
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    order = random.Random(config.seed)
    batches = [
        batch for _ in range(config.epochs) for batch in pairs.batches(config.batch_size, order)
    ]
    data = fingerprint(pairs.chosen, pairs.rejected, pairs.margins)
    done = _load(resume, network, optimiser, data) if resume else 0

    def state() -> dict[str, Any]:
        return {
            "iteration": done,
            "parameters": dict(network.named_parameters()),
            "optimizer": optimiser.state_dict(),
            "random": random_state(),
            "data": data,
        }

    network.train()
    for step, batch in enumerate(batches[done:], done):
        lr = config.lr * (1 - step / len(batches))
        optimiser.param_groups[0]["lr"] = lr
        scores = model.raw_scores([pairs.chosen[i] for i in batch]
                                  + [pairs.rejected[i] for i in batch])  # fmt: skip
        chosen, rejected = scores.chunk(2)
        margin = torch.tensor(
            [config.margin if pairs.margins[i] is None else pairs.margins[i] for i in batch],
            device=scores.device,
        )
        loss = bradley_terry_loss(chosen, rejected, margin, config.centring)
        optimiser.zero_grad()
        loss.backward()
        limit = config.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise RewardError(
                f"reward model: loss {loss.item()}, gradient norm {norm.item()} at step {step + 1} "
                f"of {len(batches)}; a lower lr than {config.lr:g} may help"
            )
        optimiser.step()
        if progress:
            accuracy = (chosen > rejected).float().mean().item()
            progress(step + 1, len(batches), {"loss": loss.item(), "accuracy": accuracy, "lr": lr})
        done = step + 1
        if after_step:
            after_step(done, len(batches), state)
    network.eval()


def _load(resume: dict[str, Any], network: Any, optimiser: Any, data: str) -> int:
    """Restore a state of `_fit`; returns the number of steps done."""
    if resume["data"] != data:
        raise RewardError("the pairs have changed since the run began; use the same data")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(resume["parameters"][name])
    optimiser.load_state_dict(resume["optimizer"])
    set_random_state(resume["random"])
    return int(resume["iteration"])


def evaluate(model: RewardModel, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return accuracy (ties count half), Bradley-Terry loss and calibration on pairs."""
    encoded = encode_pairs(model, pairs)
    scores = model.score_rows(encoded.chosen + encoded.rejected)
    chosen, rejected = scores.chunk(2)
    differences = chosen - rejected
    correct = (differences > 0).float() + 0.5 * (differences == 0).float()
    return {
        "accuracy": correct.mean().item(),
        "loss": bradley_terry_loss(chosen, rejected).item(),
        **calibration(differences.tolist()),
    }


def calibration(differences: Sequence[float], bins: int = 5) -> dict[str, Any]:
    """Compare the model's confidence in its preferences with its accuracy.

    `differences` are raw r_chosen - r_rejected. The confidence of a pair is sigmoid(|difference|)
    in [0.5, 1], in `bins` equal bins. Returns `ece`, the expected calibration error
    sum_b n_b/N |accuracy_b - confidence_b| (Guo et al. 2017, arXiv 1706.04599), and the
    reliability table `calibration`: low, high, pairs, confidence, accuracy of each bin that is not
    empty.
    """
    filled: dict[int, list[tuple[float, float]]] = {}
    for difference in differences:
        confidence = 1 / (1 + math.exp(-abs(difference)))
        right = 1.0 if difference > 0 else 0.5 if difference == 0 else 0.0
        filled.setdefault(min(int((confidence - 0.5) * 2 * bins), bins - 1), []).append(
            (confidence, right)
        )
    table = [
        {
            "low": 0.5 + b * 0.5 / bins,
            "high": 0.5 + (b + 1) * 0.5 / bins,
            "pairs": len(rows),
            "confidence": sum(c for c, _ in rows) / len(rows),
            "accuracy": sum(r for _, r in rows) / len(rows),
        }
        for b, rows in sorted(filled.items())
    ]
    gaps = (row["pairs"] * abs(row["accuracy"] - row["confidence"]) for row in table)
    return {"ece": sum(gaps) / max(len(differences), 1), "calibration": table}


def normalise(
    model: RewardModel,
    prompts: Sequence[str],
    completions: Sequence[str],
    finished: Sequence[bool] | None = None,
) -> dict[str, float]:
    """Set a model's mean and std to those of its raw scores on reference samples; return them.

    The std is the population's; it is 1 if every sample has the same score.
    """
    if not completions:
        raise RewardError("no reference samples to normalise the reward model on")
    raw = model.score_rows(model.encode(prompts, completions, finished)).double()
    model.mean, model.std = raw.mean().item(), raw.std(correction=0).item() or 1.0
    return {"mean": model.mean, "std": model.std}


def learning_curve(
    model: RewardModel,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    sizes: Sequence[int],
    config: PreferenceConfig | None = None,
) -> list[dict[str, float]]:
    """Train a copy of an untrained model on each number of pairs; return pairs, accuracy, loss.

    The samples are nested (the first n of one shuffle), and `model` itself stays untrained.
    """
    config = config or PreferenceConfig()
    order = random.Random(config.seed).sample(range(len(pairs)), len(pairs))
    curve = []
    for size in sizes:
        trial = copy.copy(model)
        trial.model = copy.deepcopy(model.model)
        report = train(trial, [pairs[i] for i in order[:size]], held_out, config)
        curve.append({key: report[key] for key in ("pairs", "accuracy", "loss")})
    return curve
