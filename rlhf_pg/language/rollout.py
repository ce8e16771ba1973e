"""Completions and scores become episodes: the score on the last token, the KL on every token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reward_models.calling import (
    ARGUMENTS,
    Log,
    Score,
    TrainerState,
    call_with_parts,
    reward_name,
    total,
)
from rlhf_pg.core import kl
from rlhf_pg.core.masked import masked_mean, zero_padding
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.policy import LanguagePolicy, Reference
from rlhf_pg.language.sampling import Completions

Reward = Callable[..., Any]


@dataclass
class Scores:
    """What rewards said of B completions; NaN where a reward does not apply (None)."""

    scores: Tensor  # (B,) of the reward
    shaped: Tensor  # (B,) clipped, minus the missing-EOS penalty: what the learner maximises
    rewards: Tensor  # (B, T) of the tokens, whose sums are `shaped`
    gold: Tensor | None  # (B,) of the gold reward, never trained on
    parts: dict[str, list[float | None]]  # of a composed reward, by name
    log: Log  # what the reward logged

    def chosen(self, other: "Scores", rows: Tensor) -> "Scores":
        """Those rows of both, the other's counted after the own ones."""
        width = max(self.rewards.shape[1], other.rewards.shape[1])
        wide = [
            torch.nn.functional.pad(x.rewards, (0, width - x.rewards.shape[1]))
            for x in (self, other)
        ]
        gold = None
        if self.gold is not None and other.gold is not None:
            gold = torch.cat([self.gold, other.gold])[rows]
        index, none = rows.tolist(), [None] * len(self.shaped)
        parts = {name: x + other.parts[name] for name, x in self.parts.items()}
        names = self.log.extra | other.log.extra
        extra = {n: self.log.extra.get(n, none) + other.log.extra.get(n, none) for n in names}
        metrics = {
            name: self.log.metrics.get(name, []) + other.log.metrics.get(name, [])
            for name in self.log.metrics | other.log.metrics
        }
        return Scores(
            torch.cat([self.scores, other.scores])[rows],
            torch.cat([self.shaped, other.shaped])[rows],
            torch.cat(wide)[rows],
            gold,
            {name: [x[i] for i in index] for name, x in parts.items()},
            Log(len(index), metrics, {name: [x[i] for i in index] for name, x in extra.items()}),
        )


def differing_groups(shaped: Tensor, group_size: int) -> Tensor:
    """Whether the scores (B,) of a group differ, (B / group_size,); NaN is no score."""
    groups = shaped.reshape(-1, group_size)
    least = groups.nan_to_num(nan=torch.inf).min(1).values
    return groups.nan_to_num(nan=-torch.inf).max(1).values > least


def score(
    reward: Reward,
    gold: Reward | None,
    completions: Completions,
    columns: dict[str, list[Any]],
    score_clip: float | None = None,
    missing_eos_penalty: float = 0.0,
    mask_truncated: bool = False,
    state: TrainerState | None = None,
) -> Scores:
    """Score completions by the reward and the gold; `columns` are the data's, one value per row.

    Scores are clipped to plus or minus `score_clip`; then `missing_eos_penalty` is subtracted from
    those of completions that were cut at the length limit, or, if `mask_truncated`, these have no
    shaped score. Of scores per token the sum is clipped; both changes fall on the last token.
    Raises as `score_completions`.
    """
    log = Log(len(completions.texts))
    answer, parts = _answers(reward, completions, columns, state, log)
    scores = _totals(answer, completions)
    shaped = scores if score_clip is None else scores.clamp(-score_clip, score_clip)
    if mask_truncated:
        shaped = torch.where(completions.finished, shaped, torch.nan)
    else:
        shaped = shaped - missing_eos_penalty * (~completions.finished).to(scores.dtype)
    measured = None if gold is None else score_completions(gold, completions, columns)[0]
    rewards = _of_tokens(answer, scores, shaped, completions)
    return Scores(scores, shaped, rewards, measured, parts, log)


