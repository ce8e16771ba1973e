"""Estimates of every method from the same batches, and the result that is saved of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.advantages import estimate_advantages
from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.core.gradients import weighted_scores
from rlhf_pg.core.kl import k3
from rlhf_pg.core.learner import Learner
from rlhf_pg.core.masked import masked_var, zero_padding
from rlhf_pg.core.rollout import Policy
from rlhf_pg.progress import Progress, console
from rlhf_pg.study.config import BLOCKS
from rlhf_pg.study.estimators.methods import Method, after_steps, methods, variants
from rlhf_pg.study.estimators.sources import Batch, Source, actor_parameters, after
from rlhf_pg.study.estimators.statistics import Numbers, Truth, known, measured, root

EARLIER = 8  # batches that the constant baselines are learned from
VARIANTS_AFTER = 2  # PPO steps: clips have an effect then
TOO_NOISY = 0.5  # relative error of a true gradient that is of no use
OTHER_LAMBDAS = (0.0, 0.95)  # for the critics after the first
MEMORY = 2**29  # numbers in the block means that are held at once

# An entry of `methods` in estimators.json. g is one estimate, from one batch; g* the truth. Each
# measure has a standard error, NAME_se, 0 if exact; both are null if noise hides the measure.
ESTIMATOR: dict[str, str] = {
    "name": "name in the table",
    "family": "reinforce, reward-to-go, baseline, gae, group, ppo or variant",
    "lam": "GAE's lambda, or null",
    "critic": "whose values it uses: zero, fitted, own or exact; or null",
    "steps": "PPO, variants: gradient steps from the sampling policy to the measured one; or null",
    "moved": "PPO: KL(sampling policy || measured policy), nats per step; else left out",
    "expected_exactly": "whether the measures are sums over all episodes, without sampling error",
    "rescaled": "whether estimates are first multiplied by `scale`, since their scale is arbitrary",
    "scale": "what makes the mean's component along the truth as long as the truth; else 1",
    "bias": "|E g - g*| / |g*|; rescaled: the tangent of their angle, if below 90 degrees",
    "bias_squared": "its square, unbiased, so it may be negative; less than two errors is noise",
    "variance": "E|g - E g|^2 / |g*|^2, the trace of the covariance",
    "mse": "E|g - g*|^2 / |g*|^2 = bias^2 + variance",
    "cosine": "of the angle between E g and g*",
    "cosine_single": "mean cosine of the angle between one estimate and g*",
    "snr": "|E g|^2 / E|g - E g|^2, of one estimate",
    "projections": "g . g* / |g*|^2 of each estimate, so the truth is at 1",
}


def measure(source: Source) -> dict[str, Any]:
    """The content of estimators.json: the truth, and an entry as in ESTIMATOR for each method.

    Raises ValueError if the truth is too noisy.
    """
    config = source.config
    first, *others = source.critics
    grids = {first: config.lambdas, **{critic: OTHER_LAMBDAS for critic in others}}
    chosen = methods(source.gamma, source.ppo, grids)
    truth = source.truth(source.policy)
    if truth.relative_error > TOO_NOISY:
        raise ValueError(
            f"after {truth.episodes:,} episodes the error of the true gradient is "
            f"{truth.relative_error:.2g} of its length; raise --truth_rows"
        )
    constants = learned_constants(source)
    batches: list[Batch] = []
    with Progress(config.estimates, "batches") as progress:
        for _ in range(config.estimates):
            batches.append(source.batch())
            progress.update(len(batches))
    # Sums over all episodes, if these are enumerated and the method takes each by itself.
    alone = [method for method in chosen if not method.couples]
    exact = {
        method.name: known(*moments, config.rows, truth, method.rescaled)
        for method, moments in zip(alone, source.moments(alone, constants), strict=False)
    }
    # λ=1 is unbiased: on the same batches it is a control variate of the others.
    anchor = next(m for m in chosen if m.critic == first and m.family == "baseline")
    entries = estimate(source.policy, batches, chosen, constants, truth, exact, anchor)
    entries += _after_ppo_steps(source, batches, constants)
    shares = {name: explained_variance(batches, name, source.gamma) for name in source.critics}
    return {
        "task": source.task,
        "truth": {
            "how": source.how,
            "episodes": truth.episodes,
            "norm": truth.squared_norm**0.5,
            "relative_error": truth.relative_error,
        },
        "batch": config.rows,
        "samples_per_prompt": config.samples_per_prompt,
        "estimates": len(batches),
        "gamma": source.gamma,
        "critic": "; ".join(
            f"{name}: {about}, explains {shares[name]:.0%} of the variance of returns"
            for name, about in source.critics.items()
        ),
        "constants": constants,
        "methods": sorted(entries, key=lambda entry: entry["family"] == "variant"),  # at the end
    }


def _after_ppo_steps(
    source: Source, batches: Sequence[Batch], constants: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Entries of PPO at the policies that its steps on one more batch lead to.

    Each has a true gradient of its own; a policy whose truth is too noisy is left out.
    """
    first, entries = next(iter(source.critics)), []
    recorded = source.batch()[first]
    for steps in sorted({steps for steps in source.config.ppo_steps if steps > 0}):
        policy = after(source.policy, recorded, source.ppo, steps)
        truth = source.truth(policy)
        if truth.relative_error > TOO_NOISY:
            console.print(f"k={steps}: the true gradient is too noisy; raise --truth_rows")
            continue
        chosen = [after_steps(source.ppo, steps, first)]
        if steps == VARIANTS_AFTER:
            chosen += variants(source.gamma, steps)
        moved = kl_per_step(policy, batches[:BLOCKS])
        estimated = estimate(policy, batches, chosen, constants, truth)
        entries += [{**entry, "moved": moved} for entry in estimated]
    return entries


