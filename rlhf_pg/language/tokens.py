"""Completions token by token, as tokens.jsonl keeps them (runs.EPISODE and runs.TOKEN)."""

from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.returns import td_errors
from rlhf_pg.language.answers import Answers
from rlhf_pg.language.policy import LanguagePolicy

TOP = 5  # alternatives that a record names
DIGITS = 7  # of a record's numbers after the point: what float32 holds


@torch.no_grad()
def episodes(
    policy: LanguagePolicy,
    tokenizer: Any,
    answers: Answers,
    learner: LearnerConfig,
    constant: float = 0.0,
    iteration: int | None = None,
) -> list[dict[str, Any]]:
    """One record of each completion, by the policy that drew them.

    Advantages are `learner`'s, before whitening; `constant` is what its moving average subtracts.
    """
    rollout, done = answers.rollout, answers.done
    plain = LearnerConfig(
        baseline=learner.baseline, gamma=learner.gamma, lam=learner.lam, n_steps=learner.n_steps
    )
    advantages, _ = estimate_advantages(rollout, plain, constant)
    logprobs = policy.distributions(rollout)
    top = logprobs.exp().topk(min(TOP, logprobs.shape[-1]), dim=-1)
    columns = {
        "logprob": done.logprobs,
        "ref_logprob": answers.ref_logprobs,
        "entropy": policy.evaluate(rollout).entropies,
        "kl": answers.drift,
        "score": answers.paid[:, None] * rollout.ends,
        "reward": rollout.rewards,
        "value": rollout.values,
        "next_value": rollout.next_values,
        "delta": td_errors(rollout.rewards, rollout.values, rollout.next_values, learner.gamma),
        "advantage": advantages,
    }
    about = {
        "gamma": learner.gamma,
        "lam": learner.lam,
        "kl_coef": answers.kl_coef,
        "kl_in": learner.kl_in,
        "baseline": learner.baseline,
        "clip": learner.clip,
    }
    return [
        {
            "iteration": iteration,
            "prompt": done.prompts[i],
            "completion": done.texts[i],
            "score": _round(answers.scores[i]),
            "gold": None if answers.gold is None else _round(answers.gold[i]),
            "finished": bool(done.finished[i]),
            **about,
            "tokens": _tokens(tokenizer, answers, i, columns, top),
        }
        for i in range(len(done.texts))
    ]


def _tokens(
    tokenizer: Any, answers: Answers, row: int, columns: dict[str, Tensor], top: Any
) -> list[dict[str, Any]]:
    """The records of a completion's tokens; `top` are probabilities (B, T, TOP) and their ids."""
    texts = pieces(tokenizer, answers, row, top.indices[row].tolist())
    chances = top.values[row].tolist()
    return [
        {
            "token": said,
            "id": int(answers.done.ids[row, t]),
            **{name: _round(x[row, t]) for name, x in columns.items()},
            "top": [[text, round(p, 5)] for text, p in zip(others, chances[t], strict=True)],
        }
        for t, (said, *others) in enumerate(texts)
    ]


@torch.no_grad()
def after_update(
    records: list[dict[str, Any]], answers: Answers, policy: LanguagePolicy
) -> list[dict[str, Any]]:
    """The records with the ratio of every token by the policy as it now is, and the clip's verdict.

    A token is clipped where the ratio has left 1 +- clip in the direction its advantage pushes: it
    gives no more gradient.
    """
    ratios = (policy.evaluate(answers.rollout).logprobs - answers.done.logprobs).exp()
    for record, row in zip(records, ratios, strict=True):
        clip = record["clip"]
        for token, ratio in zip(record["tokens"], row.tolist(), strict=False):
            token["ratio"] = round(ratio, DIGITS)
            if clip is not None:
                pushed = ratio - 1 if token["advantage"] > 0 else 1 - ratio
                token["clipped"] = pushed > clip and token["advantage"] != 0
    return records


def pieces(tokenizer: Any, answers: Answers, row: int, others: list[list[int]]) -> list[list[str]]:
    """What each token of a completion adds to the text, and what `others` would have in its place.

    A token's text depends on those before it in some tokenizers (the space it begins with), so it
    is what the text has more than without it; a special token is written by its name.
    """
    done = answers.done
    before = done.prompt_ids[row][done.prompt_mask[row].bool()].tolist()
    rows = []
    for t, token in enumerate(done.ids[row][done.mask[row].bool()].tolist()):
        text = tokenizer.decode(before)
        rows.append([_piece(tokenizer, before, text, other) for other in [token, *others[t]]])
        if token not in tokenizer.all_special_ids:
            before.append(token)
    return rows


def _piece(tokenizer: Any, before: list[int], text: str, token: int) -> str:
    longer = tokenizer.decode([*before, token])
    grown = longer.startswith(text) and len(longer) > len(text)
    special = token in tokenizer.all_special_ids
    return longer[len(text) :] if grown and not special else tokenizer.decode([token])


def _round(x: Tensor) -> float:
    return round(float(x), DIGITS) + 0.0  # no minus zero
