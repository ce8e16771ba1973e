"""The small task with its policy written as a table: a row of logits for every prefix, float64.

So expected gradients are exact and learning takes milliseconds, while the rollout, the advantages,
the losses and the learner are the library's own. Completions have at most three tokens: there are
400 of them, and 73 prefixes.
"""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_pg.core import losses
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.rollout import language_rollout, score_completions, unscored
from rlhf_pg.language.sampling import Completions
from rlhf_pg.study.bugs.exhibit import Comparison, Curves, Direction, Swap, both, direction
from rlhf_pg.study.bugs.table_policy import TablePolicy, prefixes
from rlhf_pg.study.oracle import Exact, exact
from rlhf_pg.study.tasks import small_task

LENGTH = 3
PLAIN = LearnerConfig(baseline="batch-mean", lr=0.1, max_grad_norm=0.0)
WHITENED = LearnerConfig(baseline="none", whiten_advantages=True, lr=0.1, max_grad_norm=0.0)


class SmallTable:
    """Every completion of the small task, its score, and the tables of policy and reference."""

    def __init__(
        self, kl_coef: float = 0.5, missing_eos_penalty: float = 0.0, temperature: float = 1.0,
        columns: int = LENGTH, scale: float = 1.0, shift: float = 0.0,
    ) -> None:  # fmt: skip
        """`columns` beyond 3 are padding, as if a longer row stood in every batch."""
        self.kl_coef, self.temperature = kl_coef, temperature
        written = _written_down()
        self.done, self.logits, self.ref_logits = written.done, written.logits, written.ref_logits
        self.eos, self.pad = written.eos, written.pad
        paid = missing_eos_penalty * (~self.done.finished)
        self.scores = scale * written.scores + shift - paid  # (N,)
        self.done = _widened(self.done, columns - LENGTH)

    def policy(self, logits: Tensor | None = None) -> TablePolicy:
        """A policy with these logits; without any, one that has left the reference."""
        return TablePolicy(self.logits if logits is None else logits, self.temperature)

    def logprobs(self, logits: Tensor) -> Tensor:
        """log-probability of every completion (N,), whatever has been swapped."""
        logp = (logits / self.temperature).log_softmax(-1)
        states = prefixes(self.done.ids, logits)[:, :-1]
        return zero_padding(logp[states, self.done.ids], self.done.mask).sum(1)

    @torch.no_grad()
    def objective(self, policy: TablePolicy) -> float:
        """J = E[score] - kl_coef * KL, exactly."""
        logp = self.logprobs(policy.logits)
        returns = self.scores - self.kl_coef * (logp - self.logprobs(self.ref_logits))
        return float(logp.exp() @ returns)

    def exact(self, policy: TablePolicy) -> Exact:
        """The oracle's answers, its gradient by the logits."""
        episodes = unscored(self.done)
        episodes.rewards = self.scores[:, None] * episodes.ends
        with torch.no_grad():
            ref = self.policy(self.ref_logits).evaluate(episodes).logprobs
        return exact(policy, episodes, ref, self.kl_coef, parameters=[policy.logits])

    def true_values(self, policy: TablePolicy) -> Tensor:
        """V of every prefix, (prefixes,)."""
        values = torch.zeros_like(policy.logits[:, 0])
        states = prefixes(self.done.ids, policy.logits)[:, :-1][self.done.mask]
        values[states] = self.exact(policy).values[self.done.mask]
        return values

    @torch.no_grad()
    def rollout(self, policy: TablePolicy, rows: Tensor | None = None) -> Rollout:
        """The completions `rows` (all unless given) as if the policy had sampled them."""
        done = self.done if rows is None else _take(self.done, rows)
        scores = self.scores if rows is None else self.scores[rows]
        now = policy.evaluate(unscored(done))
        values = torch.cat([now.values, torch.zeros_like(now.values[:, :1])], 1)  # type: ignore
        done = replace(done, logprobs=zero_padding(now.logprobs, done.mask), values=values)
        ref = self.policy(self.ref_logits).evaluate(unscored(done)).logprobs
        return language_rollout(done, scores, ref, self.kl_coef)

    def compare(
        self, setting: str, policy: TablePolicy, config: LearnerConfig, *swaps: Swap, size: int = 1
    ) -> Comparison:
        """The expected gradient in batches of `size`, right and with the functions swapped."""
        truth = self.exact(policy).gradient.reshape(policy.logits.shape)
        return Comparison(
            setting, *both(lambda: self._measure(policy, config, truth, size), *swaps)
        )

    def _measure(
        self, policy: TablePolicy, config: LearnerConfig, truth: Tensor, size: int
    ) -> Direction:
        rollout, probs = self.rollout(policy), self.logprobs(policy.logits).detach().exp()
        if size == 1:
            mean = estimate_advantages(rollout, config)[0]
            square = mean**2
        else:
            mean, square = _in_company(rollout, probs, config, size)
        logprobs = policy.evaluate(rollout).logprobs
        weighed = (probs * len(probs))[:, None] * mean
        loss = losses.policy_gradient_loss(logprobs, weighed, rollout.mask, "episode")
        estimate = -torch.autograd.grad(loss, policy.logits)[0]
        found = direction(estimate, truth)
        if self.temperature != 1:
            return found
        # States of a row differ, and so their gradients e_a - pi(s) are orthogonal.
        pi = policy.logits.detach().softmax(-1)[prefixes(self.done.ids, policy.logits)[:, :-1]]
        squares = ((torch.nn.functional.one_hot(self.done.ids, pi.shape[-1]) - pi) ** 2).sum(-1)
        second = probs @ zero_padding(square * squares, rollout.mask).sum(1)
        found.noise = float((second - (estimate**2).sum()).clamp(min=0).sqrt() / estimate.norm())
        return found

    def curves(
        self, setting: str, config: LearnerConfig, *swaps: Swap, updates: int = 60, rows: int = 64,
        seeds: int = 3, sgd: bool = False,
    ) -> Curves:  # fmt: skip
        """Learning on sampled batches, right and with the functions swapped."""

        def learn() -> list[list[float]]:
            first = [self.policy(self.ref_logits) for _ in range(seeds)]
            return [self.train(p, config, updates, rows, i, sgd) for i, p in enumerate(first)]

        best = self.exact(self.policy()).best_objective
        return Curves(setting, list(range(updates + 1)), *both(learn, *swaps), best)

    def train(
        self, policy: TablePolicy, config: LearnerConfig, updates: int, rows: int, seed: int,
        sgd: bool = False,
    ) -> list[float]:  # fmt: skip
        """J before each update and after the last; the policy is what it has become."""
        plain = torch.optim.SGD(policy.parameters(), config.lr) if sgd else None
        learner = Learner(policy, config, optimizer=plain)
        generator = torch.Generator().manual_seed(seed)
        curve = [self.objective(policy)]
        for _ in range(updates):
            with torch.no_grad():
                probs = self.logprobs(policy.logits).exp()
            drawn = torch.multinomial(probs, rows, True, generator=generator)
            learner.update(self.rollout(policy, drawn))
            curve.append(self.objective(policy))
        return curve


