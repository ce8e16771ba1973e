"""The laboratory: every estimator at a source's policy, and PPO's where its steps lead."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.progress import Progress
from rlhf_pg.study.estimators.measure import BLOCKS, Batch, Tick, estimate, learned_constant
from rlhf_pg.study.estimators.methods import BASELINES, Method, after_steps, methods
from rlhf_pg.study.estimators.sources import Source, after, explained, moved
from rlhf_pg.study.estimators.statistics import Numbers, Truth, known

EARLIER = 8  # batches that the constant baselines have seen
TOO_NOISY = 0.5  # relative error of a truth that nothing can be compared with
SECOND_GRID = (0.0, 0.95)  # lambdas of the critics beside the first


def laboratory(
    source: Source,
    estimates: int,
    lambdas: Sequence[float],
    ppo_steps: Sequence[int],
) -> dict[str, Any]:
    """What estimators.json holds: the truth, and an entry for each method as in ESTIMATOR.

    `estimates` is a multiple of BLOCKS. Raises ValueError where the truth stays drowned in noise.
    """
    first, *others = source.critics
    grids = {first: lambdas, **{critic: SECOND_GRID for critic in others}}
    chosen = methods(source.gamma, source.ppo, grids)
    later = sorted({steps for steps in ppo_steps if steps > 0})
    blocks, worth = 1, 1
    if source.how == "large sample":  # by far the longest steps: drawn, scored, differentiated
        blocks, worth = BLOCKS, 1 + 3 * source.sizes.truth_rows // BLOCKS // source.sizes.rows
    work = (1 + len(later)) * blocks * worth + estimates * (2 + len(chosen) + len(later))
    with Progress(work, "estimators") as progress:
        tick = _ticker(progress)
        truth_tick = partial(tick, worth)
        truth = _checked(source.truth(source.policy, truth_tick))
        constants = _constants(source)
        batches = [_ticked(source.draw(), tick) for _ in range(estimates)]
        exact = _exact(source, chosen, constants, truth)
        anchor = next(m for m in chosen if m.critic == first and m.family == "baseline")
        here, acting = source.policy, source.acting(source.policy)
        entries = estimate(here, acting, batches, chosen, constants, truth, tick, exact, anchor)
        recorded = source.draw()[first]
        for steps in later:
            there = after(source.policy, recorded, source.ppo, steps)
            true = source.truth(there, truth_tick)
            if true.relative_error > TOO_NOISY:
                progress.say(f"k={steps}: its own truth stays in the noise; raise --truth_rows")
                tick(estimates)
                continue
            method = [after_steps(source.ppo, steps, first)]
            found = estimate(there, source.acting(there), batches, method, constants, true, tick)
            entries += [{**found[0], "moved": moved(there, batches[:BLOCKS])}]
    return {**_about(source, truth, batches), "constants": constants, "methods": entries}


def _about(source: Source, truth: Truth, batches: Sequence[Batch]) -> dict[str, Any]:
    """The task, the truth and the sizes, in words and numbers."""
    return {
        "task": source.task,
        "truth": {
            "how": source.how,
            "episodes": truth.episodes,
            "norm": truth.squared_norm**0.5,
            "relative_error": truth.relative_error,
        },
        "batch": source.sizes.rows,
        "samples_per_prompt": source.sizes.group,
        "estimates": len(batches),
        "gamma": source.gamma,
        "critic": _described(source, batches),
    }


def _ticker(progress: Progress) -> Callable[..., None]:
    """Tells the progress of one more piece of work, or of one that is `worth` several."""
    done = 0

    def tick(worth: int = 1) -> None:
        nonlocal done
        done += worth
        progress.update(done)

    return tick


def _ticked(batch: Batch, tick: Tick) -> Batch:
    tick()
    return batch


def _checked(truth: Truth) -> Truth:
    """The truth, if it is known well enough to compare with."""
    if truth.relative_error > TOO_NOISY:
        raise ValueError(
            f"after {truth.episodes:,} episodes the error of the true gradient is "
            f"{truth.relative_error:.2g} of its length; raise --truth_rows"
        )
    return truth


def _constants(source: Source) -> dict[str, float]:
    """What the baselines that are constants have learned, from batches of their own."""
    earlier = [next(iter(source.draw().values())) for _ in range(EARLIER)]
    return {
        name: learned_constant(
            source.policy, earlier, LearnerConfig(baseline=name, gamma=source.gamma)
        )
        for name in BASELINES.values()
        if name in ("moving-average", "optimal")
    }


def _exact(
    source: Source, chosen: Sequence[Method], constants: dict[str, float], truth: Truth
) -> dict[str, Numbers]:
    """The measures that are sums over every episode, by method: none where these are too many."""
    alone = [method for method in chosen if not method.couples]
    moments = source.expected(alone, constants)
    return {
        method.name: known(*moment, source.sizes.rows, truth, method.rescaled)
        for method, moment in zip(alone, moments, strict=False)
    }


def _described(source: Source, batches: Sequence[Batch]) -> str:
    """The critics, and how much of the returns' variance each explains."""
    return "; ".join(
        f"{name}: {words}, explains {explained(batches, name, source.gamma):.0%} of the variance "
        "of returns"
        for name, words in source.critics.items()
    )
