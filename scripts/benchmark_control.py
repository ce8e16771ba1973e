#!/usr/bin/env python
"""Time and score of control runs, beside Stable-Baselines3 in the same process, on one thread.

    python scripts/benchmark_control.py                      all of it, 5 seeds
    python scripts/benchmark_control.py cartpole --seeds 3   one part

Training time excludes evaluation, for all alike. A run is at the threshold once the mean of 100
sampled episodes exceeds 475 by two standard errors; the score is that of 100 further episodes. CPU
seconds are those of the one thread: on a busy machine they vary less than wall-clock time.
Stable-Baselines3 needs the extra `bench` (pip install 'rlhf-pg[bench]') and is skipped without it.
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from rlhf_pg.control.config import ControlConfig, preset, tuned
from rlhf_pg.control.train import RunState, learn, surely_reaches

Result = dict[str, float]


class Timed:
    """A trainer that also measures the CPU time of its steps."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.cpu_seconds = trainer, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)

    def step(self) -> dict[str, float]:
        began = time.process_time()
        metrics: dict[str, float] = self.trainer.step()
        self.cpu_seconds += time.process_time() - began
        return metrics


def ours(config: ControlConfig) -> Result:
    state = RunState(config)
    state.trainer = timed = Timed(state.trainer)  # type: ignore[assignment]
    outcome = learn(state)
    return {
        "seconds": outcome.seconds,
        "cpu": timed.cpu_seconds,
        "steps": outcome.steps,
        "score": outcome.score,
        "solved": outcome.solved,
    }


def stable_baselines3(kind: str, config: ControlConfig) -> Result:
    """SB3 with the settings of its zoo for CartPole, stopped and scored by the same rule."""
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    environments = make_vec_env(config.env, n_envs=8, seed=config.seed)
    if kind == "PPO":
        model: Any = PPO(
            "MlpPolicy", environments, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98,
            n_epochs=20, learning_rate=lambda left: 1e-3 * left,
            clip_range=lambda left: 0.2 * left, seed=config.seed, device="cpu",
        )  # fmt: skip
    else:
        model = A2C("MlpPolicy", environments, seed=config.seed, device="cpu")
    # Scored in our own evaluation environments, with another actor.
    evaluation = RunState(config).evaluation
    evaluation.policy = SB3Actor(model)  # type: ignore[assignment]

    class Stop(BaseCallback):
        due, solved, aside, cpu_aside = config.eval_interval, False, 0.0, 0.0

        def _on_step(self) -> bool:
            return not self.solved

        def _on_rollout_start(self) -> None:
            if self.num_timesteps >= self.due:
                began, cpu = time.perf_counter(), time.process_time()
                self.due = self.num_timesteps + config.eval_interval
                self.solved = surely_reaches(evaluation.play(), config.threshold)
                self.aside += time.perf_counter() - began
                self.cpu_aside += time.process_time() - cpu

    stop = Stop()
    began, cpu = time.perf_counter(), time.process_time()
    model.learn(config.total_steps, callback=stop)
    return {
        "seconds": time.perf_counter() - began - stop.aside,
        "cpu": time.process_time() - cpu - stop.cpu_aside,
        "steps": model.num_timesteps,
        "score": float(evaluation.play().mean()),
        "solved": stop.solved,
    }


