"""The true value of every prefix of a completion, by enumeration or by many continuations.

V(s_t) is the mean return of the completions that the policy itself samples from a prefix; the true
advantage of a token is reward + gamma * V(s_{t+1}) - V(s_t). The critic plays no part. A completion
cut at the length limit is terminal here, also where training bootstrapped from its last state.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.returns import rewards_to_go
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language import data
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.loaded import LoadedRun
from rlhf_pg.language.rollout import all_scored
from rlhf_pg.language.sampling import Completions, continue_from
from rlhf_pg.study.oracle import exact

ROWS = 2048  # continuations sampled in one batch


@dataclass
class TrueValues:
    """True values and advantages of the tokens of B completions, and their standard errors."""

    values: Tensor  # (B, T) V(s_t); like the others float64, and 0 on padding
    value_errors: Tensor  # (B, T) 0 if exact
    advantages: Tensor  # (B, T) reward + gamma V(s_{t+1}) - V(s_t)
    advantage_errors: Tensor  # (B, T) 0 if exact
    exact: bool


def enumerated_values(
    run: LoadedRun, completions: Completions, rollout: Rollout, columns: data.Rows
) -> TrueValues:
    """Exact values, from every completion of each prompt.

    `columns` are the data's, one value per completion. Their number of prompts, the vocabulary and
    the length limit must be small: see `enumeration.enumerable`.
    """
    values = torch.zeros(completions.mask.shape, dtype=torch.float64)
    tables: dict[str, dict[tuple[int, ...], float]] = {}
    for i, prompt in enumerate(completions.prompts):
        if prompt not in tables:
            tables[prompt] = _value_table(run, {name: rows[i] for name, rows in columns.items()})
        tokens = completions.ids[i][completions.mask[i]].tolist()
        for t in range(len(tokens)):
            values[i, t] = tables[prompt][tuple(tokens[:t])]
    return _true_values(values, torch.zeros_like(values), rollout, run.config.learner.gamma, True)


def _value_table(run: LoadedRun, columns: dict[str, str]) -> dict[tuple[int, ...], float]:
    """V of every prefix (token ids) of the completions of one prompt."""
    config = run.config
    completions = every_completion(
        run.policy, run.tokenizer, columns["prompt"], config.max_new_tokens
    )
    same = {name: [value] * len(completions.texts) for name, value in columns.items()}
    scores = run.score(completions, same, with_gold=False)
    # `exact` adds the KL penalty itself: the enumerated completions carry no log-probabilities.
    all_scored(scores.shaped, completions)
    rollout, ref_logprobs = run.rollout(completions, scores.rewards, kl_coef=0.0)
    kl_coef = run.kl_coef if config.learner.kl_in == "reward" else 0.0
    answer = exact(run.policy, rollout, ref_logprobs, kl_coef, config.learner.gamma, parameters=[])
    lengths = completions.mask.sum(1).tolist()
    table = {}
    for row, values, length in zip(
        completions.ids.tolist(), answer.values.tolist(), lengths, strict=True
    ):
        table.update({tuple(row[:t]): values[t] for t in range(length)})
    return table


@torch.no_grad()
def continued_values(
    run: LoadedRun,
    completions: Completions,
    rollout: Rollout,
    columns: data.Rows,
    count: int,
    generator: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> TrueValues:
    """Estimates from `count` new continuations of every prefix, with their standard errors.

    `progress` is called with the number of prefixes done. Raises ValueError for fewer than 2
    continuations.
    """
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 continuations, not {count}")
    mask = completions.mask
    values = torch.zeros(mask.shape, dtype=torch.float64)
    errors = torch.zeros_like(values)
    for t in range(mask.shape[1]):
        # All completions that have a token t, as many in one batch as `ROWS` allows.
        rows = mask[:, t].nonzero().squeeze(1)
        for batch in rows.split(max(1, ROWS // count)):
            returns = _returns_from(run, completions, columns, batch, t, count, generator)
            values[batch, t] = returns.mean(1)
            errors[batch, t] = returns.std(1) / count**0.5
        if progress:
            progress(int(mask[:, : t + 1].sum()))
    return _true_values(values, errors, rollout, run.config.learner.gamma, False)


def _returns_from(
    run: LoadedRun,
    completions: Completions,
    columns: data.Rows,
    rows: Tensor,
    t: int,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Discounted returns from step t on of `count` continuations of each row, (rows, count)."""
    repeated = rows.repeat_interleave(count)
    same = {name: [column[i] for i in repeated.tolist()] for name, column in columns.items()}
    continued = continue_from(
        run.policy,
        run.tokenizer,
        same["prompt"],
        completions.prompt_ids[repeated],
        completions.prompt_mask[repeated],
        completions.ids[repeated, :t],
        run.config.max_new_tokens,
        generator,
    )
    scores = run.score(continued, same, with_gold=False)
    all_scored(scores.shaped, continued)
    # The KL penalty of the begun tokens is wrong here, but only rewards from step t on count.
    rewards = run.rollout(continued, scores.rewards)[0].rewards.double()
    returns = rewards_to_go(rewards, torch.zeros_like(rewards), run.config.learner.gamma)
    return returns[:, t].view(len(rows), count)


def _true_values(
    values: Tensor, errors: Tensor, rollout: Rollout, gamma: float, is_exact: bool
) -> TrueValues:
    """Advantages from the values; the state after the last token has value 0."""
    next_values, next_errors = (
        torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1) for x in (values, errors)
    )
    advantages = rollout.rewards.double() + gamma * next_values - values
    # The two means come from different continuations, so their errors are independent.
    advantage_errors = (errors**2 + (gamma * next_errors) ** 2).sqrt()
    mask = rollout.mask
    return TrueValues(
        values,
        errors,
        zero_padding(advantages, mask),
        zero_padding(advantage_errors, mask),
        is_exact,
    )
