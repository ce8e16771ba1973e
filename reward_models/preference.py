"""Learning a reward from preference pairs: P(a preferred to b) = sigmoid(r_a - r_b).

Bradley & Terry 1952, as used for language models by Ziegler et al. 2019 (arXiv 1909.08593),
Stiennon et al. 2020 (arXiv 2009.01325) and Askell et al. 2021 (arXiv 2112.00861). The learning rate
is annealed to 0, and the weights with the least held-out loss are kept: reward models overfit
quickly.

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
from reward_models.held_out import split
from reward_models.reward_model import RewardModel
from reward_models.state import fingerprint, random_state, set_random_state

TINY = 20_000_000  # parameters; larger models are taken for pretrained ones
LEAST_STEPS, MOST_PASSES = 300, 10  # of training, if its length is not given
MEASUREMENTS = 10  # of the held-out loss during training, by default
MEASURED = 500  # held-out pairs of each, at most
RECURRING = 3  # occurrences of a text, on average, from which on a warning is given
SEEN = 0.05  # share of held-out pairs with a completion of the training pairs, likewise
FOLLOWS_LENGTH = 0.7  # correlation of score and length from which on a warning is given

Pair = Mapping[str, Any]
Progress = Callable[[int, int, dict[str, float]], None]
AfterStep = Callable[[int, int, Callable[[], dict[str, Any]]], None]


@dataclass
class EncodedPairs:
    """Pairs as token rows, cut to the model's limit."""

    chosen: list[list[int]]
    rejected: list[list[int]]
    margins: list[float | None]  # None where the pair has no margin of its own
    longer: list[int]  # tokens of the chosen text minus those of the rejected one, before the cut
    cut: int  # texts that were longer than the limit

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
        side: model.encode_whole(
            prompts,
            [pair[side] for pair in pairs],
            [pair.get(f"{side}_finished") is not False for pair in pairs],
        )
        for side in ("chosen", "rejected")
    }
    margins = [pair.get("margin") for pair in pairs]
    longer = [len(a) - len(b) for a, b in zip(sides["chosen"], sides["rejected"], strict=True)]
    cut = sum(len(row) > model.limit for rows in sides.values() for row in rows)
    rows = {side: [model.cut(row) for row in rows] for side, rows in sides.items()}
    return EncodedPairs(**rows, margins=margins, longer=longer, cut=cut)


def check_pairs(pairs: Sequence[Pair]) -> None:
    """Raise RewardError, naming the pair and column, for anything that cannot be learned from."""
    if not pairs:
        raise RewardError("no preference pairs; give rows with prompt, chosen, rejected")
    for row, pair in enumerate(pairs):
        if problem := pair_problem(pair):
            raise RewardError(f"preference pair {row}: {problem}")


def pair_problem(pair: Pair) -> str | None:
    """What is wrong with a pair, or None if it can be learned from."""
    for column in ("prompt", "chosen", "rejected"):
        if not isinstance(pair.get(column), str):
            return (
                f"no text in column {column!r} (its columns: {', '.join(map(str, pair))}); a pair "
                "has prompt, chosen, rejected"
            )
    margin = pair.get("margin")
    number = isinstance(margin, int | float) and not isinstance(margin, bool)
    if margin is not None and not (number and math.isfinite(margin)):
        return f"the margin is {margin!r}; it must be a finite number"
    for column in ("chosen_finished", "rejected_finished"):
        if not isinstance(pair.get(column), bool | None):
            return f"{column} is {pair[column]!r}; it must be true or false"
    return None


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


