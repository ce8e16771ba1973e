"""Prompts answered by the policy: completions, what they are paid, the rollout they make."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core import kl
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language import data
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import (
    Reference,
    Reward,
    language_rollout,
    reference_logprobs,
    score_completions,
)
from rlhf_pg.language.sampling import Completions, sample
from rlhf_pg.language.settings import TrainConfig


@dataclass
class Answers:
    """B completions, and all that was said of them."""

    done: Completions
    scores: Tensor  # (B,) of the reward
    paid: Tensor  # (B,) clipped, less the price of a missing EOS
    parts: dict[str, list[float | None]]  # of a composed reward
    gold: Tensor | None  # (B,)
    ref_logprobs: Tensor  # (B, T)
    kl_coef: float
    rollout: Rollout

    @property
    def drift(self) -> Tensor:
        """k1 of every token, (B, T), 0 on padding."""
        return zero_padding(kl.k1(self.done.logprobs, self.ref_logprobs), self.done.mask)


@dataclass
class Task:
    """What a policy is asked for and paid by, whoever the policy is."""

    config: TrainConfig
    tokenizer: Any
    reference: Reference
    reward: Reward
    gold: Reward | None = None

    def answer(
        self,
        policy: LanguagePolicy,
        columns: data.Rows,
        generator: torch.Generator,
        kl_coef: float,
    ) -> Answers:
        """A completion of each `prompt` in the columns, judged; the others reach the reward."""
        prompts = columns["prompt"]
        done = sample(policy, self.tokenizer, prompts, self.config.max_new_tokens, generator)
        return self.judge(done, columns, kl_coef)

    def judge(self, done: Completions, columns: data.Rows, kl_coef: float) -> Answers:
        """Score given completions and make a rollout of them."""
        beside = {name: values for name, values in columns.items() if name != "prompt"}
        scores, parts = score_completions(self.reward, done, beside)
        gold = score_completions(self.gold, done, beside)[0] if self.gold is not None else None
        ref_logprobs = reference_logprobs(self.reference, done)
        paid = self.paid(scores, done.finished)
        rollout = language_rollout(
            done,
            paid,
            ref_logprobs,
            kl_coef,
            self.config.learner.kl_in,
            self.config.bootstrap_truncated,
            self.config.samples_per_prompt,
        )
        return Answers(done, scores, paid, parts, gold, ref_logprobs, kl_coef, rollout)

    def paid(self, scores: Tensor, finished: Tensor) -> Tensor:
        """Scores (B,) as the policy is paid them."""
        return paid(self.config, scores, finished)


def paid(config: TrainConfig, scores: Tensor, finished: Tensor) -> Tensor:
    """Scores (B,) clipped, less the price of a missing EOS."""
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    return scores - config.missing_eos_penalty * (~finished).to(scores.dtype)
