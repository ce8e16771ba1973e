"""Exact answers for a task whose episodes can all be enumerated.

Nothing is sampled: an expectation is the sum over all episodes, weighted by their probabilities,
and the gradient is autograd's gradient of that sum. Training and estimators are tested against it.
"""

from collections.abc import Sequence
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
from rlhf_pg.language.rollout import Reference, Reward, all_scored, per_token, score, unscored

CHUNK = 2048  # episodes in one forward and backward pass


@dataclass
class Exact:
    """Exact answers for one policy: N episodes of at most T steps, float64, 0 on padding.

    `returns`, `values`, `q_values` and `advantages` include the KL penalty; `episodes.rewards` do
    not.
    """

    episodes: Rollout  # every episode once, padded on the right
    logprobs: Tensor  # (N, T) log pi(a_t|s_t)
    ref_logprobs: Tensor | None  # (N, T)
    probs: Tensor  # (N,) of the episodes; they sum to 1
    returns: Tensor  # (N,) sum_t gamma^t (r_t - kl_coef * k1_t)
    objective: float  # J = E[returns]
    gradient: Tensor  # (parameters,) dJ/dtheta, in the order of `policy_parameters`
    values: Tensor  # (N, T) V(s_t)
    q_values: Tensor  # (N, T) Q(s_t, a_t)
    advantages: Tensor  # (N, T) Q - V
    kl: float  # KL(policy || reference) of whole episodes, nats; 0 without a reference
    entropy: float  # of whole episodes, nats
    best: Tensor | None  # (N,) pi* = ref exp(score / kl_coef) / Z; None without a closed form
    best_objective: float | None  # kl_coef log Z; the best score if kl_coef is 0


def policy_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """The trainable parameters that J depends on: those of a language policy without its critic."""
    actor = getattr(policy, "model", policy)
    return [p for p in actor.parameters() if p.requires_grad]


