"""Every gradient estimator of the library at one fixed policy: how wrong, and how noisy."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.gradients import weighted_scores
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.rollout import Policy, Rollout
from rlhf_pg.study.estimators.methods import Method
from rlhf_pg.study.estimators.statistics import Numbers, Truth, measured, root

BLOCKS = 20  # of the estimates, and of a sampled truth; standard errors come from these
MEMORY = 2**29  # numbers in the block means of the estimators that share one pass

# An entry of `methods` in estimators.json. g is one estimate, from one batch; g* the truth.
ESTIMATOR: dict[str, str] = {
    "name": "what the table calls it",
    "family": "reinforce, reward-to-go, baseline, gae, group or ppo",
    "lam": "GAE's lambda, or null",
    "critic": "whose values it subtracts or bootstraps from: zero, fitted, own, exact; or null",
    "steps": "PPO: gradient steps from the policy that sampled to the one measured; else null",
    "moved": "PPO: KL(policy that sampled || the one measured), nats per step; else left out",
    "expected_exactly": "whether the measures are sums over every episode, without sampling error",
    "rescaled": "whether estimates are first multiplied by `scale`, their own scale being "
    "arbitrary; bias is then the tangent of the angle between mean and truth, up to a right one",
    "scale": "what makes the mean's component along the truth as long as the truth; 1 if not asked",
    "bias": "|E g - g*| / |g*|",
    "bias_squared": "its square without the noise of a finite sample, so it may be negative; the "
    "bias is within noise where this is less than twice its error",
    "variance": "E|g - E g|^2 / |g*|^2, the trace of the covariance",
    "mse": "E|g - g*|^2 / |g*|^2 = bias^2 + variance",
    "cosine": "of the angle between E g and g*; null where E g cannot be told from zero",
    "cosine_single": "mean cosine of the angle between one estimate and g*",
    "snr": "|E g|^2 / E|g - E g|^2, of one estimate",
    "..._se": "standard error of the measure, 0 where exact; it and the measure are null where "
    "noise leaves nothing to say",
    "projections": "g . g* / |g*|^2 of each estimate, so the truth is at 1",
}


Batch = Mapping[str, Rollout]  # the same episodes as each critic values them, by critic
Tick = Callable[[], None]


def estimate(
    policy: Policy,
    parameters: Sequence[Tensor],
    batches: Sequence[Batch],
    chosen: Sequence[Method],
    constants: Mapping[str, float],
    truth: Truth,
    tick: Tick,
    exact: Mapping[str, Numbers] | None = None,
    anchor: Method | None = None,
) -> list[dict[str, Any]]:
    """An entry as in ESTIMATOR for each method: one estimate from every batch, at `policy`.

    The number of batches is a multiple of BLOCKS. `exact` holds, by name, the measures that need
    no sampling; `anchor` is an unbiased method that the others are measured from, itself measured
    from the truth. `tick` is called after each estimate.
    """
    at_once = max(1, MEMORY // (BLOCKS * truth.blocks.shape[1]))
    entries = []
    unbiased = None
    if anchor is not None:
        unbiased, _, _ = _estimates(
            policy, parameters, batches, [anchor], constants, truth.mean, tick
        )
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        blocks, squares, along = _estimates(
            policy, parameters, batches, some, constants, truth.mean, tick
        )
        for m, method in enumerate(some):
            numbers = (exact or {}).get(method.name)
            if numbers is None:
                by_block = squares[m].reshape(BLOCKS, -1).mean(1)
                beside = None
                if anchor is not None and unbiased is not None and not method.same(anchor):
                    beside = unbiased[0]
                numbers = measured(blocks[m], by_block, truth, method.rescaled, beside)
            entries.append(_entry(method, numbers, squares[m], along[m], truth))
    return entries


def _estimates(
    policy: Policy,
    parameters: Sequence[Tensor],
    batches: Sequence[Batch],
    chosen: Sequence[Method],
    constants: Mapping[str, float],
    direction: Tensor,
    tick: Tick,
) -> tuple[Tensor, Tensor, Tensor]:
    """Block means (M, BLOCKS, parameters), and |g|^2 and g . direction of each, (M, batches)."""
    each = len(batches) // BLOCKS
    direction = direction.to(parameters[0].dtype)
    blocks = direction.new_zeros(len(chosen), BLOCKS, len(direction))
    squares = torch.zeros(len(chosen), len(batches), dtype=torch.float64)
    along = torch.zeros_like(squares)
    for i, batch in enumerate(batches):
        same = next(iter(batch.values()))  # whatever the critic, these are the same episodes
        logprobs = policy.evaluate(same).logprobs
        weights = torch.stack(
            [
                method.weights(batch[method.critic or next(iter(batch))], constants, logprobs)
                for method in chosen
            ]
        )
        for m, g in enumerate(weighted_scores(logprobs, weights, parameters)):
            blocks[m, i // each] += g / each
            squares[m, i], along[m, i] = float((g**2).sum()), float(g @ direction)
            tick()
    return blocks, squares, along


def _entry(
    method: Method, numbers: Numbers, squares: Tensor, along: Tensor, truth: Truth
) -> dict[str, Any]:
    """What is saved of a method: its measures, and single estimates by |g|^2 and g . g*, (n,)."""
    bias, bias_se = root(numbers["bias_squared"], numbers["bias_squared_se"])
    cosines = along / (squares.sqrt() * math.sqrt(truth.squared_norm)).clamp(min=1e-30)
    projections = along * numbers["scale"] / truth.squared_norm
    cosine = numbers["cosine"]
    if numbers["snr"] < 2 * numbers["snr_se"] or not math.isfinite(cosine):
        cosine = math.nan  # a mean that cannot be told from zero has no direction
    else:
        cosine = max(-1.0, min(1.0, cosine))  # noise may carry it beyond
    found = {
        **numbers,
        "cosine": cosine,
        "bias": bias,
        "bias_se": bias_se,
        "cosine_single": max(-1.0, min(1.0, float(cosines.mean()))),
        "cosine_single_se": float(cosines.std()) / len(cosines) ** 0.5,
    }
    return {
        "name": method.name,
        "family": method.family,
        "lam": method.config.lam if method.critic else None,
        "critic": method.critic,
        "steps": method.steps,
        "expected_exactly": numbers["variance_se"] == 0,
        "rescaled": method.rescaled,
        **{name: x if math.isfinite(x) else None for name, x in found.items()},
        "projections": [float(f"{x:.4g}") for x in projections.tolist()],
    }


def learned_constant(policy: Policy, earlier: Sequence[Rollout], config: LearnerConfig) -> float:
    """What the learner subtracts after these rollouts, by a baseline that is a constant.

    The learner itself finds it, at learning rate 0.
    """
    still = replace(
        config, lr=0.0, max_grad_norm=0.0, epochs=1, minibatches=1, clip=None,
        whiten_advantages=False,
    )  # fmt: skip
    learner = Learner(policy, still)
    for rollout in earlier:
        learner.update(rollout)
    return learner.average.value