class SB3Actor:
    """An SB3 model with the interface of a policy that acts; it has its own random numbers."""

    def __init__(self, model: Any) -> None:
        self.model, self.distribution = model, self

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)

    def acting(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda states, noise: self.model.predict(states, deterministic=False)[0]

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        return actions


def cartpole(seeds: int) -> list[str]:
    """Time to 475, all algorithms in turn, so that a busy period affects all."""
    common = dict(threshold=475.0, eval_interval=5_000)
    runs: dict[str, Callable[[int], Result]] = {}
    for name in ("reinforce-baseline", "ppo", "a2c", "reinforce", "actor-critic"):
        runs[name] = lambda seed, name=name: ours(  # type: ignore[misc]
            tuned(preset(name), seed=seed, total_steps=300_000, **common)
        )
    if have_peer():
        for kind, steps in (("PPO", 100_000), ("A2C", 500_000)):
            runs[f"SB3 {kind}"] = lambda seed, kind=kind, steps=steps: stable_baselines3(  # type: ignore[misc]
                kind, tuned(preset("ppo"), seed=seed, total_steps=steps, **common)
            )
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for seed in range(seeds):
        for name, run in runs.items():
            results[name].append(run(seed))
    lines = [
        "| CartPole-v1 to 475 | solved | seconds | CPU seconds | steps | score, least and mean | "
        "steps per CPU second | SB3 PPO's CPU / this |",
        "|---|---|---|---|---|---|---|---|",
    ]
    peer = of(results["SB3 PPO"], "cpu") if "SB3 PPO" in results else None
    for name, rows in results.items():
        cpu, scores = of(rows, "cpu"), [row["score"] for row in rows]
        speed = sum(row["steps"] for row in rows) / sum(row["cpu"] for row in rows)
        lines.append(
            f"| {name} | {sum(bool(row['solved']) for row in rows)}/{seeds} | "
            f"{of(rows, 'seconds'):.2f} | {cpu:.2f} | {of(rows, 'steps'):,.0f} | "
            f"{min(scores):.1f}, {np.mean(scores):.1f} | {speed:,.0f} | "
            + (f"{peer / cpu:.1f} |" if peer else "- |")
        )
    if peer:
        speeds = {
            name: sum(row["steps"] for row in results[name])
            / sum(row["cpu"] for row in results[name])
            for name in ("a2c", "SB3 A2C")
        }
        ratio = speeds["a2c"] / speeds["SB3 A2C"]
        lines += ["", f"Steps per second, a2c over SB3 A2C: {ratio:.1f}"]
    return lines


def final_score(env: str, algorithms: tuple[str, ...], steps: int, seeds: int) -> list[str]:
    """Score after a number of steps."""
    lines = [
        f"| {env}, {steps // 1000}k steps | mean score | each seed | seconds | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for name in algorithms:
        rows = [
            ours(tuned(preset(name, env), seed=seed, total_steps=steps, eval_interval=10**9))
            for seed in range(seeds)
        ]
        each = " ".join(f"{row['score']:.0f}" for row in rows)
        average = np.mean([row["score"] for row in rows])
        lines.append(
            f"| {name} | {average:.1f} | {each} | "
            f"{of(rows, 'seconds'):.1f} | {of(rows, 'cpu'):.1f} |"
        )
    return lines


def a3c(seeds: int) -> list[str]:
    """Speed with one worker and with two."""
    lines = ["| a3c on CartPole-v1 | steps per second | ratio |", "|---|---|---|"]
    first = None
    for workers in (1, 2):
        speeds = []
        for seed in range(seeds):
            config = tuned(
                preset("a3c"), workers=workers, seed=seed, total_steps=60_000, eval_interval=10**9
            )
            row = ours(config)
            speeds.append(row["steps"] / row["seconds"])
        first = first or median(speeds)
        lines.append(
            f"| {workers} worker{'s'[: workers - 1]} | {median(speeds):,.0f} | "
            f"{median(speeds) / first:.2f} |"
        )
    return lines


def of(rows: list[Result], name: str) -> float:
    """The median of a measure."""
    return median(row[name] for row in rows)


def have_peer() -> bool:
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        return False
    return True


PARTS: dict[str, Callable[[int], list[str]]] = {
    "cartpole": cartpole,
    "acrobot": lambda seeds: final_score("Acrobot-v1", ("ppo", "a2c"), 500_000, seeds),
    "pendulum": lambda seeds: final_score("Pendulum-v1", ("ppo",), 200_000, seeds),
    "a3c": a3c,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", choices=[[], *PARTS], help="all of them where none is named"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (default 5)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, load {os.getloadavg()[0]:.1f} at the start")
    if not have_peer():
        print("Stable-Baselines3 is not installed, so no peer is run: pip install 'rlhf-pg[bench]'")
    print("CleanRL is not on PyPI and is not run.\n")
    for part in arguments.parts or PARTS:
        print("\n".join(PARTS[part](arguments.seeds)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
