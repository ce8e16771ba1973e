"""The true value of every prefix of a completion: by continuing from it many times, or exactly.

V(s_t) is the mean return of what the policy itself would write from there; the true advantage of a
token is reward + gamma * V(s_{t+1}) - V(s_t). No critic takes part. A completion cut at the length
limit is terminal here, whatever stood in for the rest of it in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.returns import rewards_to_go
from rlhf_pg.language import data
from rlhf_pg.language.answers import Answers, Task
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.sampling import Drawn, completions, draw
from rlhf_pg.study.oracle import exact

ROWS = 2048  # continuations drawn side by side


@dataclass
class Truth:
    """What each token of B completions was really worth; (B, T), 0 on padding."""

    values: Tensor  # V(s_t)
    value_errors: Tensor  # their standard errors; 0 where exact
    advantages: Tensor  # reward + gamma V(s_{t+1}) - V(s_t)
    advantage_errors: Tensor
    exact: bool


def by_enumeration(
    policy: LanguagePolicy, task: Task, answers: Answers, columns: data.Rows
) -> Truth:
    """Exact, from every completion of each prompt; for vocabularies and lengths that allow it."""
    done = answers.done
    values = torch.zeros(done.mask.shape, dtype=torch.float64)
    tables: dict[str, dict[tuple[int, ...], float]] = {}
    for i, prompt in enumerate(done.prompts):
        if prompt not in tables:
            mine = {name: column[i] for name, column in columns.items()}
            tables[prompt] = _value_table(policy, task, mine, answers.kl_coef)
        tokens = done.ids[i][done.mask[i]].tolist()
        for t in range(len(tokens)):
            values[i, t] = tables[prompt][tuple(tokens[:t])]
    return _truth(values, torch.zeros_like(values), answers, task.config.learner.gamma, True)


def _value_table(
    policy: LanguagePolicy, task: Task, columns: dict[str, str], kl_coef: float
) -> dict[tuple[int, ...], float]:
    """V of every prefix that a completion of one prompt may have."""
    limit = task.config.max_new_tokens
    done = every_completion(policy, task.tokenizer, columns["prompt"], limit)
    same = {name: [value] * len(done.texts) for name, value in columns.items()}
    judged = task.judge(done, same, kl_coef=0.0)
    coef = kl_coef if task.config.learner.kl_in == "reward" else 0.0
    answer = exact(
        policy, judged.rollout, judged.ref_logprobs, coef, task.config.learner.gamma, parameters=[]
    )
    table = {}
    for row, values, length in zip(
        done.ids.tolist(), answer.values.tolist(), done.mask.sum(1).tolist(), strict=True
    ):
        table.update({tuple(row[:t]): values[t] for t in range(length)})
    return table


@torch.no_grad()
def by_continuation(
    policy: LanguagePolicy,
    task: Task,
    answers: Answers,
    columns: data.Rows,
    count: int,
    generator: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Truth:
    """Estimates from `count` (at least 2) fresh continuations of every prefix, with their errors.

    `progress` is told how many tokens' prefixes are done.
    """
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 continuations, not {count}")
    task = replace(task, gold=None)  # nobody asks it of the continuations
    mask = answers.done.mask
    values = torch.zeros(mask.shape, dtype=torch.float64)
    errors = torch.zeros_like(values)
    for t in range(mask.shape[1]):
        rows = mask[:, t].nonzero().squeeze(1)
        for some in rows.split(max(1, ROWS // count)):
            returns = _returns_from(policy, task, answers, columns, some, t, count, generator)
            values[some, t] = returns.mean(1)
            errors[some, t] = returns.std(1) / count**0.5
        if progress:
            progress(int(mask[:, : t + 1].sum()))
    return _truth(values, errors, answers, task.config.learner.gamma, False)


def _returns_from(
    policy: LanguagePolicy,
    task: Task,
    answers: Answers,
    columns: data.Rows,
    rows: Tensor,
    t: int,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """What `count` continuations of the rows' first t tokens still earn, (rows, count)."""
    done = answers.done
    which = rows.repeat_interleave(count)
    prompt_ids, prompt_mask = done.prompt_ids[which], done.prompt_mask[which]
    begun, ones = done.ids[which, :t], torch.ones_like(prompt_mask[:, :1]).expand(-1, t)
    ahead = draw(
        policy,
        task.tokenizer,
        torch.cat([prompt_ids, begun], 1),
        torch.cat([prompt_mask, ones], 1),
        task.config.max_new_tokens - t,
        generator,
    )
    before = torch.zeros(len(which), t, device=begun.device)
    whole = Drawn(
        torch.cat([begun, ahead.ids], 1),
        torch.cat([ones.bool(), ahead.mask], 1),
        torch.cat([before, ahead.logprobs], 1),  # of the past, nothing is asked
        torch.cat([before, torch.zeros_like(ahead.values)], 1),
        ahead.finished,
    )
    same = {name: [column[i] for i in which.tolist()] for name, column in columns.items()}
    finished = completions(task.tokenizer, same["prompt"], prompt_ids, prompt_mask, whole)
    rewards = task.judge(finished, same, answers.kl_coef).rollout.rewards.double()
    return rewards_to_go(rewards, torch.zeros_like(rewards), task.config.learner.gamma)[:, t].view(
        len(rows), count
    )


def _truth(values: Tensor, errors: Tensor, answers: Answers, gamma: float, exact: bool) -> Truth:
    """Advantages from the values, the state after the last token being worth 0."""
    mask = answers.done.mask
    after, after_errors = (
        torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1) for x in (values, errors)
    )
    rewards = answers.rollout.rewards.double()
    # The two means come from different continuations, so their errors are independent.
    spread = (errors**2 + (gamma * after_errors) ** 2).sqrt()
    advantages = zero_padding(rewards + gamma * after - values, mask)
    return Truth(values, errors, advantages, zero_padding(spread, mask), exact)
