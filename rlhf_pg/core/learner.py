"""The learner, the same for text and control: it updates a policy from a rollout.

    rollout -> estimate_advantages -> epochs of minibatches -> policy gradient or PPO clip
                                                             + value loss - entropy + KL

Gradients are summed over processes after the backward pass, with denominators that count the rows
of all processes: two processes with half the rows each take the same step as one with all rows.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core import baselines, kl, losses
from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.losses import Reduction
from rlhf_pg.core.masked import masked_mean, masked_var, zero_padding
from rlhf_pg.core.rollout import Evaluation, Policy, Rollout

__all__ = [
    "Evaluation",
    "Learner",
    "LearnerConfig",
    "Policy",
    "Rollout",
    "adam",
    "estimate_advantages",
]


def adam(parameters: list[torch.nn.Parameter], config: LearnerConfig) -> torch.optim.AdamW:
    """AdamW with the settings of a configuration."""
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


class Learner:
    """Updates a policy from rollouts. Holds the optimiser, its schedule and their state."""

    def __init__(
        self, policy: Policy, config: LearnerConfig, accelerator: Any = None, optimizer: Any = None
    ) -> None:
        """`optimizer` replaces `adam(parameters, config)` (a3c shares one among processes).

        Raises ValueError for variants of a clip without `clip`.
        """
        if config.clip is None and (
            config.clip_high or config.dual_clip or config.clip_weights or config.ratio != "token"
        ):
            raise ValueError("clip_high, dual_clip, clip_weights and ratio need a clip: set it too")
        self.policy, self.config, self.accelerator = policy, config, accelerator
        self.micro_rows = config.micro_rows  # who knows the rows' size may lower it before a step
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = optimizer or adam(self.parameters, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.average = baselines.MovingAverage()
        self.updates = 0
        self.skipped = 0  # steps skipped in a row until now

    def update(self, rollout: Rollout) -> dict[str, float]:
        """All epochs and minibatches of one rollout. Returns the mean of each metric over steps.

        Rows without any real step are left out; a rollout of such rows changes nothing and has no
        metrics. A step whose gradient is NaN or infinite is skipped and counted; its own metrics
        that are not finite are left out of the means. Raises FloatingPointError after more than
        `max_skipped_steps` of these in a row, and before any step if the rollout has a NaN or
        infinity in a real step (the row is named).
        """
        config = self.config
        _check_finite(rollout)
        if not self._reduce(rollout.mask.sum()):
            return {}
        advantages, targets = estimate_advantages(rollout, config, self.average.value, self._reduce)
        constant = self._next_constant(rollout, targets)
        self._set_learning_rate()
        seen: dict[str, list[float]] = defaultdict(list)
        stopped = False
        for _ in range(config.epochs):
            for rows in self._minibatches(rollout.mask.bool().any(1).cpu()):
                step = self._step(rollout[rows], advantages[rows], targets[rows])
                if not step:
                    continue
                for name, value in step.items():
                    if math.isfinite(value):
                        seen[name].append(value)
                stopped = config.target_kl is not None and (
                    step["update_kl"] > 1.5 * config.target_kl
                )
                if stopped:
                    break
            if stopped:
                break
        self.updates += 1
        metrics = self._summary(rollout, advantages, targets, seen)
        if constant is not None:
            metrics["constant_baseline"] = self.average.value
            self.average.update(constant)
        return metrics

    def _next_constant(self, rollout: Rollout, targets: Tensor) -> Tensor | None:
        """This rollout's value for the constant baseline of later ones; None if there is none."""
        scores = targets[:, 0]
        if self.config.baseline == "moving-average":
            return masked_mean(scores, rollout.mask.bool().any(1), self._reduce)
        if self.config.baseline == "optimal":
            norms = torch.stack(
                [self._squared_norm(rollout[i : i + 1]) for i in range(len(scores))]
            )
            return baselines.optimal_constant(scores, norms, self._reduce)
        return None

    def _squared_norm(self, episode: Rollout) -> Tensor:
        """|grad log pi(episode)|^2 at the current policy, a scalar."""
        logprobs = zero_padding(self.policy.evaluate(episode).logprobs, episode.mask)
        gradients = torch.autograd.grad(logprobs.sum(), self.parameters, allow_unused=True)
        return torch.stack([(g**2).sum() for g in gradients if g is not None]).sum()

    def _step(self, rollout: Rollout, advantages: Tensor, targets: Tensor) -> dict[str, float]:
        """One gradient step, accumulated over micro-batches and summed over processes.

        No step and no metrics if no process has a real step.
        """
        size = self.micro_rows or len(rollout)
        whole = {
            reduction: self._reduce(losses.denominator(rollout.mask, reduction))
            for reduction in (self.config.reduction, "token")
        }
        if not whole["token"]:
            return {}
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for start in range(0, len(rollout), size):
            rows = slice(start, start + size)
            terms, token_means = self._losses(rollout[rows], advantages[rows], targets[rows])
            # Each term was divided by this part's denominator; make it the whole batch's.
            part = {r: losses.denominator(rollout.mask[rows], r) for r in whole}
            shares = {
                name: (term * part[reduction] / whole[reduction].clamp(min=1), weight)
                for name, (term, weight, reduction) in terms.items()
            }
            loss = sum(share * weight for share, weight in shares.values() if weight)
            if isinstance(loss, Tensor):  # no term may be left during a critic's warm-up
                loss.backward()  # type: ignore[no-untyped-call]
            for name, (share, _) in shares.items():
                totals[name] = totals.get(name, 0.0) + share.detach()
            for name, mean in token_means.items():
                share = mean * part["token"] / whole["token"].clamp(min=1)
                totals[name] = totals.get(name, 0.0) + share
        metrics = {name: float(self._reduce(value)) for name, value in totals.items()}
        metrics["grad_norm"], metrics["skipped_steps"] = self._apply_gradient()
        return metrics

    def _losses(
        self, rollout: Rollout, advantages: Tensor, targets: Tensor
    ) -> tuple[dict[str, tuple[Tensor, float, Reduction]], dict[str, Tensor]]:
        """Terms of the loss as (value, weight, reduction), and means over tokens for the log."""
        config, mask = self.config, rollout.mask
        new = self.policy.evaluate(rollout)
        policy_loss = losses.policy_loss(new.logprobs, rollout.logprobs, advantages, mask, config)
        entropy = losses.entropy_loss(new.entropies, mask)
        acting = 0.0 if self.updates < config.critic_warmup else 1.0
        terms: dict[str, tuple[Tensor, float, Reduction]] = {
            "policy_loss": (policy_loss, acting, config.reduction),
            "entropy_loss": (entropy, acting * config.entropy_coef, "token"),
        }
        if config.baseline == "critic":
            if new.values is None:
                raise ValueError('baseline "critic" needs a policy with values; give it a critic')
            loss = losses.value_loss(new.values, targets, mask, rollout.values, config.value_clip)
            terms["value_loss"] = (loss, config.value_coef, "token")
        if rollout.ref_logprobs is not None:
            loss = self._kl_loss(new.logprobs, rollout.ref_logprobs, mask)
            terms["kl_loss"] = (loss, acting * rollout.kl_coef, config.reduction)
        with torch.no_grad():
            log_ratio = zero_padding(new.logprobs - rollout.logprobs, mask)
            drift = (log_ratio.exp() - 1).abs()
            means = {
                "update_kl": masked_mean(kl.k3(-log_ratio, torch.zeros_like(log_ratio)), mask),
                "ratio_drift": masked_mean(drift, mask),
            }
            if config.clip is not None:
                means["clip_fraction"] = masked_mean(self._clipped(new, rollout), mask)
        return terms, means

    def _clipped(self, new: Evaluation, rollout: Rollout) -> Tensor:
        """1.0 where a ratio has left the clip range, (B, T)."""
        config = self.config
        low = config.clip or 0.0
        high = low if config.clip_high is None else config.clip_high
        change = -1 + losses.importance_ratio(
            new.logprobs, rollout.logprobs, rollout.mask, config.ratio
        )
        return ((change > high) | (change < -low)).float()

    def _kl_loss(self, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
        """k2 of whole episodes, whose gradient is exact: early tokens influence later ones.

        Spread evenly over the steps of its row, so that every reduction has the same denominator
        as in the policy's loss.
        """
        lengths = mask.sum(1, keepdim=True).clamp(min=1)
        total = zero_padding(logprobs, mask).sum(1, keepdim=True)
        ref_total = zero_padding(ref_logprobs, mask).sum(1, keepdim=True)
        whole = kl.k2(total, ref_total) / lengths
        return losses.aggregate(whole.expand_as(logprobs), mask, self.config.reduction)

    def _apply_gradient(self) -> tuple[float, float]:
        """Sum the gradient over processes, clip it, step unless it is NaN or infinite.

        Returns its norm before clipping, and 1 if the step was skipped, else 0.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            # Shares already add to one over all processes: a sum, not a mean. All in one message.
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            summed = self.accelerator.reduce(flat, reduction="sum")
            sizes = [gradient.numel() for gradient in gradients]
            for gradient, part in zip(gradients, summed.split(sizes), strict=True):
                gradient.copy_(part.view_as(gradient))
        limit = self.config.max_grad_norm or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        if math.isfinite(norm):
            self.optimizer.step()
            self.skipped = 0
            return norm, 0.0
        # The norm is that of the summed gradient, so all processes skip the step.
        self.optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        if self.skipped > self.config.max_skipped_steps:
            raise FloatingPointError(
                f"the gradient's norm was not finite in {self.skipped} steps in a row, the last "
                f"in update {self.updates} ({norm}); none was taken. Lower the learner's lr "
                f"({self.config.lr:g}), or look for extreme rewards"
            )
        return norm, 1.0

    def _minibatches(self, real: Tensor) -> Iterator[Tensor]:
        """The rows that are `real` (B,) in a new random order, in `minibatches` parts.

        Every process has as many parts: an empty one becomes a row that is not real.
        """
        rows = real.nonzero().squeeze(1)
        order = rows[torch.randperm(len(rows), generator=self.generator)]
        for part in order.tensor_split(min(self.config.minibatches, len(real))):
            yield part if len(part) else (~real).nonzero()[0]

    def _set_learning_rate(self) -> None:
        over = self.config.lr_decay_updates
        left = 1.0 if over is None else max(0.0, 1 - self.updates / over)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * left

    def _reduce(self, x: Tensor) -> Tensor:
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return x
        return self.accelerator.reduce(x, reduction="sum")  # type: ignore[no-any-return]

    def _summary(
        self, rollout: Rollout, advantages: Tensor, targets: Tensor, seen: dict[str, list[float]]
    ) -> dict[str, float]:
        mean = {name: sum(values) / len(values) for name, values in seen.items()}
        skipped = seen["skipped_steps"]
        metrics = {
            **mean,
            "advantage_std": float(masked_var(advantages, rollout.mask, self._reduce).sqrt()),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_steps": len(skipped) - sum(skipped),
            "skipped_steps": sum(skipped),
        }
        if "entropy_loss" in mean:
            metrics["entropy"] = -metrics.pop("entropy_loss")
        if "ratio_drift" in mean:
            # No step was taken before the first minibatch: any drift there is a scoring error.
            metrics["first_ratio_drift"] = seen["ratio_drift"][0]
        if self.config.baseline == "critic":
            residual = masked_var(targets - rollout.values.detach(), rollout.mask, self._reduce)
            spread = masked_var(targets, rollout.mask, self._reduce)
            metrics["explained_variance"] = float(1 - residual / spread.clamp(min=1e-12))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The state needed, beside the policy's parameters, to continue bit for bit."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "average": self.average.state_dict(),
            "updates": self.updates,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.average.load_state_dict(state["average"])
        self.updates = state["updates"]
        self.skipped = state.get("skipped", 0)  # older checkpoints have none


def _check_finite(rollout: Rollout) -> None:
    for name in ("rewards", "logprobs", "values", "next_values", "ref_logprobs"):
        x = getattr(rollout, name)
        if x is None:
            continue
        bad = ~torch.isfinite(zero_padding(x, rollout.mask))
        if bad.any():
            row, step = (int(i) for i in bad.nonzero()[0])
            raise FloatingPointError(f"{name} of row {row}, step {step} is {float(x[row, step])}")