class _Written(NamedTuple):
    done: Completions
    scores: Tensor
    logits: Tensor
    ref_logits: Tensor
    eos: int
    pad: int


@cache
@torch.no_grad()
def _written_down() -> _Written:
    """The task's completions and scores, and what its two language models say after each prefix."""
    task = small_task(max_new_tokens=LENGTH)
    done = every_completion(task.policy, task.tokenizer, task.prompt, LENGTH)
    tables = []
    for policy in (task.policy, task.reference):
        said = policy.distributions(unscored(done)).double()
        vocabulary = said.shape[-1]
        table = torch.zeros((vocabulary**LENGTH - 1) // (vocabulary - 1), vocabulary).double()
        table[prefixes(done.ids, table)[:, :-1][done.mask]] = said[done.mask]
        tables.append(table)
    logits, ref_logits = tables
    scores = score_completions(task.reward, done, {})[0].double()
    eos, pad = task.tokenizer.eos_token_id, task.tokenizer.pad_token_id
    return _Written(done, scores, logits, ref_logits, eos, pad)


def _in_company(
    rollout: Rollout, probs: Tensor, config: LearnerConfig, size: int, draws: int = 20
) -> tuple[Tensor, Tensor]:
    """The mean advantage of each row, and its square, over whatever else is in its batch, (N, T).

    In pairs the other row is enumerated. In larger batches the others are drawn, `draws` times:
    that leaves a little noise in what the row is compared with, and none in the rest.
    """
    rows = torch.arange(len(probs))
    others, weights = rows[:, None], probs
    if size > 2:
        generator = torch.Generator().manual_seed(0)
        others = torch.multinomial(probs, draws * (size - 1), True, generator=generator)
        others = others.reshape(draws, size - 1)
        weights = torch.full((draws,), 1 / draws, dtype=probs.dtype)

    def first_row(batch: Tensor) -> Tensor:
        return estimate_advantages(rollout[batch], config)[0][0]

    mean, square = torch.zeros_like(rollout.rewards), torch.zeros_like(rollout.rewards)
    for companions, weight in zip(others, weights, strict=True):
        batches = torch.cat([rows[:, None], companions.expand(len(rows), -1)], 1)
        advantages = torch.vmap(first_row)(batches)
        mean += weight * advantages
        square += weight * advantages**2
    return mean, square


def _take(done: Completions, rows: Tensor) -> Completions:
    tensors: dict[str, Any] = {
        name: x[rows] for name, x in vars(done).items() if isinstance(x, Tensor)
    }
    at = rows.tolist()
    texts: dict[str, Any] = {
        name: [getattr(done, name)[i] for i in at] for name in ("prompts", "texts")
    }
    return replace(done, **tensors, **texts)


def _widened(done: Completions, extra: int) -> Completions:
    """With so many columns of padding more."""
    pad = torch.nn.functional.pad
    wider: dict[str, Any] = {
        name: pad(getattr(done, name), (0, extra)) for name in ("ids", "mask", "logprobs")
    }
    return replace(done, **wider, values=pad(done.values, (0, extra)))
