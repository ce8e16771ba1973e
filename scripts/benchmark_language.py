"""Every algorithm toward the demo's reward model, over seeds: reward, gold, KL and seconds.

    scripts/demo && .venv/bin/python scripts/benchmark_language.py

Writes a table to data/results/language.md. Every run has 64 completions per rollout, one thread and
its algorithm's own settings; the base model and the reward model are the same for all.
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path

import torch

from reward_models.loading import load_reward
from rlhf_pg.core.algorithms import ALGORITHMS
from rlhf_pg.language import data, models
from rlhf_pg.language.config import FILM_NOTES, preset
from rlhf_pg.language.evaluate import Bench
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.train import train
from rlhf_pg.runs import read_jsonl

COLUMNS = ("score", "gold", "kl", "entropy", "seconds")
VARIANTS = ("dr-grpo", "dapo", "gspo", "cispo")  # in data/results/variants.md
HEAD = """# Language: algorithms on film notes

`scripts/demo && .venv/bin/python scripts/benchmark_language.py{given}`, {seeds} seeds,
{iterations} rollouts of 64 completions, one thread.
Mean (lowest to highest over seeds), measured on the test prompts, three completions of each.
The first line is the base model itself. The machine was busy: compare seconds in the table only.

| algorithm | learned reward | gold | KL, nats | entropy, nats per token | seconds |
|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="A finished demo.")
    parser.add_argument("--seeds", type=int, default=3, help="Runs of each, usually 3 to 5.")
    parser.add_argument("--iterations", type=int, default=60, help="Rollouts, usually 60.")
    names = list(ALGORITHMS)
    usual = [name for name in names if name not in VARIANTS]
    parser.add_argument("--algorithms", nargs="+", default=usual, choices=names, metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("data/results/language.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row("base", [measure(options.demo, options.demo / "base")])]
    for name in options.algorithms:
        seeds = range(options.seeds)
        rows.append(row(name, [run(options.demo, name, s, options.iterations) for s in seeds]))
        print(rows[-1], flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    given = "".join(f" {word}" for word in sys.argv[1:])
    head = HEAD.format(given=given, seeds=options.seeds, iterations=options.iterations)
    table = head + "\n".join(rows) + "\n"
    options.output.write_text(table, encoding="utf-8")
    print(table)


def run(demo: Path, name: str, seed: int, iterations: int) -> dict[str, float]:
    """Train one algorithm from the demo's base toward its reward model, and measure it."""
    output = demo / "benchmark" / f"{name}-{seed}"
    shutil.rmtree(output, ignore_errors=True)
    config = preset(name)
    config.model, config.reward = str(demo / "base"), str(demo / "reward")
    config.output, config.seed, config.iterations = str(output), seed, iterations
    train(config, load_reward(config.reward))
    seconds = read_jsonl(output / "metrics.jsonl")[-1]["seconds"]
    return measure(demo, output) | {"seconds": seconds}


def measure(demo: Path, folder: Path) -> dict[str, float]:
    """Means over three completions of every test prompt."""
    model, tokenizer = models.load(str(folder))
    base = models.load(str(demo / "base"))[0]
    prompts = {"prompt": data.read(FILM_NOTES, "prompts", "test")["prompt"]}
    rewards = {"score": load_reward(str(demo / "reward")), "gold": load_reward("film-notes-gold")}
    policy, reference = (LanguagePolicy(m, critic="none") for m in (model, base))
    bench = Bench(reference, tokenizer, prompts, rewards, 48)
    return bench.measure(policy, samples=3, seed=0, title=folder.name)[0]


def row(name: str, results: list[dict[str, float]]) -> str:
    """A line of the table."""
    cells = []
    for column in COLUMNS:
        values = [result[column] for result in results if column in result]
        mean = f"{statistics.mean(values):.2f}" if values else ""
        spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
        cells.append(mean + spread)
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
