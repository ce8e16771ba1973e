"""The whole story of RLHF on the shipped film notes, from a language model to over-optimisation.

speak    a tiny language model learns to write film notes
judge    pairs of its samples are compared by the gold scorer, with noise
learn    a reward model is fitted to those choices
please   PPO maximises the reward model, once held near the base by a KL term and once not
"""

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from rlhf_pg.demo_page import write_page
from rlhf_pg.language import data, models, settings, training
from rlhf_pg.language.evaluation import evaluate
from rlhf_pg.language.finetuning import FinetuneConfig, finetune
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.sampling import sample
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, read_jsonl

FitReward = Callable[[Path, list[dict[str, Any]], Path], tuple[Reward, float]]
WAYS = ("base", "with KL", "without KL")
ROWS = {  # what the table shows, and how to read it
    "score": "learned reward",
    "gold": "gold",
    "kl": "KL to base, nats",
    "entropy": "entropy, nats per token",
    "distinct_2": "distinct-2",
    "eos_rate": "EOS rate",
}


@dataclass
class DemoConfig:
    """Fine-tune, draw preferences, train a reward model, run PPO with and without the KL term."""

    preset: str = "full"
    """ "full", or "smoke": every step of it, far too short to learn, in under 30 seconds."""
    texts: int = 6000
    """Film notes to learn to speak from; all there are is 6,000."""
    epochs: int = 3
    """Passes over them, usually 2 to 4."""
    pairs: int = 4000
    """Preference pairs, usually 3,000 to 6,000; 1,000 make a noisy judge."""
    noise: float = 0.5
    """P(choose a) = sigmoid((gold a - gold b) / noise), usually 0.3 to 2."""
    iterations: int = 60
    """PPO rollouts of 64 completions, usually 50 to 150."""
    kl_coef: float = 0.2
    """The KL coefficient of the run that has one."""
    seed: int = 0
    """Of everything."""
    output: str | None = None
    """Run folder; None takes runs/demo, or the next free number."""


def preset(name: str) -> DemoConfig:
    """The settings of "full" and "smoke"; raises ValueError for another name."""
    if name == "full":
        return DemoConfig()
    if name == "smoke":
        return DemoConfig(preset="smoke", texts=600, epochs=1, pairs=64, iterations=2)
    raise ValueError(f"unknown preset {name!r}: use 'full' or 'smoke'")


def demo(config: DemoConfig, gold: Reward, fit_reward: FitReward) -> Path:
    """Tell the story; returns the page that shows it."""
    began = time.monotonic()
    run = Run.create(config.output, "demo", config)
    console.rule("[bold]1 · a language model learns to speak")
    base = finetune(_speaking(config, run.path)).path
    console.rule("[bold]2 · its samples are judged")
    pairs = draw_preferences(base, gold, config)
    _write(run.path / "preferences.jsonl", pairs)
    console.rule("[bold]3 · a reward model learns from the choices")
    reward, accuracy = fit_reward(base / "policy", pairs, run.path / "reward")
    console.print(f"held-out accuracy {accuracy:.3f}")
    console.rule("[bold]4 · PPO toward the learned reward, near the base and free of it")
    for way, coefficient in (("with-kl", config.kl_coef), ("without-kl", 0.0)):
        training.train(_pleasing(config, base, run.path / way, coefficient), reward, gold)
    console.rule("[bold]5 · what came of it")
    table, samples = compare(run.path, base, reward, gold, config)
    _show(table, samples)
    curves = {
        "with KL": read_jsonl(run.path / "with-kl" / "metrics.jsonl"),
        "without KL": read_jsonl(run.path / "without-kl" / "metrics.jsonl"),
    }
    (run.path / "result.json").write_text(json.dumps({"accuracy": accuracy, "table": table}))
    page = write_page(run.path / "report.html", table, ROWS, samples, curves, accuracy, config)
    console.print(f"\n{time.monotonic() - began:.0f} s in all. Open [bold]{page}[/] in a browser.")
    console.print(f"Every token's advantage: rlhf-pg inspect {run.path / 'with-kl'}", markup=False)
    return page