def length_correlation(differences: torch.Tensor, longer: torch.Tensor) -> torch.Tensor:
    """sum d n / sqrt(sum d^2 sum n^2) of score differences d and length differences n, both (B,).

    The Pearson correlation if every pair is counted in both orders, which makes both means 0. It
    is 0 if either does not vary.
    """
    longer = longer.to(differences)
    product = (differences**2).sum() * (longer**2).sum()
    return (differences * longer).sum() / (product + 1e-12).sqrt()


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

    `held_out` is split off the pairs if not given; its loss decides which weights are kept, so its
    final loss is slightly optimistic. `reference` holds the samples to normalise on (`prompts`,
    `completions`, optionally `finished`); by default the held-out pairs' completions, or the
    training pairs' if none are held out. `progress(step, steps, {"loss", "accuracy", "lr"})` is
    called after every step, with "held_out_loss" where it was measured. For checkpoints,
    `after_step(step, steps, state)` is called then too; `state()` returns what `resume` takes.
    Raises RewardError for missing columns, no pairs, a loss that is not finite, or a state of other
    pairs.
    """
    config = config or PreferenceConfig()
    if held_out is None:
        check_pairs(pairs)
        pairs, held_out, _ = split(pairs, config.held_out, config.seed)
    check_pairs(held_out or pairs)  # not only when they are measured, at the end
    encoded = encode_pairs(model, pairs)
    measured = encode_pairs(model, _some(held_out, config.seed)) if held_out else None
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        trainer = PreferenceTrainer(model, encoded, measured, config)
        if resume:
            trainer.load_state_dict(resume)
        while not trainer.finished:
            metrics = trainer.next_step()
            if progress:
                progress(trainer.step, trainer.steps, metrics)
            if after_step:
                after_step(trainer.step, trainer.steps, trainer.state_dict)
        trainer.finish()
    texts = {pair[side] for pair in pairs for side in ("chosen", "rejected")}
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "distinct_texts": len(texts),
        "cut_texts": encoded.cut,
        "steps": trainer.step,
        "kept_step": trainer.best["step"] if trainer.best else trainer.step,
        "held_out_pairs": len(held_out),
        "held_out_seen": sum(
            pair["chosen"] in texts or pair["rejected"] in texts for pair in held_out
        ),
    }
    if held_out:
        report |= evaluate(model, held_out)
    if reference is None:
        reference = completions_of(held_out or pairs)
    report |= normalise(model, **reference)
    report["warnings"] = warnings_of(report)
    model.report = report | {"training": asdict(config) | {"lr": trainer.lr}}
    return model.report


def _some(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """At most MEASURED of the pairs, chosen at random."""
    if len(pairs) <= MEASURED:
        return list(pairs)
    return random.Random(seed).sample(list(pairs), MEASURED)


def default_lr(model: RewardModel) -> float:
    """The learning rate that suits the size of a model and how much of it is trained."""
    trunk = list(model.model.base_model.parameters())
    trained = sum(p.numel() for p in trunk if p.requires_grad)
    if not trained or sum(p.numel() for p in trunk) < TINY:
        return 1e-3
    return 1e-5 if all(p.requires_grad for p in trunk) else 2e-4


class PreferenceTrainer:
    """Takes one AdamW step per batch; chosen and rejected rows share a forward pass.

    The state is that of the trained parameters alone. Of these the weights with the least held-out
    loss so far are kept in main memory.
    """

    def __init__(
        self,
        model: RewardModel,
        pairs: EncodedPairs,
        held_out: EncodedPairs | None,
        config: PreferenceConfig,
    ) -> None:
        self.model, self.pairs, self.held_out, self.config = model, pairs, held_out, config
        named = model.model.named_parameters()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.lr = default_lr(model) if config.lr is None else config.lr
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=self.lr, weight_decay=config.weight_decay, fused=True
        )
        self.batches = _batches(pairs, config)
        self.steps, self.step = len(self.batches), 0
        every = config.evaluate_every
        self.every = -(-self.steps // MEASUREMENTS) if every is None else every
        self.best: dict[str, Any] | None = None  # step, loss and parameters
        self.worse = 0  # measurements since then
        self.data = fingerprint(pairs.chosen, pairs.rejected, pairs.margins)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the held-out loss no longer falls."""
        return self.step == self.steps or self.worse >= self.config.patience

    def next_step(self) -> dict[str, float]:
        """Take a gradient step; return its loss, accuracy and learning rate.

        Raises RewardError if the loss or gradient is not finite.
        """
        self.model.model.train()
        batch = self.batches[self.step]
        lr = self.lr * (1 - self.step / self.steps)
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.zero_grad()
        loss = accuracy = 0.0
        size = max(1, self.config.micro_rows // 2) if self.config.micro_rows else len(batch)
        for start in range(0, len(batch), size):
            part = batch[start : start + size]
            share = len(part) / len(batch)
            part_loss, right = self._loss(part)
            (part_loss * share).backward()
            loss, accuracy = loss + part_loss.item() * share, accuracy + right * share
        limit = self.config.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise RewardError(
                f"reward model: loss {loss}, gradient norm {norm.item()} at step {self.step + 1} "
                f"of {self.steps}; a lower lr than {self.lr:g} may help"
            )
        self.optimiser.step()
        self.step += 1
        metrics = {"loss": loss, "accuracy": accuracy, "lr": lr}
        due = self.every and (self.step % self.every == 0 or self.step == self.steps)
        if due and self.held_out:
            metrics["held_out_loss"] = self._measure(self.held_out)
        return metrics

    def _loss(self, rows: list[int]) -> tuple[torch.Tensor, float]:
        """The loss of the pairs with these numbers, and their accuracy."""
        pairs, config = self.pairs, self.config
        scores = self.model.raw_scores([pairs.chosen[i] for i in rows]
                                       + [pairs.rejected[i] for i in rows])  # fmt: skip
        chosen, rejected = scores.chunk(2)
        margin = torch.tensor(
            [config.margin if pairs.margins[i] is None else pairs.margins[i] for i in rows],
            device=scores.device,
        )
        loss = bradley_terry_loss(chosen, rejected, margin, config.centring)
        if config.length_penalty:
            longer = torch.tensor([pairs.longer[i] for i in rows])
            correlation = length_correlation(chosen - rejected, longer)
            loss = loss + config.length_penalty * correlation**2
        return loss, (chosen > rejected).float().mean().item()

    def _measure(self, pairs: EncodedPairs) -> float:
        """The held-out loss; the weights are kept if it is the least so far."""
        chosen, rejected = self.model.score_rows(pairs.chosen + pairs.rejected).chunk(2)
        loss = bradley_terry_loss(chosen, rejected).item()
        self.worse += 1
        if self.best is None or loss < self.best["loss"]:
            kept = {name: p.detach().cpu().clone() for name, p in self.parameters.items()}
            self.best, self.worse = {"step": self.step, "loss": loss, "parameters": kept}, 0
        return loss

    def finish(self) -> None:
        """Take back the weights with the least held-out loss, and merge LoRA adapters."""
        if self.best and self.best["step"] < self.step:
            self._load(self.best["parameters"])
        self.model.finish_training()
        self.model.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        return {
            "iteration": self.step,
            "parameters": self.parameters,
            "optimizer": self.optimiser.state_dict(),
            "best": self.best,
            "worse": self.worse,
            "random": random_state(),
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; raises RewardError if the pairs are not the same."""
        if state["data"] != self.data:
            raise RewardError("the pairs have changed since the run began; use the same data")
        self._load(state["parameters"])
        self.optimiser.load_state_dict(state["optimizer"])
        self.best, self.worse = state["best"], state["worse"]
        set_random_state(state["random"])
        self.step = int(state["iteration"])

    @torch.no_grad()
    def _load(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


def steps_of(pairs: int, config: PreferenceConfig) -> int:
    """The number of gradient steps that the configuration asks for, given so many pairs."""
    per_pass = -(-pairs // config.batch_size)
    if config.epochs is not None:
        return config.epochs * per_pass
    return config.steps or max(per_pass, min(LEAST_STEPS, MOST_PASSES * per_pass))


def _batches(pairs: EncodedPairs, config: PreferenceConfig) -> list[list[int]]:
    """The batches of every step."""
    order, batches = random.Random(config.seed), list[list[int]]()
    steps = steps_of(len(pairs.chosen), config)
    while len(batches) < steps:
        batches += pairs.batches(config.batch_size, order)
    return batches[:steps]


def evaluate(model: RewardModel, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return accuracy (ties count half), Bradley-Terry loss, calibration and the role of length.

    Beside the accuracy: that of "the longer one wins" and of "the shorter one wins" (in tokens,
    ties half), the accuracy on the pairs whose longer text lost, `longer_lost_accuracy` (None
    without such pairs), and `length_correlation` (see that function).
    """
    encoded = encode_pairs(model, pairs)
    scores = model.score_rows(encoded.chosen + encoded.rejected)
    chosen, rejected = scores.chunk(2)
    differences, longer = chosen - rejected, torch.tensor(encoded.longer)
    right, longer_right = _right(differences), _right(longer)
    longer_lost = right[longer < 0]
    return {
        "accuracy": right.mean().item(),
        "loss": bradley_terry_loss(chosen, rejected).item(),
        "longer_wins": longer_right.mean().item(),
        "shorter_wins": 1 - longer_right.mean().item(),
        "longer_lost_pairs": len(longer_lost),
        "longer_lost_accuracy": longer_lost.mean().item() if len(longer_lost) else None,
        "length_correlation": length_correlation(differences, longer).item(),
        "held_out_cut_texts": encoded.cut,
        **calibration(differences.tolist()),
    }


def _right(differences: torch.Tensor) -> torch.Tensor:
    """1 where the chosen one is ahead, 0 where behind, 0.5 in between."""
    return (differences > 0).float() + 0.5 * (differences == 0).float()


def warnings_of(report: Mapping[str, Any]) -> list[str]:
    """Return what in a report a user should know before trusting the model, a line each."""
    warnings = []
    texts, distinct = 2 * report["pairs"], report["distinct_texts"]
    if distinct * RECURRING <= texts:
        warnings.append(
            f"the {texts:,} training texts are only {distinct:,} different ones: the model can "
            "memorise them, and accuracy on new texts may be far lower"
        )
    cut, held_out_cut = report["cut_texts"], report.get("held_out_cut_texts", 0)
    if cut or held_out_cut:
        warnings.append(
            f"{cut:,} of {texts:,} training texts and {held_out_cut:,} of "
            f"{2 * report['held_out_pairs']:,} held-out texts were longer than the model reads, "
            "and lost the beginning of their prompt"
        )
    if "loss" not in report:
        return warnings
    if report["held_out_seen"] > SEEN * report["held_out_pairs"]:
        warnings.append(
            f"{report['held_out_seen']:,} of {report['held_out_pairs']:,} held-out pairs have a "
            "completion that is in the training pairs too: accuracy on new texts may be lower"
        )
    if report["loss"] > math.log(2):
        warnings.append(
            f"held-out loss {report['loss']:.3f} is above ln 2 = 0.693, that of a model without "
            "any opinion: it is sure and wrong; use a lower lr, fewer steps or more pairs"
        )
    by_length = max(report["longer_wins"], report["shorter_wins"])
    if report["accuracy"] <= by_length:
        warnings.append(
            f"held-out accuracy {report['accuracy']:.3f} is no better than that of the length "
            f"alone, {by_length:.3f}"
        )
    if abs(report["length_correlation"]) > FOLLOWS_LENGTH:
        warnings.append(
            f"the score follows the length (correlation {report['length_correlation']:.2f}): a "
            "policy will learn the length; see length_penalty"
        )
    return warnings


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
