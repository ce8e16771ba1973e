"""Learning a reward from preferences: P(a preferred to b) = sigmoid(r_a - r_b).

Bradley & Terry 1952, as used for language models by Ziegler et al. 2019 (arXiv 1909.08593),
Stiennon et al. 2020 (arXiv 2009.01325) and Askell et al. 2021 (arXiv 2112.00861). One epoch with
the learning rate annealed to 0: reward models overfit quickly.
"""

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from reward_models import RewardError
from reward_models.calibration import calibration
from reward_models.pairs import EncodedPairs, Pair, completions_of, encode_pairs, split
from reward_models.reward_model import RewardModel

Progress = Callable[[int, int, dict[str, float]], None]


@dataclass
class PreferenceConfig:
    """How a reward model learns from pairs."""

    lr: float = 1e-3
    """AdamW's peak learning rate, annealed linearly to 0; 1e-5 (large LMs) to 1e-3 (tiny ones)."""
    batch_size: int = 32
    """Pairs per gradient step, usually 16 to 64."""
    epochs: int = 1
    """Passes over the pairs, usually 1: a second one overfits."""
    margin: float = 0.0
    """Least score difference asked of every pair, usually 0 to 1; a column `margin` overrides."""
    centring: float = 0.0
    """Weight of (r_chosen + r_rejected)^2, which pins the free offset, usually 0 to 0.01."""
    weight_decay: float = 0.0
    """AdamW's weight decay, usually 0 to 0.1."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm, usually 1."""
    held_out: float = 0.1
    """Share of the pairs kept for testing when no held-out pairs are given, usually 0.05 to 0.2."""
    seed: int = 0
    """Seed of the split, the order of the batches and dropout."""

    def __post_init__(self) -> None:
        """Raise RewardError for a number that nobody can mean."""
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise RewardError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.held_out < 1:
            raise RewardError(f"held_out must be from 0 to below 1, not {self.held_out}")


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
) -> dict[str, Any]:
    """Train a reward model in place on pairs, normalise it, and return (and keep) its report.

    A pair has the columns `prompt`, `chosen`, `rejected`, and may have `margin`,
    `chosen_finished` and `rejected_finished` (False: cut without EOS; default True). `held_out`
    is split off the pairs if not given. `reference` holds `prompts`, `completions` (and maybe
    `finished`) to normalise on; by default the held-out pairs' completions, or the training
    pairs' if there are none. `progress(step, steps, {"loss", "accuracy", "lr"})` is called after
    every step. Raises RewardError for missing columns, no pairs, or a loss that is not finite.
    """
    config = config or PreferenceConfig()
    if held_out is None:
        pairs, held_out = split(pairs, config.held_out, config.seed)
    encoded = encode_pairs(model, pairs)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        _fit(model, encoded, config, progress)
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
) -> None:
    """One AdamW step per batch: chosen and rejected rows go through the model together."""
    network = model.model
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    order = random.Random(config.seed)
    batches = [
        batch for _ in range(config.epochs) for batch in pairs.batches(config.batch_size, order)
    ]
    network.train()
    for step, batch in enumerate(batches):
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
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise RewardError(
                f"reward model: loss {loss.item()}, gradient norm {norm.item()} at step {step + 1} "
                f"of {len(batches)}; a lower lr than {config.lr:g} may help"
            )
        optimiser.step()
        if progress:
            accuracy = (chosen > rejected).float().mean().item()
            progress(step + 1, len(batches), {"loss": loss.item(), "accuracy": accuracy, "lr": lr})
    network.eval()


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


def normalise(
    model: RewardModel,
    prompts: Sequence[str],
    completions: Sequence[str],
    finished: Sequence[bool] | None = None,
) -> dict[str, float]:
    """Set a model's mean and std to those of its raw scores on reference samples; return them.

    The std is the population's; a model that gives every sample the same score keeps 1.
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