def score_completions(
    reward: Reward, completions: Completions, columns: dict[str, list[Any]]
) -> tuple[Tensor, dict[str, list[float | None]]]:
    """Scores (B,) of one reward, and the parts of a composed reward by name.

    The reward is called as `reward_models.calling` says, with the data's columns. A score of None
    ("does not apply") is NaN here; one per token counts by its sum. Raises ValueError for a wrong
    count or no numbers, and FloatingPointError for a NaN or infinite score, naming the row.
    """
    answer, parts = _answers(reward, completions, columns)
    return _totals(answer, completions), parts


def required_scores(
    reward: Reward, completions: Completions, columns: dict[str, list[Any]]
) -> Tensor:
    """Scores (B,) where each completion must have one; raises ValueError, naming a row without."""
    return all_scored(score_completions(reward, completions, columns)[0], completions)


def all_scored(scores: Tensor, completions: Completions) -> Tensor:
    """The scores (B,); raises ValueError, naming a row, if the reward does not apply to one."""
    if bool(scores.isnan().any()):
        row = int(scores.isnan().nonzero()[0])
        raise ValueError(
            f"the reward gave no score (None) to row {row} ({completions.texts[row][:40]!r}), but "
            "exact and true values need a score of every completion"
        )
    return scores


def _answers(
    reward: Reward,
    completions: Completions,
    columns: dict[str, list[Any]],
    state: TrainerState | None = None,
    log: Log | None = None,
) -> tuple[list[Score], dict[str, list[float | None]]]:
    """The reward's scores, and its parts as numbers; `log` gets what it logs."""
    ids = [row[m].tolist() for row, m in zip(completions.ids, completions.mask, strict=True)]
    ours = ("prompt", *ARGUMENTS)  # columns of these names are not passed on
    beside: dict[str, Any] = {name: x for name, x in columns.items() if name not in ours}
    beside |= {"completion_ids": ids, "finished": completions.finished.tolist()}
    if state is not None:
        beside["trainer_state"] = state
    if log is not None:
        beside |= {"log_metric": log.log_metric, "log_extra": log.log_extra}
    answer, parts = call_with_parts(
        reward, reward_name(reward), completions.prompts, completions.texts, **beside
    )
    return answer, {name: [total(score) for score in scores] for name, scores in parts.items()}


def _totals(answer: list[Score], completions: Completions) -> Tensor:
    """Scores (B,); NaN for None."""
    totals = [total(score) for score in answer]
    scores = torch.tensor([float("nan") if score is None else score for score in totals])
    return scores.to(completions.logprobs.device)


def _of_tokens(
    answer: list[Score], scores: Tensor, shaped: Tensor, completions: Completions
) -> Tensor:
    """Rewards (B, T) of the tokens, whose sums are `shaped` (B,)."""
    rewards, at_last = torch.zeros_like(completions.logprobs), shaped.clone()
    for row, score in enumerate(answer):
        if isinstance(score, list):
            rewards[row, : len(score)] = rewards.new_tensor(score)
            at_last[row] -= scores[row]  # what clipping and penalties changed
    last = completions.mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, at_last[:, None])


@torch.no_grad()
def rescore(policy: LanguagePolicy, completions: Completions) -> float:
    """Replace log-probabilities and values by those of the forward pass that trains.

    In reduced precision, sampling with a cache and scoring without round differently, and the
    first ratio of PPO would not be 1. Returns their mean absolute difference, nats per token.
    """
    now, mask = policy.evaluate(unscored(completions)), completions.mask
    gap = masked_mean((now.logprobs - completions.logprobs).abs(), mask)
    completions.logprobs = zero_padding(now.logprobs, mask)
    if now.values is not None:
        completions.values[:, :-1] = now.values
    return float(gap)


@torch.no_grad()
def reference_logprobs(reference: Reference, completions: Completions) -> Tensor:
    """log ref(a_t | s_t) of the completions' tokens, (B, T), at the reference's temperature."""
    return reference.evaluate(unscored(completions)).logprobs