def exact(
    policy: Policy,
    episodes: Rollout,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    gamma: float = 1.0,
    parameters: Sequence[Tensor] | None = None,
) -> Exact:
    """J, its gradient, V, Q and A at every prefix, and the optimum, by summing over all episodes.

    `episodes` holds every episode once, all from one start state; a state is the sequence of
    actions before it, so equal prefixes have equal values. `ref_logprobs` are (N, T). `parameters`
    are those to differentiate by, by default `policy_parameters(policy)`; an empty list skips the
    gradient. With `gamma` below 1 and a KL penalty pi* has no closed form, and `best` is None.
    Raises ValueError if the probabilities do not sum to 1, or a KL penalty has no reference.
    """
    if kl_coef and ref_logprobs is None:
        raise ValueError(f"kl_coef is {kl_coef} but there is no reference; give ref_logprobs")
    mask = episodes.mask.bool()
    scores = zero_padding(episodes.rewards, mask).double()
    ref = None if ref_logprobs is None else zero_padding(ref_logprobs, mask).double()
    chosen = list(policy_parameters(policy) if parameters is None else parameters)
    logprobs, gradient = _differentiate(policy, episodes, scores, ref, kl_coef, gamma, chosen)

    probs = logprobs.sum(1).exp()
    if not abs(float(probs.sum()) - 1) < 1e-3:
        raise ValueError(
            f"the episodes' probabilities sum to {float(probs.sum()):.6g}, not 1; give every "
            "episode from one start exactly once"
        )
    no_ends = torch.zeros_like(scores)  # a row is one episode: padding ends it
    rewards = _penalised(scores, logprobs, ref, kl_coef)
    returns = rewards_to_go(rewards, no_ends, gamma)
    values, q_values = _state_values(episodes.actions, mask, logprobs, returns)
    unpenalised = rewards_to_go(scores, no_ends, gamma)[:, 0]
    best, best_objective = _optimum(unpenalised, ref, kl_coef, gamma)
    kl = 0.0 if ref is None else float((probs * _log_ratio(logprobs, ref).sum(1)).sum())
    finite = logprobs.sum(1).clamp(min=-1e4)  # probability 0 adds nothing to the entropy
    return Exact(
        episodes=episodes,
        logprobs=logprobs,
        ref_logprobs=ref,
        probs=probs,
        returns=returns[:, 0],
        objective=float((probs * returns[:, 0]).sum()),
        gradient=gradient,
        values=values,
        q_values=q_values,
        advantages=q_values - values,
        kl=kl,
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
    """`exact` of all completions of one prompt, each scored by `reward`.

    `columns` are the prompt's other columns, one value each, for the reward. A completion cut at
    the length limit is terminal and loses `missing_eos_penalty`. Raises ValueError if there are
    more than `limit` completions.
    """
    check_enumerable(policy, max_new_tokens, limit)
    done = every_completion(policy, tokenizer, prompt, max_new_tokens)
    repeated = {name: [value] * len(done.texts) for name, value in (columns or {}).items()}
    scores = score(reward, None, done, repeated, None, missing_eos_penalty)
    all_scored(scores.shaped, done)
    episodes = unscored(done)
    episodes.rewards = per_token(scores.rewards, episodes).double()
    ref = None
    if reference is not None:
        with torch.no_grad():
            ref = torch.cat([reference.evaluate(part).logprobs for part in _chunks(episodes)])
    return exact(policy, episodes, ref, kl_coef, parameters=parameters)


def check_enumerable(policy: LanguagePolicy, max_new_tokens: int, limit: int = MOST) -> None:
    """Raise ValueError, with the count, if a prompt has more than `limit` completions."""
    others = policy.model.config.get_text_config().vocab_size - 1
    count = sum(others**n for n in range(max_new_tokens)) + others**max_new_tokens
    if count > limit:
        raise ValueError(
            f"{others + 1} tokens and {max_new_tokens} steps make {count:,} completions, more "
            f"than {limit:,}: use a smaller vocabulary, or lower max_new_tokens"
        )


def _chunks(episodes: Rollout) -> list[Rollout]:
    return [episodes[start : start + CHUNK] for start in range(0, len(episodes), CHUNK)]


def _differentiate(
    policy: Policy,
    episodes: Rollout,
    scores: Tensor,
    ref: Tensor | None,
    kl_coef: float,
    gamma: float,
    parameters: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """log pi (N, T) and dJ/dtheta (parameters,); J is a sum, so the chunks' gradients add up."""
    discounts = gamma ** torch.arange(scores.shape[1], dtype=scores.dtype, device=scores.device)
    total = [torch.zeros_like(p, dtype=torch.float64) for p in parameters]
    logprobs = []
    for i, part in enumerate(_chunks(episodes)):
        rows = slice(i * CHUNK, (i + 1) * CHUNK)
        with torch.set_grad_enabled(bool(parameters)):
            logp = zero_padding(policy.evaluate(part).logprobs, part.mask).double()
            rewards = _penalised(scores[rows], logp, None if ref is None else ref[rows], kl_coef)
            objective = (logp.sum(1).exp() * (discounts * rewards).sum(1)).sum()
        if parameters:
            gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
            for sum_, g in zip(total, gradients, strict=True):
                if g is not None:
                    sum_ += g
        logprobs.append(logp.detach())
    flat = torch.cat([g.flatten() for g in total]) if total else torch.zeros(0).double()
    return torch.cat(logprobs), flat


def _penalised(scores: Tensor, logprobs: Tensor, ref: Tensor | None, kl_coef: float) -> Tensor:
    """Rewards with the KL penalty, (N, T)."""
    return scores - kl_coef * _log_ratio(logprobs, ref) if ref is not None and kl_coef else scores


def _log_ratio(logprobs: Tensor, ref: Tensor) -> Tensor:
    """k1 of every step, (N, T); 0 where the policy's probability is 0, so that the KL is finite."""
    return torch.where(logprobs.isfinite(), k1(logprobs, ref), 0.0)


def _state_values(
    actions: Tensor, mask: Tensor, logprobs: Tensor, returns: Tensor
) -> tuple[Tensor, Tensor]:
    """V(s_t) and Q(s_t, a_t), each (N, T).

    They are the mean return from step t of the episodes that share the prefix, each weighted by
    the probability of the rest of it.
    """
    no_ends = torch.zeros_like(logprobs)
    rest = rewards_to_go(logprobs, no_ends, 1.0)  # log-probability of the rest, given s_t
    after = torch.cat([rest[:, 1:], no_ends[:, :1]], 1)  # and given a_t too
    # A number for every prefix, the same in all rows that share it.
    prefix = torch.zeros_like(actions[:, 0])
    values, q_values = torch.zeros_like(returns), torch.zeros_like(returns)
    for t in range(actions.shape[1]):
        values[:, t] = _prefix_means(prefix, rest[:, t], returns[:, t], mask[:, t])
        prefix = prefix * (int(actions.max()) + 1) + actions[:, t]
        prefix = prefix.unique(return_inverse=True)[1]
        q_values[:, t] = _prefix_means(prefix, after[:, t], returns[:, t], mask[:, t])
    return values, q_values


def _prefix_means(prefix: Tensor, log_weights: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """sum of exp(log_weights) * returns over the rows of equal `prefix`, all (N,)."""
    sums = torch.zeros_like(returns)
    sums.index_add_(0, prefix, log_weights.exp() * returns * mask)
    return sums[prefix] * mask


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
