"""Starting values of the options from the first rollout, and warnings as the training goes on.

A reward of any scale may be given, but the KL coefficient and the missing-EOS penalty are in its
units. What they amount to depends on the spread of the scores, which the first rollout shows.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reward_models.preference import TINY
from rlhf_pg.collapse import CollapseMonitor
from rlhf_pg.language.config import TrainConfig

KL_TARGET = 6.0  # nats per completion, as Ziegler et al. 2019
SMALLEST_TILT = 1.0  # std / kl_coef; below, the optimum is within half a nat of the reference
LARGEST_PENALTY = 3.0  # missing_eos_penalty / std; above, ending counts for more than the score
CONSTANT = 1e-6  # std of scores that are all equal, relative to the largest score if it is above 1
PATIENCE = 3  # rollouts in a row, until a warning
LARGEST_LR = 1e-4  # for all weights of a pretrained model


def std_within(scores: Tensor, group_size: int) -> float | None:
    """Standard deviation of scores (B,) among the completions of one prompt, over all prompts.

    The root of the mean unbiased variance within groups of `group_size` rows; NaN is no score.
    None if no group has two scores.
    """
    groups = scores.double().reshape(-1, group_size)
    counts = (~groups.isnan()).sum(1)
    freedom = int((counts - 1).clamp(min=0).sum())
    if not freedom:
        return None
    squares = (groups - groups.nanmean(1, keepdim=True)).square().nansum()
    return math.sqrt(float(squares) / freedom)


def first_rollout(metrics: Mapping[str, float], config: TrainConfig, parameters: int) -> list[str]:
    """Lines on the first rollout: its numbers, starting values that follow from them, and a warning
    for each option that is far from any that works.

    `metrics` are those of the first iteration, `parameters` the number that is trained. The optimum
    is proportional to ref * exp(score / kl_coef); of scores that are normal with standard deviation
    s among the completions of a prompt, its KL to the reference is (s / kl_coef)^2 / 2.
    """
    limit, beta, penalty = config.max_new_tokens, config.kl_coef, config.missing_eos_penalty
    ends = f"{metrics['length']:.1f} of at most {limit} tokens, EOS rate {metrics['eos_rate']:.2f}"
    if "entropy" in metrics:
        ends += f", entropy {metrics['entropy']:.2f} nats per token"
    warnings = _learning_rate(config, parameters) + _precision(config)
    if "score" not in metrics:
        return [f"first rollout: no scores; {ends}", *warnings]
    std = spread(metrics)
    within = " within a prompt" if "score_std_within" in metrics else ""
    first = f"first rollout: score {metrics['score']:.3g}, std {std:.3g}{within}; {ends}"
    if is_constant(metrics):
        return [first, *warnings]
    price = metrics["eos_rate"] < 1 and not config.mask_truncated

    def kl(coefficient: float) -> float:
        return (std / coefficient) ** 2 / 2

    coefficient = f"--kl_coef {suggested_kl_coef(std):.2g}"
    values = [f"{coefficient} for a KL near {KL_TARGET:g} nats at the optimum (now {beta:g}"]
    values[0] += f": near {kl(beta):.2g})" if beta else ")"
    if price:
        values.append(f"--missing_eos_penalty {std:.2g} (now {penalty:g})")
    if metrics["eos_rate"] < 0.5:
        values.append(f"--max_new_tokens {2 * limit} to let more completions end (now {limit})")
    if beta and std / beta < SMALLEST_TILT:
        warnings.append(
            f"warning: kl_coef {beta:g} is large for scores that differ by {std:.2g}: the optimum "
            f"is only about {kl(beta):.1g} nats from the reference; set {coefficient}"
        )
    if price and penalty > LARGEST_PENALTY * std:
        warnings.append(
            f"warning: missing_eos_penalty {penalty:g} is {penalty / std:.0f} times the spread of "
            "the scores, so the policy learns to stop early and little else; set "
            f"--missing_eos_penalty {std:.2g}"
        )
    return [first, f"starting values by its spread: {', '.join(values)}", *warnings]


def suggested_kl_coef(std: float) -> float:
    """The coefficient whose optimum is KL_TARGET nats from the reference, of normal scores."""
    return std / math.sqrt(2 * KL_TARGET)


def _learning_rate(config: TrainConfig, parameters: int) -> list[str]:
    """A warning if all weights of a pretrained model are trained as fast as a tiny model."""
    lr = config.learner.lr
    if config.lora_rank is not None or parameters < TINY or lr <= LARGEST_LR:
        return []
    return [
        f"warning: learner.lr {lr:g} suits tiny models and LoRA; for all weights of a model of "
        f"{parameters / 1e6:.0f} million parameters set --learner.lr 1e-5, or --lora_rank 8"
    ]


def _precision(config: TrainConfig) -> list[str]:
    """A warning if bfloat16 would be computed by a CPU that has no instructions for it."""
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    if not (config.bf16 and on_cpu and torch.backends.cpu.get_cpu_capability() == "AVX2"):
        return []
    return ["warning: this CPU has no instructions for bfloat16: training is faster without --bf16"]


def spread(metrics: Mapping[str, float]) -> float:
    """Standard deviation of the score within prompts, or over the rollout without groups."""
    return metrics.get("score_std_within", metrics["score_std"])


def is_constant(metrics: Mapping[str, float]) -> bool:
    """Whether all completions, or all of the same prompt, have the same score."""
    return spread(metrics) <= CONSTANT * max(1.0, abs(metrics["score"]))


class TrainingMonitor:
    """Warns once each: of scores that stay equal, of completions that are all cut at the length
    limit, of an entropy that collapses early.

    Each warning has a name, the key that is 1 in the line of metrics where it came.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.in_a_row = {"score_constant": 0, "all_truncated": 0}  # rollouts
        self.collapse = CollapseMonitor(
            None, "raise --kl_coef or --learner.entropy_coef, or lower --learner.lr"
        )

    def check(self, metrics: Mapping[str, float], done: int) -> dict[str, str]:
        """The warnings that are due after `done` iterations, by name."""
        config, due = self.config, {}
        constant = config.rows > 1 and "score" in metrics and is_constant(metrics)
        if self._lasts("score_constant", constant):
            due["score_constant"] = (
                f"the scores of {PATIENCE} rollouts in a row did not differ"
                f"{' within a prompt' if 'score_std_within' in metrics else ''}, so they teach "
                "nothing: use a reward that distinguishes completions, or easier prompts"
            )
        if self._lasts("all_truncated", metrics["eos_rate"] == 0):
            due["all_truncated"] = (
                f"every completion of {PATIENCE} rollouts in a row was cut at "
                f"{config.max_new_tokens} tokens, so the policy cannot learn to end: raise "
                "--max_new_tokens"
            )
        if "entropy" in metrics:
            collapsed = self.collapse.check(metrics["entropy"], done / config.iterations)
            if collapsed:
                due["entropy_collapsed"] = collapsed
        return due

    def _lasts(self, name: str, now: bool) -> bool:
        """Count rollouts in a row; true in the one that makes them enough, the first time."""
        if self.in_a_row[name] < PATIENCE:  # else it has been said
            self.in_a_row[name] = self.in_a_row[name] + 1 if now else 0
            return self.in_a_row[name] == PATIENCE
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"in_a_row": dict(self.in_a_row), "collapse": self.collapse.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_a_row = dict(state["in_a_row"])
        self.collapse.load_state_dict(state["collapse"])
