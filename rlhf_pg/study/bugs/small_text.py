"""A text task whose completions are all enumerated, with a table of logits as its policy.

There are 400 completions of at most three tokens, and 73 prefixes. Expected gradients are exact,
in float64, and learning takes milliseconds.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.rollout import Rollout
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.rollout import required_scores, unscored
from rlhf_pg.study.bugs import learner
from rlhf_pg.study.bugs.functions import RIGHT, Functions, score_on_last_token
from rlhf_pg.study.bugs.learner import ReplacedLearner, TablePolicy
from rlhf_pg.study.oracle import Exact, exact
from rlhf_pg.study.tasks import small_task

LENGTH = 3
PLAIN = LearnerConfig(baseline="batch-mean", lr=0.1, max_grad_norm=0.0)


class Enumerated(NamedTuple):
    """Every completion of the small task (N), and the tables of its two models."""

    ids: Tensor  # (N, LENGTH)
    mask: Tensor  # (N, LENGTH)
    states: Tensor  # (N, LENGTH) number of the prefix before each token
    finished: Tensor  # (N,)
    scores: Tensor  # (N,)
    logits: Tensor  # (prefixes, V) of a policy that differs from the reference
    ref_logits: Tensor  # (prefixes, V)
    pads: dict[str, int]


@cache
@torch.no_grad()
def enumerated() -> Enumerated:
    """The small task as tables."""
    task = small_task(max_new_tokens=LENGTH)
    done = every_completion(task.policy, task.tokenizer, task.prompt, LENGTH)
    both = [p.distributions(unscored(done)).double() for p in (task.policy, task.reference)]
    vocabulary = both[0].shape[-1]
    # Prefixes are numbered as in a heap: prefix and token give the number of the next prefix.
    states = torch.zeros_like(done.ids)
    for t in range(1, LENGTH):
        states[:, t] = states[:, t - 1] * vocabulary + 1 + done.ids[:, t - 1]
    states = zero_padding(states, done.mask)
    tables = torch.zeros(2, int(states.max()) + 1, vocabulary).double()
    for table, logp in zip(tables, both, strict=True):
        table[states[done.mask]] = logp[done.mask]
    logits, ref_logits = tables
    scores = required_scores(task.reward, done, {}).double()
    pads = {"eos": task.tokenizer.eos_token_id, "own": task.tokenizer.pad_token_id, "unused": -1}
    ids, mask, finished = done.ids, done.mask, done.finished
    return Enumerated(ids, mask, states, finished, scores, logits, ref_logits, pads)


@dataclass
class SmallText:
    """J = E[score] - kl_coef * KL, a learner, and the policy whose gradient is measured."""

    config: LearnerConfig = field(default_factory=lambda: PLAIN)
    batch: int = 1  # completions in the batches whose expected gradient is measured
    columns: int = LENGTH  # more of them are padding, as if a longer row were in every batch
    missing_eos_penalty: float = 0.0
    temperature: float = 1.0
    scale: float = 1.0  # of the scores
    shift: float = 0.0  # added to the scores
    kl_coef: float = 0.5
    pad: Literal["eos", "own", "unused"] = "eos"
    critic: Literal["zero", "wrong", "true"] = "zero"
    at_reference: bool = False  # measure the first update, of the reference itself
    sgd: bool = False

    def policy(self, f: Functions = RIGHT) -> TablePolicy:
        """The policy whose gradient is measured."""
        every = enumerated()
        logits = every.ref_logits if self.at_reference else every.logits
        policy = TablePolicy(logits, self.temperature, f)
        if self.critic == "wrong":
            generator = torch.Generator().manual_seed(0)
            policy.values.data = torch.randn(len(logits), generator=generator).double()
        elif self.critic == "true":
            real = every.mask
            policy.values.data[every.states[real]] = self.exact(policy).values[real]
        return policy

    def scores(self) -> Tensor:
        """What the learner gets for every completion, (N,)."""
        missing = self.missing_eos_penalty * (~enumerated().finished)
        return self.scale * enumerated().scores + self.shift - missing

    def logprobs(self, logits: Tensor) -> Tensor:
        """log-probability of every completion (N,), by the right functions."""
        every = enumerated()
        logp = RIGHT.token_logprobs(logits, self.temperature)[every.states, every.ids]
        return zero_padding(logp, every.mask).sum(1)

    @torch.no_grad()
    def objective(self, logits: Tensor) -> float:
        """J, exactly."""
        logp, ref = self.logprobs(logits), self.logprobs(enumerated().ref_logits)
        return float(logp.exp() @ (self.scores() - self.kl_coef * (logp - ref)))

    def exact(self, policy: TablePolicy) -> Exact:
        """The oracle's answers, its gradient by the logits."""
        right, reference = (
            TablePolicy(x, self.temperature) for x in (policy.logits, enumerated().ref_logits)
        )
        episodes = self.rollout(right, RIGHT)
        episodes.rewards = score_on_last_token(self.scores(), episodes.mask)
        ref = reference.evaluate(episodes).logprobs.detach()
        return exact(right, episodes, ref, self.kl_coef, parameters=[right.logits])

    def best(self) -> float | None:
        """J of the best policy."""
        return self.exact(self.policy()).best_objective

    @torch.no_grad()
    def rollout(self, policy: TablePolicy, f: Functions, rows: Tensor | None = None) -> Rollout:
        """The completions `rows` (all unless given) as if the policy had sampled them."""
        every, wider = enumerated(), (0, self.columns - LENGTH)
        rows = torch.arange(len(every.ids)) if rows is None else rows
        ids, real, states = (pad(x[rows], wider) for x in every[:3])
        # The function under test tells tokens from padding, which may be any token.
        token = every.pads[self.pad]
        mask = f.mask(torch.where(real, ids, token), real.sum(1), token)
        scores = self.scores()[rows]
        ends = score_on_last_token(torch.ones_like(scores), mask)
        rollout = Rollout(states, ids, ends, ends, ends, ends, ends, mask)
        reference = TablePolicy(every.ref_logits, self.temperature, f)
        now, ref = policy.evaluate(rollout), reference.evaluate(rollout)
        assert now.values is not None
        rollout.logprobs, rollout.values = now.logprobs, now.values
        rollout.next_values = pad(now.values[:, 1:], (0, 1)) * (1 - ends)
        kl = zero_padding(f.k1(now.logprobs, ref.logprobs), mask)
        rollout.rewards = f.place_score(scores, mask) - self.kl_coef * kl
        return rollout

    def direction(self, f: Functions) -> dict[str, float]:
        """The expected gradient beside the oracle's, and at temperature 1 its noise.

        noise is the deviation of one completion's estimate g, divided by |E[g]|.
        """
        policy = self.policy(f)
        rollout, probs = self.rollout(policy, f), self.logprobs(policy.logits).detach().exp()
        advantages, squares = self.advantages(rollout, probs, f)
        logp, mask = policy.evaluate(rollout).logprobs, rollout.mask
        g = learner.expected_gradient(probs, logp, advantages, mask, [policy.logits], f)
        measured = learner.direction(g, self.exact(policy).gradient)
        if self.temperature == 1:
            # The steps of a row have different states, so their gradients e_a - pi are orthogonal.
            pi = policy.logits.detach().softmax(-1)[rollout.inputs]
            lengths = ((one_hot(rollout.actions, pi.shape[-1]) - pi) ** 2).sum(-1)
            second = probs @ zero_padding(squares * lengths, mask).sum(1)
            measured["noise"] = float((second - (g**2).sum()).clamp(min=0).sqrt() / g.norm())
        return measured

    def advantages(
        self, rollout: Rollout, probs: Tensor, f: Functions, samples: int = 20
    ) -> tuple[Tensor, Tensor]:
        """Each row's mean advantage, and mean square, over the rest of its batch, both (N, T).

        In a batch of 2 the rest is every completion; of larger batches, `samples` rests are taken.
        """
        if self.batch == 1:
            advantages, _ = learner.estimate(rollout, self.config, f)
            return advantages, advantages**2
        rows = torch.arange(len(probs))
        rests, weights = rows[:, None], probs
        if self.batch > 2:
            generator, count = torch.Generator().manual_seed(0), samples * (self.batch - 1)
            rests = torch.multinomial(probs, count, True, generator=generator).reshape(samples, -1)
            weights = torch.full((samples,), 1 / samples, dtype=probs.dtype)

        def first_row(batch: Tensor) -> Tensor:
            return learner.estimate(rollout[batch], self.config, f)[0][0]

        mean, square = torch.zeros(2, *rollout.mask.shape).double()
        for rest, weight in zip(rests, weights, strict=True):
            batches = torch.cat([rows[:, None], rest.expand(len(rows), -1)], 1)
            advantages = torch.vmap(first_row)(batches)
            mean += weight * advantages
            square += weight * advantages**2
        return mean, square

    def learn(self, f: Functions) -> list[list[float]]:
        """J before each update and after the last, for three seeds."""
        return [self.train(f, seed)[0] for seed in range(3)]

    def train(self, f: Functions, seed: int, updates: int = 60) -> tuple[list[float], Tensor]:
        """J over updates from the reference, by batches of 64 samples; and the last logits."""
        policy = TablePolicy(enumerated().ref_logits, self.temperature, f)
        sgd = torch.optim.SGD(policy.parameters(), self.config.lr) if self.sgd else None
        trained = ReplacedLearner(policy, self.config, f, sgd)
        generator = torch.Generator().manual_seed(seed)
        curve = [self.objective(policy.logits)]
        for _ in range(updates):
            probs = self.logprobs(policy.logits).detach().exp()
            sampled = torch.multinomial(probs, 64, True, generator=generator)
            trained.update(self.rollout(policy, f, sampled))
            curve.append(self.objective(policy.logits))
        return curve, policy.logits.detach()

    def ending(self, f: Functions) -> float:
        """Probability that a completion ends with EOS, after learning."""
        probs = self.logprobs(self.train(f, 0)[1]).exp()
        return float(probs[enumerated().finished].sum())
