"""Completions token by token, as tokens.jsonl stores them (runs.EPISODE and runs.TOKEN)."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.losses import importance_ratio
from rlhf_pg.core.masked import masked_var, whiten
from rlhf_pg.core.returns import td_errors
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Scores, kl_per_token, per_token
from rlhf_pg.language.sampling import Completions

TOP = 5  # alternatives per token
DIGITS = 7  # decimal places of a record's numbers: the precision of float32


@torch.no_grad()
def episodes(
    policy: LanguagePolicy,
    tokenizer: Any,
    completions: Completions,
    scores: Scores,
    ref_logprobs: Tensor,
    rollout: Rollout,
    learner: LearnerConfig,
    kl_coef: float,
    constant: float = 0.0,
    iteration: int | None = None,
) -> list[dict[str, Any]]:
    """One record per completion with a score, by the policy that sampled them.

    Rewards and advantages are those of `learner`, before the advantages are whitened; `constant`
    is the value of its moving average baseline.
    """
    # A critic of whitened rewards is shown beside whitened rewards.
    raw, scale = rollout.rewards, 1.0
    if learner.whiten_rewards:
        rollout = replace(rollout, rewards=whiten(raw, rollout.mask, shift_mean=False))
        before, after = masked_var(raw, rollout.mask), masked_var(rollout.rewards, rollout.mask)
        scale = float((after / before).sqrt()) if before else 1.0
    unwhitened = LearnerConfig(
        baseline=learner.baseline, gamma=learner.gamma, lam=learner.lam, n_steps=learner.n_steps
    )
    advantages, _ = estimate_advantages(rollout, unwhitened, constant)
    logprobs = policy.distributions(rollout)
    top = logprobs.exp().topk(min(TOP, logprobs.shape[-1]), dim=-1)
    columns = {
        "logprob": completions.logprobs,
        "ref_logprob": ref_logprobs,
        "entropy": policy.evaluate(rollout).entropies,
        "kl": kl_per_token(completions, ref_logprobs),
        "score": per_token(scores.rewards, rollout),
        "reward": rollout.rewards,
        "value": rollout.values,
        "next_value": rollout.next_values,
        "delta": td_errors(rollout.rewards, rollout.values, rollout.next_values, learner.gamma),
        "advantage": advantages,
    }
    settings = {
        "gamma": learner.gamma,
        "lam": learner.lam,
        "kl_coef": kl_coef,
        "reward_scale": scale,
        "entropy_temperature": 0.0,
        "kl_in": learner.kl_in,
        "baseline": learner.baseline,
        "clip": learner.clip,
    }
    return [
        {
            "iteration": iteration,
            "prompt": completions.prompts[i],
            "completion": completions.texts[i],
            "score": _round(scores.scores[i]),
            "gold": None if scores.gold is None else _round(scores.gold[i]),
            "finished": bool(completions.finished[i]),
            **settings,
            "tokens": _tokens(tokenizer, completions, i, columns, top),
        }
        for i in range(len(completions.texts))
        if rollout.mask[i].any()
    ]


def _tokens(
    tokenizer: Any, completions: Completions, row: int, columns: dict[str, Tensor], top: Any
) -> list[dict[str, Any]]:
    """Records of a completion's tokens; `top` are probabilities (B, T, TOP) and their ids."""
    texts = pieces(tokenizer, completions, row, top.indices[row].tolist())
    probabilities = top.values[row].tolist()
    return [
        {
            "token": own,
            "id": int(completions.ids[row, t]),
            **{name: _round(x[row, t]) for name, x in columns.items()},
            "top": [[text, round(p, 5)] for text, p in zip(others, probabilities[t], strict=True)],
        }
        for t, (own, *others) in enumerate(texts)
    ]


@torch.no_grad()
def after_update(
    records: list[dict[str, Any]],
    completions: Completions,
    rollout: Rollout,
    policy: LanguagePolicy,
    learner: LearnerConfig,
) -> list[dict[str, Any]]:
    """The records with each token's ratio under the updated policy, and whether it is clipped.

    A token is clipped if the loss of `learner` gives it no more gradient: if the ratio, of the
    token or of the sequence, has left the limits in the direction its advantage pushes.
    """
    scored = rollout.mask.any(1)  # rows without a score have no record
    logprobs = policy.evaluate(rollout).logprobs
    ratios = importance_ratio(logprobs, completions.logprobs, rollout.mask)[scored]
    levels = importance_ratio(logprobs, completions.logprobs, rollout.mask, learner.ratio)[scored]
    low = learner.clip or 0.0
    high = low if learner.clip_high is None else learner.clip_high
    dual = float("inf") if learner.dual_clip is None else learner.dual_clip
    for record, row, level in zip(records, ratios.tolist(), levels.tolist(), strict=True):
        for token, own, ratio in zip(record["tokens"], row, level, strict=False):
            token["ratio"] = round(own, DIGITS)
            if learner.clip is not None and not learner.clip_weights:
                rising = token["advantage"] > 0
                out = ratio > 1 + high if rising else ratio < 1 - low or ratio > dual
                token["clipped"] = out and token["advantage"] != 0
    return records


def pieces(
    tokenizer: Any, completions: Completions, row: int, others: list[list[int]]
) -> list[list[str]]:
    """The text each token adds to a completion, and what each of `others` would add in its place.

    In some tokenizers a token's text depends on those before it (its leading space), so it is
    computed as what decoding with it adds; a special token is written by its name.
    """
    before = completions.prompt_ids[row][completions.prompt_mask[row].bool()].tolist()
    rows = []
    for t, token in enumerate(completions.ids[row][completions.mask[row].bool()].tolist()):
        text = tokenizer.decode(before)
        rows.append([_piece(tokenizer, before, text, other) for other in [token, *others[t]]])
        if token not in tokenizer.all_special_ids:
            before.append(token)
    return rows


def piece(tokenizer: Any, before: list[int], token: int) -> str:
    """The text that a token adds to those before it; a special token's is its name."""
    return _piece(tokenizer, before, tokenizer.decode(before), token)


def _piece(tokenizer: Any, before: list[int], text: str, token: int) -> str:
    text = text.rstrip("\ufffd")  # the token that ends a cut character adds all of it
    longer = tokenizer.decode([*before, token])
    grown = longer.startswith(text) and len(longer) > len(text)
    special = token in tokenizer.all_special_ids
    return longer[len(text) :] if grown and not special else tokenizer.decode([token])


def _round(x: Tensor) -> float:
    return round(float(x), DIGITS) + 0.0  # + 0.0: no minus zero
