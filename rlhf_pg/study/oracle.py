"""The exact answers of a task whose episodes can all be written down.

Nothing is sampled: an expectation is a sum over every episode, weighed by its probability, and the
gradient is autograd's of that sum. What an estimator says on average can be held against it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.kl import k1
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.returns import rewards_to_go
from rlhf_pg.core.rollout import Policy, Rollout
from rlhf_pg.language.enumeration import MOST, every_completion
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import (
    Reference,
    Reward,
    score_completions,
    unscored,
)

CHUNK = 2048  # episodes in one forward and backward


@dataclass
class Exact:
    """All there is to know of a policy on a task whose episodes can all be written down.

    N episodes of at most T steps; float64, and 0 on padding. "Returns", values and advantages count
    the KL penalty in the rewards; `episodes.rewards` do not.
    """

    episodes: Rollout  # every episode once, padded on the right
    logprobs: Tensor  # (N, T) log pi(a_t|s_t)
    ref_logprobs: Tensor | None  # (N, T)
    probs: Tensor  # (N,) of the episodes; they add to 1
    returns: Tensor  # (N,) sum_t gamma^t (r_t - kl_coef * k1_t)
    objective: float  # J = E[returns]
    gradient: Tensor  # (parameters,) dJ/dtheta, in the order of `policy_parameters`
    values: Tensor  # (N, T) V(s_t)
    q_values: Tensor  # (N, T) Q(s_t, a_t)
    advantages: Tensor  # (N, T) Q - V
    kl: float  # KL(policy || reference) of whole episodes, nats; 0 without a reference
    entropy: float  # of whole episodes, nats
    best: Tensor | None  # (N,) pi* = ref exp(score / kl_coef) / Z; None where there is no such form
    best_objective: float | None  # kl_coef log Z, or the best score where kl_coef is 0


def policy_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """The trainable parameters that J depends on: a language policy's critic is left out."""
    acting = getattr(policy, "model", policy)
    return [p for p in acting.parameters() if p.requires_grad]


def exact(
    policy: Policy,
    episodes: Rollout,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    gamma: float = 1.0,
    parameters: Sequence[Tensor] | None = None,
) -> Exact:
    """J, its gradient, V, Q and A at every prefix, and the optimum, by summing over all episodes.

    `episodes` holds every episode once, all from one start; a state is the actions that led to it,
    and equal prefixes get equal values. `ref_logprobs` are (N, T). `parameters` are those to
    differentiate by, `policy_parameters(policy)` unless given; an empty list skips the gradient.
    With `gamma` below 1 and a KL penalty there is no closed form of pi*, and `best` is None.
    Raises ValueError where the probabilities do not add to 1, or a KL penalty has no reference.
    """
    if kl_coef and ref_logprobs is None:
        raise ValueError(f"kl_coef is {kl_coef} but there is no reference; give ref_logprobs")
    mask = episodes.mask.bool()
    scores = zero_padding(episodes.rewards, mask).double()
    ref = None if ref_logprobs is None else zero_padding(ref_logprobs, mask).double()
    wanted: list[Tensor] = list(policy_parameters(policy) if parameters is None else parameters)
    logprobs, gradient = _differentiate(policy, episodes, scores, ref, kl_coef, gamma, wanted)

    probs = logprobs.sum(1).exp()
    if not abs(float(probs.sum()) - 1) < 1e-3:
        raise ValueError(
            f"the episodes' probabilities add to {float(probs.sum()):.6g}, not 1; give every "
            "episode from one start exactly once"
        )
    rewards = _penalised(scores, logprobs, ref, kl_coef)
    to_go = rewards_to_go(rewards, torch.zeros_like(rewards), gamma)
    values, q_values = _state_values(episodes.actions, mask, logprobs, to_go)
    drift = torch.zeros(()) if ref is None else (probs * _drift(logprobs, ref).sum(1)).sum()
    finite = logprobs.sum(1).clamp(min=-1e4)  # what is never done adds nothing to the entropy
    plain = rewards_to_go(scores, torch.zeros_like(scores), gamma)[:, 0]
    best, best_objective = _optimum(plain, ref, kl_coef, gamma)
    return Exact(
        episodes=episodes,
        logprobs=logprobs,
        ref_logprobs=ref,
        probs=probs,
        returns=to_go[:, 0],
        objective=float((probs * to_go[:, 0]).sum()),
        gradient=gradient,
        values=values,
        q_values=q_values,
        advantages=q_values - values,
        kl=float(drift),
        entropy=float(-(probs * finite).sum()),
        best=best,
        best_objective=best_objective,
    )