def kl_per_token(completions: Completions, ref_logprobs: Tensor) -> Tensor:
    """k1 = log pi - log ref of every sampled token, (B, T), 0 on padding."""
    return zero_padding(kl.k1(completions.logprobs, ref_logprobs), completions.mask)


@torch.no_grad()
def exact_kl(
    policy: LanguagePolicy, reference: Reference, completions: Completions, rows: int = 64
) -> Tensor:
    """KL(policy || reference) of the next token, summed over the states of each row, (B,), nats.

    Computed over the whole vocabulary at every state visited, so the only noise is which states
    those are. Its mean is the KL of completions, as those of k1 and k3 are. `rows` at a time.
    """
    episodes = unscored(completions)
    sums = []
    for start in range(0, len(episodes), rows):
        part = episodes[start : start + rows]
        steps = kl.categorical_kl(policy.distributions(part), reference.distributions(part))
        sums.append(zero_padding(steps, part.mask[:, : steps.shape[1]]).sum(1))
    return torch.cat(sums)


def unscored(completions: Completions) -> Rollout:
    """The completions as episodes that end on their last token, with all rewards 0."""
    mask = completions.mask
    logprobs = completions.logprobs
    ends = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).to(logprobs.dtype)
    return Rollout(
        inputs={"input_ids": completions.prompt_ids, "attention_mask": completions.prompt_mask},
        actions=completions.ids,
        logprobs=logprobs,
        values=zero_padding(completions.values[:, :-1], mask),
        next_values=zero_padding(completions.values[:, 1:], mask) * (1 - ends),
        rewards=torch.zeros_like(logprobs),
        ends=ends,
        mask=mask,
    )


def language_rollout(
    completions: Completions,
    scores: Tensor,
    ref_logprobs: Tensor,
    kl_coef: float,
    kl_in: Literal["reward", "loss"] = "reward",
    bootstrap_truncated: bool = False,
    group_size: int = 1,
) -> Rollout:
    """The rollout of B completions with their (shaped) scores (B,), or rewards per token (B, T).

    A score lands on the last real token, the EOS if there is one. The KL penalty is
    -kl_coef * k1 in each token's reward, or left to the loss. A completion cut at the length limit
    is terminal unless `bootstrap_truncated`: then V of its last state is the return still to come.
    A row with NaN has no score: its mask is 0, so that the learner leaves it out.
    """
    rollout = unscored(completions)
    rollout.group_size = group_size
    rewards = per_token(scores, rollout)
    rollout.mask = rollout.mask & ~rewards.isnan().any(1, keepdim=True)
    if kl_in == "loss":
        rollout.ref_logprobs, rollout.kl_coef = ref_logprobs, kl_coef
    else:
        rewards = rewards - kl_coef * kl_per_token(completions, ref_logprobs)
    rollout.rewards = zero_padding(rewards, rollout.mask)
    if bootstrap_truncated:
        truncated = rollout.ends * (~completions.finished)[:, None]
        rollout.next_values = rollout.next_values + truncated * completions.values[:, 1:]
    return rollout


def per_token(scores: Tensor, episodes: Rollout) -> Tensor:
    """Rewards (B, T) of scores (B,), which land on the last real token; those (B, T) stay."""
    rewards = scores if scores.ndim == 2 else scores[:, None] * episodes.ends
    return zero_padding(rewards, episodes.mask)


def completion_rows(completions: Completions, measured: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One row per completion with the measured numbers (B,), as samples.jsonl stores them.

    NaN (no score) becomes None.
    """
    return [
        {
            "prompt": completions.prompts[i],
            "completion": completions.texts[i],
            **{name: _number(values[i]) for name, values in measured.items()},
            "length": int(completions.mask[i].sum()),
            "finished": bool(completions.finished[i]),
        }
        for i in range(len(completions.texts))
    ]


def _number(x: Tensor) -> float | None:
    return None if x.isnan() else round(float(x), 4)