def _speaking(config: DemoConfig, folder: Path) -> FinetuneConfig:
    source = data.FILM_NOTES
    if config.texts < 6000:  # a smoke test learns from the first few
        texts = data.read(source, "corpus")["text"][: config.texts]
        source = str(folder / "corpus.jsonl")
        _write(Path(source), [{"text": text} for text in texts])
    return FinetuneConfig(
        data=source, epochs=config.epochs, seed=config.seed, output=str(folder / "base")
    )


def _pleasing(
    config: DemoConfig, base: Path, output: Path, coefficient: float
) -> settings.TrainConfig:
    asked = settings.preset("ppo")
    asked.model, asked.output = str(base), str(output)
    asked.reward = str(output.parent / "reward")  # so that the run's own config repeats it
    asked.iterations, asked.kl_coef, asked.seed = config.iterations, coefficient, config.seed
    return asked


def draw_preferences(base: Path, gold: Reward, config: DemoConfig) -> list[dict[str, Any]]:
    """Pairs of base samples, the chosen one drawn with P = sigmoid(gold difference / noise)."""
    model, tokenizer = models.load(str(base))
    policy = LanguagePolicy(model, critic="none")
    prompts = data.read(data.FILM_NOTES, "prompts")["prompt"]
    judge = random.Random(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    pairs: list[dict[str, Any]] = []
    with Progress(config.pairs, "judging pairs") as progress:
        while len(pairs) < config.pairs:
            asked = judge.choices(prompts, k=min(128, config.pairs - len(pairs)))
            done = sample(policy, tokenizer, [p for p in asked for _ in range(2)], 48, generator)
            finished = done.finished.tolist()
            scores = gold(prompts=done.prompts, completions=done.texts, finished=finished)
            for a in range(0, len(scores), 2):
                better = 1 / (1 + math.exp((scores[a + 1] - scores[a]) / config.noise))
                chosen, rejected = (a, a + 1) if judge.random() < better else (a + 1, a)
                pairs.append(
                    {
                        "prompt": done.prompts[a],
                        "chosen": done.texts[chosen],
                        "rejected": done.texts[rejected],
                        "chosen_finished": finished[chosen],
                        "rejected_finished": finished[rejected],
                    }
                )
            progress.update(len(pairs))
    return pairs


def compare(
    folder: Path, base: Path, reward: Reward, gold: Reward, config: DemoConfig
) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Metrics of the three policies on unseen prompts, and what each writes for five of them."""
    prompts = data.read(data.FILM_NOTES, "prompts", "test")["prompt"]
    repeats = 3 if config.preset == "full" else 1
    reference = LanguagePolicy(models.load(str(base))[0], critic="none")
    table: dict[str, dict[str, float]] = {}
    samples: list[dict[str, Any]] = []
    shown = range(0, len(prompts), max(1, len(prompts) // 5))
    for way, path in zip(WAYS, (base, folder / "with-kl", folder / "without-kl"), strict=True):
        model, tokenizer = models.load(str(path))
        policy = LanguagePolicy(model, critic="none")
        table[way], rows = evaluate(
            policy, reference, tokenizer, prompts * repeats, {"score": reward, "gold": gold}, 48
        )
        samples += [{"way": way, **rows[i]} for i in list(shown)[:5]]
    return table, samples


def _show(table: dict[str, dict[str, float]], samples: list[dict[str, Any]]) -> None:
    """The table, and the completions side by side."""
    numbers = Table("", *WAYS, title="Means on prompts that no run was trained on")
    for key, label in ROWS.items():
        numbers.add_row(label, *(f"{table[way][key] + 0:.2f}" for way in WAYS))
    console.print(numbers)
    side = Table(*WAYS, title="The same prompts, answered by each", show_lines=True)
    for prompt in dict.fromkeys(row["prompt"] for row in samples):
        cells = [row for row in samples if row["prompt"] == prompt]
        side.add_row(*(_cell(row) for row in cells))
    console.print(side)


def _cell(row: dict[str, Any]) -> Text:
    """A completion under its prompt, over its scores; text from a model is never markup."""
    return Text.assemble(
        (row["prompt"].strip() + "\n", "dim"),
        row["completion"].strip() + "\n",
        (f"learned {row['score']:+.1f}, gold {row['gold']:+.1f}", "cyan"),
    )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
