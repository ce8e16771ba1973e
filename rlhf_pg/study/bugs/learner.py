"""The learner and a table policy with replaceable functions, and their expected gradients."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.core.rollout import Evaluation, Policy, Rollout
from rlhf_pg.study.bugs.functions import RIGHT, Functions


class TablePolicy(torch.nn.Module):
    """A softmax policy and a critic with numbers of their own for every state.

    `Rollout.inputs` holds the numbers (B, T) of the states.
    """

    def __init__(self, logits: Tensor, temperature: float = 1.0, f: Functions = RIGHT) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())  # (states, actions)
        self.values = torch.nn.Parameter(torch.zeros_like(logits[:, 0]))
        self.temperature, self.functions = temperature, f

    def evaluate(self, rollout: Rollout) -> Evaluation:
        logp = self.functions.token_logprobs(self.logits, self.temperature)[rollout.inputs]
        chosen = logp.gather(-1, rollout.actions[..., None])[..., 0]
        return Evaluation(chosen, -(logp.exp() * logp).sum(-1), self.values[rollout.inputs])


def estimate(rollout: Rollout, config: LearnerConfig, f: Functions) -> tuple[Tensor, Tensor]:
    """Advantages and value targets, (B, T), as by `estimate_advantages`, which knows no `f`."""
    mask = rollout.mask
    if config.baseline == "critic":
        steps = (rollout.rewards, rollout.values, rollout.next_values)
        rewards, values, next_values = (zero_padding(x, mask) for x in steps)
        advantages = f.gae(rewards, values, next_values, rollout.ends, config.gamma, config.lam)
        targets = advantages + values
        advantages = advantages + (values - f.baseline(values, next_values))
        advantages = zero_padding(advantages, mask)
    else:
        unwhitened = replace(config, whiten_advantages=False)
        advantages, targets = estimate_advantages(rollout, unwhitened)
        if config.baseline == "batch-mean":  # also of rows that a wrong mask leaves without steps
            advantages = zero_padding(targets - targets[:, 0].mean(), mask)
    if config.whiten_advantages:
        advantages = f.whiten(advantages, mask)
    return advantages, zero_padding(targets, mask)


class ReplacedLearner(Learner):
    """The library's learner with functions replaced; no entropy bonus and no metrics."""

    def __init__(
        self, policy: Policy, config: LearnerConfig, f: Functions = RIGHT, optimizer: object = None
    ) -> None:
        super().__init__(policy, config, optimizer=optimizer)
        self.functions = f
        self.last: list[Tensor] = []  # gradients of the last step

    def update(self, rollout: Rollout) -> dict[str, float]:
        advantages, targets = estimate(rollout, self.config, self.functions)
        for _ in range(self.config.epochs):
            for rows in self._minibatches(torch.ones(len(rollout), dtype=torch.bool)):
                self._step(rollout[rows], advantages[rows], targets[rows])
        return {}

    def _losses(self, rollout: Rollout, advantages: Tensor, targets: Tensor):  # type: ignore
        config, f, mask, old = self.config, self.functions, rollout.mask, rollout.logprobs
        new = self.policy.evaluate(rollout)
        if config.clip is None:
            loss = f.policy_loss(new.logprobs, advantages, mask, config.reduction)
        else:
            loss = f.clip_loss(new.logprobs, old, advantages, mask, config.clip, config.reduction)
        terms = {"policy_loss": (loss, 1.0, config.reduction)}
        if config.baseline == "critic":
            loss = f.value_loss(new.values, targets, mask, rollout.values, config.value_clip)
            terms["value_loss"] = (loss, config.value_coef, "token")
        return terms, {}

    def _apply_gradient(self) -> tuple[float, float]:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        for gradient, last in zip(gradients, self.last, strict=bool(self.last)):
            gradient += self.functions.left_gradient(last)
        result = super()._apply_gradient()
        self.last = [gradient.clone() for gradient in gradients]  # as clipped
        return result


def expected_gradient(
    probs: Tensor, logprobs: Tensor, advantages: Tensor, mask: Tensor,
    parameters: Sequence[Tensor], f: Functions = RIGHT,
) -> Tensor:  # fmt: skip
    """E[g], flat: the gradient from all rows (N) there are, weighed by their probability (N,)."""
    weighed = (probs * len(probs))[:, None] * advantages
    loss = f.policy_loss(logprobs, weighed, mask, "episode")
    return torch.cat([g.flatten() for g in torch.autograd.grad(-loss, parameters)])


def direction(estimate: Tensor, truth: Tensor) -> dict[str, float]:
    """bias |E[g] - truth| / |truth|, cosine, and length |E[g]| / |truth|, of flat gradients."""
    a, b = estimate.double(), truth.double()
    bias, length = (float(x.norm() / b.norm()) for x in (a - b, a))
    return {"bias": bias, "cosine": float(torch.cosine_similarity(a, b, 0)), "length": length}


def ascend(
    gradient: Callable[[], Tensor], objective: Callable[[], float],
    parameters: Sequence[Tensor], lr: float, updates: int,
) -> list[float]:  # fmt: skip
    """J before each update of Adam up a flat gradient, and after the last."""
    adam, curve = torch.optim.Adam(parameters, lr=lr), [objective()]
    for _ in range(updates):
        parts = gradient().split([p.numel() for p in parameters])
        for p, g in zip(parameters, parts, strict=True):
            p.grad = -g.reshape(p.shape)
        adam.step()
        curve.append(objective())
    return curve