def language_oracle(
    policy: LanguagePolicy,
    reference: Reference | None,
    tokenizer: Any,
    prompt: str,
    reward: Reward,
    max_new_tokens: int,
    kl_coef: float = 0.0,
    missing_eos_penalty: float = 0.0,
    columns: dict[str, Any] | None = None,
    parameters: Sequence[Tensor] | None = None,
    limit: int = MOST,
) -> Exact:
    """The same for all completions of one prompt, each scored by `reward`.

    `columns` are the prompt's other columns, a value each, handed to the reward. A completion cut
    at the length limit is terminal, and pays `missing_eos_penalty`. Raises ValueError where there
    are more than `limit` completions.
    """
    check_enumerable(policy, max_new_tokens, limit)
    done = every_completion(policy, tokenizer, prompt, max_new_tokens)
    same = {name: [value] * len(done.texts) for name, value in (columns or {}).items()}
    scores = score_completions(reward, done, same)[0].double()
    scores = scores - missing_eos_penalty * (~done.finished)
    episodes = unscored(done)
    episodes.rewards = scores[:, None] * episodes.ends.double()
    ref = None if reference is None else _scored(reference, episodes)
    return exact(policy, episodes, ref, kl_coef, parameters=parameters)


def check_enumerable(policy: LanguagePolicy, max_new_tokens: int, limit: int = MOST) -> None:
    """Raise ValueError where a prompt has more than `limit` completions, with the count."""
    others = policy.model.config.get_text_config().vocab_size - 1
    count = sum(others**n for n in range(max_new_tokens)) + others**max_new_tokens
    if count > limit:
        raise ValueError(
            f"{others + 1} tokens and {max_new_tokens} steps make {count:,} completions, more "
            f"than {limit:,}: use a smaller vocabulary, or lower max_new_tokens"
        )


def _parts(episodes: Rollout) -> Iterator[Rollout]:
    for start in range(0, len(episodes), CHUNK):
        yield episodes[start : start + CHUNK]


@torch.no_grad()
def _scored(policy: Reference, episodes: Rollout) -> Tensor:
    return torch.cat([policy.evaluate(part).logprobs for part in _parts(episodes)])


def _differentiate(
    policy: Policy,
    episodes: Rollout,
    scores: Tensor,
    ref: Tensor | None,
    kl_coef: float,
    gamma: float,
    parameters: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """log pi (N, T) and dJ/dtheta (parameters,), by chunks: J is a sum, so gradients add."""
    discounts = gamma ** torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device)
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    logprobs = []
    for start, part in zip(range(0, len(episodes), CHUNK), _parts(episodes), strict=True):
        rows = slice(start, start + CHUNK)
        with torch.set_grad_enabled(bool(parameters)):
            logp = zero_padding(policy.evaluate(part).logprobs, part.mask).double()
            rewards = _penalised(scores[rows], logp, None if ref is None else ref[rows], kl_coef)
            objective = (logp.sum(1).exp() * (discounts * rewards).sum(1)).sum()
        if parameters:
            for sum_, g in zip(
                total, torch.autograd.grad(objective, parameters, allow_unused=True), strict=True
            ):
                if g is not None:
                    sum_ += g
        logprobs.append(logp.detach())
    flat = torch.cat([g.flatten() for g in total]) if total else torch.zeros(0).double()
    return torch.cat(logprobs), flat


def _penalised(scores: Tensor, logprobs: Tensor, ref: Tensor | None, kl_coef: float) -> Tensor:
    return scores - kl_coef * _drift(logprobs, ref) if ref is not None and kl_coef else scores


def _drift(logprobs: Tensor, ref: Tensor) -> Tensor:
    """k1 of every step, 0 where the policy never goes: that costs nothing."""
    return torch.where(logprobs.isfinite(), k1(logprobs, ref), 0.0)


def _state_values(
    actions: Tensor, mask: Tensor, logprobs: Tensor, to_go: Tensor
) -> tuple[Tensor, Tensor]:
    """V(s_t) and Q(s_t, a_t), (N, T): the return ahead, averaged over all that may follow."""
    no_end = torch.zeros_like(logprobs)
    ahead = rewards_to_go(logprobs, no_end, 1.0)  # log-probability of the rest, given s_t
    after = torch.cat([ahead[:, 1:], no_end[:, :1]], 1)  # and given a_t too
    state = torch.zeros_like(actions[:, 0])
    values, q_values = torch.zeros_like(to_go), torch.zeros_like(to_go)
    for t in range(actions.shape[1]):
        real = mask[:, t].to(to_go.dtype)
        for table, weights, step in ((values, ahead, 0), (q_values, after, 1)):
            if step:  # the prefix grows by a_t
                state = state * (int(actions.max()) + 1) + actions[:, t]
                state = state.unique(return_inverse=True)[1]
            sums = torch.zeros_like(table[:, t])
            sums.index_add_(0, state, weights[:, t].exp() * to_go[:, t] * real)
            table[:, t] = sums[state] * real
    return values, q_values


def _optimum(
    scores: Tensor, ref: Tensor | None, kl_coef: float, gamma: float
) -> tuple[Tensor | None, float | None]:
    """pi* (N,) and J* (Korbak et al. 2022, arXiv 2205.11275, eq. 3)."""
    if ref is None or not kl_coef:
        return None, float(scores.max())
    if gamma != 1:
        return None, None
    logits = ref.sum(1) + scores / kl_coef
    return logits.softmax(0), float(kl_coef * logits.logsumexp(0))
