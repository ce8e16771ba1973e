"""Completions and scores become episodes: the score on the last token, the KL on every token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from reward_models.calling import call_with_parts, reward_name
from rlhf_pg.core import kl
from rlhf_pg.core.masked import masked_mean, zero_padding
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.policy import LanguagePolicy, Reference
from rlhf_pg.language.sampling import Completions

Reward = Callable[..., Any]


@dataclass
class Scores:
    """What rewards said of B completions."""

    scores: Tensor  # (B,) of the reward
    shaped: Tensor  # (B,) clipped, minus the missing-EOS penalty: what the learner maximises
    gold: Tensor | None  # (B,) of the gold reward, never trained on
    parts: dict[str, list[float | None]]  # of a composed reward, by name


def score(
    reward: Reward,
    gold: Reward | None,
    completions: Completions,
    columns: dict[str, list[Any]],
    score_clip: float | None = None,
    missing_eos_penalty: float = 0.0,
) -> Scores:
    """Score completions by the reward and the gold; `columns` are the data's, one value per row.

    Scores are clipped to plus or minus `score_clip`; then `missing_eos_penalty` is subtracted from
    those of completions that were cut at the length limit. Raises as `score_completions`.
    """
    scores, parts = score_completions(reward, completions, columns)
    shaped = scores if score_clip is None else scores.clamp(-score_clip, score_clip)
    shaped = shaped - missing_eos_penalty * (~completions.finished).to(scores.dtype)
    measured = None if gold is None else score_completions(gold, completions, columns)[0]
    return Scores(scores, shaped, measured, parts)


def score_completions(
    reward: Reward, completions: Completions, columns: dict[str, list[Any]]
) -> tuple[Tensor, dict[str, list[float | None]]]:
    """Scores (B,) of one reward, and the parts of a composed reward by name.

    The reward is called by keyword with `prompts`, `completions`, `finished` and the data's other
    columns. None ("does not apply") counts as 0. Raises ValueError for a wrong count or no numbers,
    and FloatingPointError for a NaN or infinite score, naming the row.
    """
    ours = ("prompt", "prompts", "completions")  # columns of these names are not passed on
    beside = {name: values for name, values in columns.items() if name not in ours}
    beside["finished"] = completions.finished.tolist()
    answer, parts = call_with_parts(
        reward, reward_name(reward), completions.prompts, completions.texts, **beside
    )
    scores = torch.tensor([0.0 if score is None else score for score in answer])
    return scores.to(completions.logprobs.device), parts


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
    """The rollout of B completions with their (shaped) scores (B,).

    The score lands on the last real token, the EOS if there is one. The KL penalty is
    -kl_coef * k1 in each token's reward, or left to the loss. A completion cut at the length limit
    is terminal unless `bootstrap_truncated`: then V of its last state is the return still to come.
    """
    rollout = unscored(completions)
    rollout.group_size = group_size
    rollout.rewards = scores[:, None] * rollout.ends
    if kl_in == "loss":
        rollout.ref_logprobs, rollout.kl_coef = ref_logprobs, kl_coef
    else:
        rollout.rewards = rollout.rewards - kl_coef * kl_per_token(completions, ref_logprobs)
    if bootstrap_truncated:
        truncated = rollout.ends * (~completions.finished)[:, None]
        rollout.next_values = rollout.next_values + truncated * completions.values[:, 1:]
    return rollout


def completion_rows(completions: Completions, measured: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One row per completion with the measured numbers (B,), as samples.jsonl stores them."""
    return [
        {
            "prompt": completions.prompts[i],
            "completion": completions.texts[i],
            **{name: round(float(values[i]), 4) for name, values in measured.items()},
            "length": int(completions.mask[i].sum()),
            "finished": bool(completions.finished[i]),
        }
        for i in range(len(completions.texts))
    ]
