"""What the checks share, each part computed at its first use; the result of a check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer

from reward_models.calling import total
from reward_models.pretrained import open_pretrained
from rlhf_pg.core.rollout import Evaluation
from rlhf_pg.language import data, models
from rlhf_pg.language.policy import LanguagePolicy, Reference
from rlhf_pg.language.rollout import unscored
from rlhf_pg.language.sampling import Completions, encode, sample
from rlhf_pg.study.config import DoctorConfig
from rlhf_pg.study.doctor import measure

PROMPTS, SAMPLES = 16, 4  # the checks sample at most so many prompts, so many times each
TOLERANCE = 1e-5  # of log-probabilities that should be equal, in fp32
Status = Literal["pass", "warn", "fail", "skip"]


@dataclass
class Result:
    """The result of one check."""

    status: Status
    measured: str
    limit: str = ""
    advice: str = ""  # what to do, if the status is warn or fail
    group: str = ""
    name: str = ""
    explanation: str = ""


def result(
    good: bool, measured: str, limit: str, advice: str, otherwise: Status = "fail"
) -> Result:
    """A pass if `good`; if not, `otherwise` with the advice."""
    return Result("pass", measured, limit) if good else Result(otherwise, measured, limit, advice)


class Skip(Exception):
    """Something that a check needs is missing; the message says what."""


class Context:
    """Model, tokenizer, data and reward as `rlhf-pg train` opens them, with samples and scores.

    Nothing is written, and no weight changes.
    """

    def __init__(self, config: DoctorConfig, reward: Callable[..., Any] | None = None) -> None:
        """Open everything; raises ValueError for all that `rlhf-pg train` refuses.

        A callable `reward` replaces the config's. Without any, training steps use random scores.
        """
        self.config = config
        self.reward: Any = reward or config.reward
        if self.reward == DoctorConfig.reward and not Path(self.reward).exists():
            self.reward = None
        still = replace(config, learner=replace(config.learner, lr=0.0))
        self.trainer = measure.MeasuredTrainer(still, self.reward or _random_scores)
        self.tokenizer: Any = self.trainer.tokenizer
        self.prompts: list[str] = self.trainer.prompts.rows["prompt"]
        self.embedded = _embedded(self.trainer.policy)  # rows of the model's embedding

    @cached_property
    def encoded(self) -> list[list[int]]:
        """The tokens of each prompt."""
        return encode(self.tokenizer, self.prompts)

    @cached_property
    def not_finite(self) -> list[str]:
        """Names of the policy's parameters that hold a NaN or an infinity."""
        named = self.trainer.policy.named_parameters()
        return [name for name, p in named if not bool(torch.isfinite(p).all())]

    @property
    def policy(self) -> LanguagePolicy:
        """The policy; Skip if a weight is not finite, as nothing can be sampled then."""
        if self.not_finite:
            raise Skip("a weight is not finite")
        return self.trainer.policy

    @cached_property
    def differing_tokens(self) -> int:
        """The number of tokens and of embedding rows in which policy and reference differ."""
        if self.config.reference is None:
            return 0
        folder = models.model_folder(self.config.reference)
        theirs = open_pretrained(AutoTokenizer, folder).get_vocab()
        ours = self.tokenizer.get_vocab().items()
        rows = abs(self.embedded - _embedded(self.trainer.reference))
        return rows + sum(theirs.get(token) != i for token, i in ours)

    @property
    def reference(self) -> Reference:
        """The reference; Skip if it has other tokens, as its probabilities mean nothing then."""
        if self.differing_tokens:
            raise Skip("the reference has other tokens")
        return self.trainer.reference

    @cached_property
    def sampled(self) -> tuple[Completions, data.Rows]:
        """Completions, several of each prompt in consecutive rows, and the data's columns."""
        samples = min(SAMPLES, self.config.rows)
        count = min(PROMPTS, self.config.rows // samples)
        columns = data.spread(self.trainer.prompts.rows, count, samples)
        generator = torch.Generator().manual_seed(self.config.seed)
        limit, prompts = self.config.max_new_tokens, columns.pop("prompt")
        return sample(self.policy, self.tokenizer, prompts, limit, generator), columns

    @property
    def completions(self) -> Completions:
        return self.sampled[0]

    @cached_property
    def evaluations(self) -> tuple[Evaluation, Evaluation]:
        """Two evaluations of the completions, after a call that turns dropout on in most code."""
        self.policy.train()
        episodes = unscored(self.completions)
        with torch.no_grad():
            return self.policy.evaluate(episodes), self.policy.evaluate(episodes)

    @property
    def evaluation(self) -> Evaluation:
        """The first of the two; Skip if they differ, as nothing can be compared with it then."""
        first, second = self.evaluations
        if float((first.logprobs - second.logprobs).abs().max()) > TOLERANCE:
            raise Skip("evaluations differ each time")
        return first

    def score(
        self, rows: Sequence[int] | None = None, finished: list[bool] | None = None
    ) -> list[float | None]:
        """Scores of the completions, or of those `rows`, by one call as training makes it.

        `finished` replaces that column. Running moments are restored. Raises what the reward
        raises, and Skip without a reward.
        """
        if self.reward is None:
            raise Skip("no reward: give --reward")
        done, columns = self.sampled
        finished = done.finished.tolist() if finished is None else finished
        own: dict[str, Any] = {
            "prompts": done.prompts,
            "completions": done.texts,
            "completion_ids": [row[m].tolist() for row, m in zip(done.ids, done.mask, strict=True)],
            "finished": finished,
        }
        rows = range(len(done.texts)) if rows is None else rows
        chosen = {name: [values[i] for i in rows] for name, values in (columns | own).items()}
        moments = self.trainer.reward.state_dict()
        scores = [total(score) for score in self.trainer.reward(**chosen)]
        self.trainer.reward.load_state_dict(moments)
        return scores

    @cached_property
    def scores(self) -> list[float | None]:
        """The score of each completion; None if the reward does not apply to it."""
        return self.score()

    @cached_property
    def second_scores(self) -> list[float | None]:
        return self.score()

    @property
    def numbers(self) -> Tensor:
        """The scores (N,) that are not None, float64; Skip if there are none."""
        scores = [score for score in self.scores if score is not None]
        if not scores:
            raise Skip("the reward applies to no row")
        return torch.tensor(scores, dtype=torch.float64)

    @cached_property
    def gradient(self) -> measure.Gradient:
        """The gradient of a small rollout; Skip if no score differs, as it is 0 then."""
        if self.reward and len(self.numbers.unique()) == 1:
            raise Skip("all completions score the same")
        return measure.gradient(self._trainer_for_step())

    @cached_property
    def iteration(self) -> measure.Iteration:
        """Seconds and memory of an iteration by stage."""
        return measure.iteration(self._trainer_for_step())

    def _trainer_for_step(self) -> measure.MeasuredTrainer:
        """The trainer; Skip, or the reward's error, if it cannot make an iteration."""
        _ = self.policy, self.reference, self.reward and self.scores
        if sum(self.trainer.bytes_needed().values()) > self.trainer.total_memory():
            raise Skip("a step needs more memory than there is")
        return self.trainer


def _embedded(policy: Any) -> int:
    return int(policy.model.config.get_text_config().vocab_size)


def _random_scores(completions: list[str], **_: Any) -> list[float]:
    return torch.rand(len(completions)).tolist()
