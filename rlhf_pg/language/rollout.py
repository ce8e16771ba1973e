"""Completions and their scores become episodes: the score on the last token, KL on every one."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from rlhf_pg.core import kl
from rlhf_pg.core.learner import Evaluation, Rollout
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.sampling import Completions

Reward = Callable[..., Any]


class Reference(Protocol):
    """What the policy is held near to: anything that scores completions as a policy does."""

    def evaluate(self, rollout: Rollout) -> Evaluation: ...

    def distributions(self, rollout: Rollout) -> Tensor: ...


def score_completions(
    reward: Reward, done: Completions, columns: dict[str, list[Any]]
) -> tuple[Tensor, dict[str, list[float | None]]]:
    """Scores (B,) of the completions, and the parts of a composed reward by name.

    The reward is called by keyword with the prompts, the completions, which of them `finished`,
    and the data's other columns. None ("does not apply") counts as 0. Raises ValueError for a
    wrong count or no numbers, and FloatingPointError for a NaN or infinite score, naming the row.
    """
    asked = {**columns, "prompts": done.prompts, "completions": done.texts}
    asked["finished"] = done.finished.tolist()
    parts: dict[str, list[float | None]] = {}
    if hasattr(reward, "with_parts"):
        answer, parts = reward.with_parts(**asked)
    else:
        answer = reward(**asked)
    if hasattr(answer, "tolist"):  # an array or a tensor
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        raise ValueError(f"the reward returned {type(answer).__name__}; it must return a list")
    if len(answer) != len(done.texts):
        raise ValueError(
            f"the reward returned {len(answer)} scores for {len(done.texts)} completions"
        )
    try:
        scores = torch.tensor([0.0 if score is None else float(score) for score in answer])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the reward returned a score that is no number: {error}") from error
    for row in (~torch.isfinite(scores)).nonzero().flatten().tolist()[:1]:
        raise FloatingPointError(
            f"the reward gave {answer[row]} to row {row}: {done.prompts[row] + done.texts[row]!r}"
        )
    return scores.to(done.logprobs.device), parts


@torch.no_grad()
def reference_logprobs(reference: Reference, done: Completions) -> Tensor:
    """log ref(a_t | s_t) of the completions' tokens, (B, T), at the reference's temperature."""
    return reference.evaluate(unscored(done)).logprobs


@torch.no_grad()
def exact_kl(
    policy: LanguagePolicy, reference: Reference, done: Completions, rows: int = 64
) -> Tensor:
    """KL(policy || reference) of the next token, summed over the states of each row, (B,), nats.

    Exact at every state visited, over the whole vocabulary, so its only noise is which states
    those are; on average it is the KL of completions, as k1 and k3 are. `rows` at a time.
    """
    episodes = unscored(done)
    sums = []
    for start in range(0, len(episodes), rows):
        part = episodes[start : start + rows]
        steps = kl.categorical_kl(policy.distributions(part), reference.distributions(part))
        sums.append(zero_padding(steps, part.mask[:, : steps.shape[1]]).sum(1))
    return torch.cat(sums)


def unscored(done: Completions) -> Rollout:
    """The completions as episodes that end on their last token, every reward still 0."""
    mask = done.mask
    ends = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).to(done.logprobs.dtype)
    return Rollout(
        inputs={"input_ids": done.prompt_ids, "attention_mask": done.prompt_mask},
        actions=done.ids,
        logprobs=done.logprobs,
        values=zero_padding(done.values[:, :-1], mask),
        next_values=zero_padding(done.values[:, 1:], mask) * (1 - ends),
        rewards=torch.zeros_like(done.logprobs),
        ends=ends,
        mask=mask,
    )


def language_rollout(
    done: Completions,
    scores: Tensor,
    ref_logprobs: Tensor,
    kl_coef: float,
    kl_in: Literal["reward", "loss"] = "reward",
    bootstrap_truncated: bool = False,
    group_size: int = 1,
) -> Rollout:
    """The rollout of B completions with their scores (B,).

    The score lands on the last real token, the EOS where there is one. The KL penalty is
    -kl_coef * k1 in each token's reward, or left to the loss. A completion cut at the length limit
    counts as terminal unless `bootstrap_truncated`: then the value of its last state stands in for
    what it might still have earned.
    """
    rollout = unscored(done)
    rollout.group_size = group_size
    rollout.rewards = scores[:, None] * rollout.ends
    if kl_in == "loss":
        rollout.ref_logprobs, rollout.kl_coef = ref_logprobs, kl_coef
    else:
        drift = zero_padding(kl.k1(done.logprobs, ref_logprobs), done.mask)
        rollout.rewards = rollout.rewards - kl_coef * drift
    if bootstrap_truncated:
        cut = rollout.ends * (~done.finished)[:, None]
        rollout.next_values = rollout.next_values + cut * done.values[:, 1:]
    return rollout