def learned_constants(source: Source) -> dict[str, float]:
    """The constant baselines by name, as the learner finds them in earlier batches."""
    earlier = [next(iter(source.batch().values())) for _ in range(EARLIER)]
    constants = {}
    for name in ("moving-average", "optimal"):
        options: Any = {"baseline": name, "gamma": source.gamma}
        learner = Learner(source.policy, LearnerConfig(**options, lr=0.0, max_grad_norm=0.0))
        for rollout in earlier:
            learner.update(rollout)
        constants[name] = learner.average.value
    return constants


def estimate(
    policy: Policy,
    batches: Sequence[Batch],
    chosen: Sequence[Method],
    constants: Mapping[str, float],
    truth: Truth,
    exact: Mapping[str, Numbers] | None = None,
    anchor: Method | None = None,
) -> list[dict[str, Any]]:
    """An entry as in ESTIMATOR for each method: one estimate from every batch, at `policy`.

    The number of batches is a multiple of BLOCKS. `exact` holds, by name, the measures that need
    no sampling; `anchor` is an unbiased method, the control variate of the others.
    """
    at_once = max(1, MEMORY // (BLOCKS * truth.blocks.shape[1]))
    beside = [] if anchor is None else [anchor]
    entries = []
    for start in range(0, len(chosen), at_once):
        some = chosen[start : start + at_once]
        blocks, squares, along = _estimates(
            policy, batches, [*some, *beside], constants, truth.mean
        )
        for m, method in enumerate(some):
            numbers = (exact or {}).get(method.name)
            if numbers is None:
                # The anchor under another name is no control variate of itself.
                same = [a for a in beside if (a.config, a.critic) == (method.config, method.critic)]
                variate = blocks[-1] if beside and not same else None
                of_blocks = squares[m].reshape(BLOCKS, -1).mean(1)
                numbers = measured(blocks[m], of_blocks, truth, method.rescaled, variate)
            entries.append(_entry(method, numbers, squares[m], along[m], truth))
    return entries


def _estimates(
    policy: Policy,
    batches: Sequence[Batch],
    chosen: Sequence[Method],
    constants: Mapping[str, float],
    direction: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Block means (M, BLOCKS, parameters), and |g|^2 and g . direction of each, (M, batches)."""
    parameters, each = actor_parameters(policy), len(batches) // BLOCKS
    direction = direction.to(parameters[0].dtype)
    blocks = direction.new_zeros(len(chosen), BLOCKS, len(direction))
    squares = torch.zeros(len(chosen), len(batches), dtype=torch.float64)
    along = torch.zeros_like(squares)
    with Progress(len(batches), "estimates") as progress:
        for i, batch in enumerate(batches):
            first = next(iter(batch))  # the episodes are the same for all critics
            logprobs = policy.evaluate(batch[first]).logprobs
            weights = [m.weights(batch[m.critic or first], constants, logprobs) for m in chosen]
            gradients = weighted_scores(logprobs, torch.stack(weights), parameters)
            for m, g in enumerate(gradients):
                blocks[m, i // each] += g / each
                squares[m, i], along[m, i] = float((g**2).sum()), float(g @ direction)
            progress.update(i + 1)
    return blocks, squares, along


def _entry(
    method: Method, numbers: Numbers, squares: Tensor, along: Tensor, truth: Truth
) -> dict[str, Any]:
    """The entry of a method, from its measures and its estimates' |g|^2 and g . g*, (n,)."""
    bias, bias_se = root(numbers["bias_squared"], numbers["bias_squared_se"])
    cosines = along / (squares.sqrt() * math.sqrt(truth.squared_norm)).clamp(min=1e-30)
    cosine = max(-1.0, min(1.0, numbers["cosine"]))  # noise may carry it beyond
    if numbers["snr"] < 2 * numbers["snr_se"] or math.isnan(numbers["cosine"]):
        cosine = math.nan  # a mean that cannot be distinguished from zero has no direction
    measures = {
        **numbers,
        "cosine": cosine,
        "bias": bias,
        "bias_se": bias_se,
        "cosine_single": max(-1.0, min(1.0, float(cosines.mean()))),
        "cosine_single_se": float(cosines.std()) / len(cosines) ** 0.5,
    }
    projections = along * numbers["scale"] / truth.squared_norm
    return {
        "name": method.name,
        "family": method.family,
        "lam": method.config.lam if method.critic else None,
        "critic": method.critic,
        "steps": method.steps,
        "expected_exactly": numbers["variance_se"] == 0,
        "rescaled": method.rescaled,
        **{name: x if math.isfinite(x) else None for name, x in measures.items()},
        "projections": [float(f"{x:.4g}") for x in projections.tolist()],
    }


@torch.no_grad()
def kl_per_step(policy: Policy, batches: Sequence[Batch]) -> float:
    """KL(policy that sampled || policy), nats per step, by k3."""
    total, steps = 0.0, 0.0
    for batch in batches:
        rollout = next(iter(batch.values()))
        estimates = k3(rollout.logprobs, policy.evaluate(rollout).logprobs)
        total += float(zero_padding(estimates, rollout.mask).sum())
        steps += float(rollout.mask.sum())
    return total / steps


def explained_variance(batches: Sequence[Batch], critic: str, gamma: float) -> float:
    """1 - Var(G - V) / Var(G) over all steps: the part of the returns' variance that V explains."""
    plain = LearnerConfig(baseline="none", gamma=gamma)
    pairs = [(batch[critic], batch[critic].mask.bool()) for batch in batches]
    returns = torch.cat([estimate_advantages(r, plain)[0][mask] for r, mask in pairs])
    values = torch.cat([r.values[mask] for r, mask in pairs])
    every = torch.ones_like(returns)
    unexplained, spread = masked_var(returns - values, every), masked_var(returns, every)
    return 1 - float(unexplained / spread.clamp(min=1e-12))
