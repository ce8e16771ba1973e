"""Every completion of a small task, and the optimal policy on it.

max over pi of E[r] - beta KL(pi || ref) is at pi* = ref exp(r / beta) / Z, where it is beta log Z
(Ziebart 2010; Korbak et al. 2022, arXiv 2205.11275).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import data
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward, reference_logprobs, required_scores
from rlhf_pg.language.sampling import Completions, completion_texts, encode, pad_left, pad_right

MOST = 20_000  # completions of all prompts together


@dataclass
class Optimum:
    """The optimal policy for one KL coefficient: means over the prompts."""

    kl_coef: float
    kl: float
    score: float
    objective: float  # beta log Z = score - beta kl


def enumerable(vocabulary: int, max_new_tokens: int, prompts: int) -> bool:
    """Whether all completions can be enumerated: at most `MOST` of them."""
    each = (
        sum((vocabulary - 1) ** n for n in range(max_new_tokens))
        + (vocabulary - 1) ** max_new_tokens
    )
    return each * prompts <= MOST


def optima(
    reference: LanguagePolicy,
    tokenizer: Any,
    columns: data.Rows,
    reward: Reward,
    max_new_tokens: int,
    coefficients: Sequence[float],
) -> list[Optimum]:
    """pi* of each KL coefficient above 0, exactly, in rising order of its KL."""
    tables = []
    for i, prompt in enumerate(columns["prompt"]):
        completions = every_completion(reference, tokenizer, prompt, max_new_tokens)
        same = {name: [values[i]] * len(completions.texts) for name, values in columns.items()}
        scores = required_scores(reward, completions, same).double()
        logp = (
            zero_padding(reference_logprobs(reference, completions), completions.mask)
            .double()
            .sum(1)
        )
        tables.append((logp, scores))
    return [_optimum(tables, beta) for beta in sorted(coefficients, reverse=True) if beta > 0]


def _optimum(tables: list[tuple[Tensor, Tensor]], beta: float) -> Optimum:
    kls, means = [], []
    for logp, scores in tables:
        best = (logp + scores / beta).log_softmax(0)
        kls.append(float((best.exp() * (best - logp)).sum()))
        means.append(float((best.exp() * scores).sum()))
    kl, score = sum(kls) / len(kls), sum(means) / len(means)
    return Optimum(beta, kl, score, score - beta * kl)


def every_completion(
    policy: LanguagePolicy, tokenizer: Any, prompt: str, max_new_tokens: int
) -> Completions:
    """All completions of a prompt: those that end by EOS, and those cut at the limit."""
    eos, device = tokenizer.eos_token_id, next(policy.parameters()).device
    vocabulary = policy.model.config.get_text_config().vocab_size
    going: list[list[int]] = [[]]
    rows: list[list[int]] = []
    for _ in range(max_new_tokens):
        rows += [[*row, eos] for row in going]
        going = [[*row, token] for row in going for token in range(vocabulary) if token != eos]
    rows += going
    (encoded,) = encode(tokenizer, [prompt])
    prompt_ids, prompt_mask = pad_left([encoded] * len(rows), eos, device)
    ids, mask = pad_right(rows, eos, device)
    empty = torch.zeros(len(rows), max_new_tokens, device=device)
    values = torch.zeros(len(rows), max_new_tokens + 1, device=device)
    finished = torch.tensor([row[-1] == eos for row in rows], device=device)
    texts = completion_texts(tokenizer, prompt_ids, prompt_mask, ids, mask)
    return Completions(
        prompt_ids, prompt_mask, ids, mask, empty, values, finished, [prompt] * len(rows), texts
    )
