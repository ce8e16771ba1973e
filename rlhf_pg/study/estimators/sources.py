"""Where gradient estimates come from: a fixed policy, episodes drawn from it, and the truth."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.gradients import policy_gradient
from rlhf_pg.core.kl import k3
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import masked_var, zero_padding
from rlhf_pg.core.rollout import Policy, Rollout
from rlhf_pg.study.estimators.measure import BLOCKS, Batch, Tick
from rlhf_pg.study.estimators.methods import Method
from rlhf_pg.study.estimators.statistics import Truth

How = Literal["enumeration", "large sample"]
ROWS_AT_ONCE = 128  # episodes in one forward and backward of a sampled truth


@dataclass
class Sizes:
    """How much is drawn."""

    rows: int  # episodes in a batch, which gives one estimate
    group: int  # K of them, one after another, begin alike
    truth_rows: int  # episodes of a sampled truth
    critic_batches: int  # for a critic where there is none
    seed: int


class Source(Protocol):
    """One task at one policy."""

    how: How  # the truth is known
    task: str  # in words
    critics: dict[str, str]  # in words, by name; the first is the one that trains
    sizes: Sizes
    gamma: float
    ppo: LearnerConfig

    @property
    def policy(self) -> Policy: ...

    def acting(self, policy: Policy) -> list[torch.nn.Parameter]:
        """Those that the probabilities of actions depend on."""

    def draw(self) -> Batch:
        """A new batch from the policy."""

    def truth(self, policy: Policy, tick: Tick) -> Truth:
        """The gradient at a policy, by fresh episodes of its own; `tick` after each block."""

    def expected(
        self, chosen: Sequence[Method], constants: Mapping[str, float]
    ) -> list[tuple[Tensor, float]]:
        """E g (parameters,) and E|g|^2 of an estimate from one episode, for each method.

        Only methods that do not couple the rows of a batch are asked for. Nothing where the
        episodes cannot all be written down.
        """


class Sampled:
    """What sources share whose episodes cannot all be written down: they draw, and draw again."""

    how: How = "large sample"
    policy: Policy
    critics: dict[str, str]
    sizes: Sizes
    gamma: float

    def acting(self, policy: Policy) -> list[torch.nn.Parameter]:
        raise NotImplementedError

    def rollout(self, policy: Policy, rows: int) -> Rollout:
        """So many new episodes, every end terminal."""
        raise NotImplementedError

    def draw(self) -> Batch:
        return {critic: self.rollout(self.policy, self.sizes.rows) for critic in self.critics}

    def truth(self, policy: Policy, tick: Tick) -> Truth:
        def draw(rows: int) -> Rollout:
            return self.rollout(policy, rows)

        return sampled_truth(policy, self.acting(policy), draw, self.gamma, self.sizes, tick)

    def expected(
        self, chosen: Sequence[Method], constants: Mapping[str, float]
    ) -> list[tuple[Tensor, float]]:
        return []


def sampled_truth(
    policy: Policy,
    parameters: Sequence[Tensor],
    draw: Callable[[int], Rollout],
    gamma: float,
    sizes: Sizes,
    tick: Tick,
) -> Truth:
    """The mean of many unbiased estimates of low variance: returns minus the critic's V.

    `draw` makes a rollout of so many episodes. The blocks' sizes are rounded up to whole groups.
    """
    config = LearnerConfig(baseline="critic", lam=1.0, gamma=gamma)
    wanted = math.ceil(sizes.truth_rows / BLOCKS)
    parts = math.ceil(wanted / ROWS_AT_ONCE)
    rows = math.ceil(wanted / parts / sizes.group) * sizes.group
    blocks = []
    for _ in range(BLOCKS):
        block = [policy_gradient(policy, draw(rows), config, parameters) for _ in range(parts)]
        blocks.append(torch.stack(block).mean(0))
        tick()
    return Truth(torch.stack(blocks), BLOCKS * parts * rows)


def ended(rollout: Rollout) -> Rollout:
    """The same with every end terminal: a limit of time or length is part of the task here.

    Then estimators with and without a critic estimate one and the same gradient.
    """
    return replace(rollout, next_values=rollout.next_values * (1 - rollout.ends))


def fit_critic(
    policy: Policy,
    acting: Sequence[torch.nn.Parameter],
    rollouts: Sequence[Rollout],
    gamma: float,
    lr: float,
) -> None:
    """Teach the policy's critic the returns of rollouts; its `acting` parameters stay."""
    config = LearnerConfig(
        lam=1.0, gamma=gamma, lr=lr, epochs=4, critic_warmup=len(rollouts), max_grad_norm=0.0
    )
    for p in acting:
        p.requires_grad_(False)
    learner = Learner(policy, config)
    for rollout in rollouts:
        learner.update(rollout)
    for p in acting:
        p.requires_grad_(True)


def after(policy: Policy, recorded: Rollout, ppo: LearnerConfig, steps: int) -> Policy:
    """The policy that `steps` gradient steps, each of the whole recorded batch, make of a copy."""
    if steps == 0:
        return policy
    moved = copy.deepcopy(policy)
    once = replace(
        ppo, epochs=steps, minibatches=1, target_kl=None, critic_warmup=0, lr_decay_updates=None
    )
    Learner(moved, once).update(recorded)
    return moved


@torch.no_grad()
def moved(policy: Policy, batches: Sequence[Batch]) -> float:
    """KL(policy that sampled || policy), nats per step, by k3 of all steps."""
    total, steps = 0.0, 0.0
    for batch in batches:
        rollout = next(iter(batch.values()))
        drift = policy.evaluate(rollout).logprobs - rollout.logprobs
        total += float(zero_padding(k3(-drift, torch.zeros_like(drift)), rollout.mask).sum())
        steps += float(rollout.mask.sum())
    return total / steps


def explained(batches: Sequence[Batch], critic: str, gamma: float) -> float:
    """1 - Var(G - V) / Var(G): the share of the returns' variance that a critic accounts for."""
    plain = LearnerConfig(baseline="none", gamma=gamma)
    left, whole = [], []
    for batch in batches:
        rollout = batch[critic]
        real = rollout.mask.bool()
        returns = estimate_advantages(rollout, plain)[0][real]
        left.append(returns - rollout.values[real])
        whole.append(returns)
    residual, spread = (masked_var(x := torch.cat(xs), torch.ones_like(x)) for xs in (left, whole))
    return float(1 - residual / spread.clamp(min=1e-12))
