"""RLHF on the shipped film notes, from a language model to over-optimisation.

1. A tiny language model is trained on film notes.
2. Pairs of its samples are compared by the gold scorer, with noise.
3. A reward model is trained on these choices.
4. PPO maximises the reward model, once with a KL penalty and once without.
"""

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from reward_models.config import PreferenceConfig
from reward_models.loading import load_reward
from reward_models.reward_model import RewardModel
from reward_models.rules import FILM_NOTES_GOLD
from rlhf_pg.checkpoint import Checkpoints
from rlhf_pg.commands import fit_reward_model
from rlhf_pg.demo_page import write_page
from rlhf_pg.language import data, models
from rlhf_pg.language.config import FILM_NOTES, DemoConfig, FinetuneConfig, TrainConfig, preset
from rlhf_pg.language.evaluate import Bench, evaluate
from rlhf_pg.language.finetune import finetune
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.sampling import sample
from rlhf_pg.language.train import train
from rlhf_pg.progress import Progress, command, console
from rlhf_pg.runs import Run, discarded_if_empty, read_jsonl
from rlhf_pg.study.config import InspectConfig
from rlhf_pg.study.inspect import inspect

POLICIES = ("base", "with KL", "without KL")
ROWS = {  # rows of the table
    "score": "learned reward",
    "gold": "gold",
    "kl": "KL to base, nats",
    "entropy": "entropy, nats per token",
    "distinct_2": "distinct-2",
    "eos_rate": "EOS rate",
}


def demo(config: DemoConfig) -> Path:
    """Run all four steps and compare the policies; returns the page that shows them."""
    began = time.monotonic()
    run = Run.create(config.output, "demo", config)
    gold = load_reward(FILM_NOTES_GOLD)

    console.rule(Text("1 · a language model is trained on film notes", "bold"))
    with discarded_if_empty(run):
        base = finetune(_base_config(config, run.path)).path

    console.rule(Text("2 · pairs of its samples are compared by the gold scorer", "bold"))
    pairs = make_preferences(base, gold, config)
    _write(run.path / "preferences.jsonl", pairs)

    console.rule(Text("3 · a reward model is trained on the choices", "bold"))
    reward, accuracy = _reward_model(base / "policy", pairs, run.path / "reward", config.seed)
    console.print(f"held-out accuracy {accuracy:.3f}")

    title = "4 · PPO maximises the reward model, with and without the KL penalty"
    console.rule(Text(title, "bold"))
    for name, coefficient in (("with-kl", config.kl_coef), ("without-kl", 0.0)):
        train(_ppo_config(config, base, run.path / name, coefficient))

    console.rule(Text("5 · results", "bold"))
    table, samples = compare(run.path, base, reward, gold, config)
    _show(table, samples)
    curves = {
        "with KL": read_jsonl(run.path / "with-kl" / "metrics.jsonl"),
        "without KL": read_jsonl(run.path / "without-kl" / "metrics.jsonl"),
    }
    (run.path / "result.json").write_text(json.dumps({"accuracy": accuracy, "table": table}))
    page = write_page(run.path / "report.html", table, ROWS, samples, curves, accuracy, config)
    for name in ("with-kl", "without-kl"):  # pages that the demo's own page links to
        inspect(InspectConfig(run=str(run.path / name), continuations=0), announce=False)
    seconds = f"\n{time.monotonic() - began:.0f} s in all."
    console.print(Text(f"{seconds} Open ").append(str(page), "bold").append(" in a browser."))
    measured = command("inspect", run.path / "with-kl")
    console.print(f"Every token's true advantage beside the estimate: {measured}", markup=False)
    return page


def _base_config(config: DemoConfig, folder: Path) -> FinetuneConfig:
    source = FILM_NOTES
    if config.texts < 6000:  # a smoke test uses only the first texts
        texts = data.read(source, "corpus")["text"][: config.texts]
        source = str(folder / "corpus.jsonl")
        _write(Path(source), [{"text": text} for text in texts])
    return FinetuneConfig(
        data=source, epochs=config.epochs, seed=config.seed, output=str(folder / "base")
    )


def _reward_model(
    base: Path, pairs: list[dict[str, Any]], output: Path, seed: int
) -> tuple[RewardModel, float]:
    """A reward model trained on the pairs, a tenth of them held out, and its accuracy on these."""
    held_out = max(1, len(pairs) // 10)
    # One pass, and the last weights: the reward model has the flaws that PPO then finds.
    learner = PreferenceConfig(lr=1e-3, epochs=1, evaluate_every=0, seed=seed)
    run = Run.create(output, "reward", learner)
    model = RewardModel.from_base(base, seed=seed)
    report = fit_reward_model(
        model, pairs[held_out:], pairs[:held_out], learner, run, Checkpoints(run.path)
    )
    return model, report["accuracy"]


def _ppo_config(config: DemoConfig, base: Path, output: Path, coefficient: float) -> TrainConfig:
    options = preset("ppo")
    options.model, options.output = str(base), str(output)
    options.reward = str(output.parent / "reward")  # so that the run's own config repeats it
    options.iterations, options.kl_coef, options.seed = config.iterations, coefficient, config.seed
    return options


def make_preferences(base: Path, gold: Reward, config: DemoConfig) -> list[dict[str, Any]]:
    """Pairs of base samples, the chosen one with P = sigmoid(gold difference / noise)."""
    model, tokenizer = models.load(str(base))
    policy = LanguagePolicy(model, critic="none")
    prompts = data.read(FILM_NOTES, "prompts")["prompt"]
    judge = random.Random(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    pairs: list[dict[str, Any]] = []
    with Progress(config.pairs, "comparing pairs") as progress:
        while len(pairs) < config.pairs:
            chosen_prompts = judge.choices(prompts, k=min(128, config.pairs - len(pairs)))
            twice = [prompt for prompt in chosen_prompts for _ in range(2)]
            completions = sample(policy, tokenizer, twice, 48, generator)
            finished = completions.finished.tolist()
            scores = gold(
                prompts=completions.prompts, completions=completions.texts, finished=finished
            )
            for a in range(0, len(scores), 2):
                difference = (scores[a + 1] - scores[a]) / config.noise
                better = 1 / (1 + math.exp(min(difference, 700.0)))  # math.exp overflows above 709
                chosen, rejected = (a, a + 1) if judge.random() < better else (a + 1, a)
                pairs.append(
                    {
                        "prompt": completions.prompts[a],
                        "chosen": completions.texts[chosen],
                        "rejected": completions.texts[rejected],
                        "chosen_finished": finished[chosen],
                        "rejected_finished": finished[rejected],
                    }
                )
            progress.update(len(pairs))
    return pairs


def compare(
    folder: Path, base: Path, reward: Reward, gold: Reward, config: DemoConfig
) -> tuple[dict[str, dict[str, float]], list[dict[str, Any]]]:
    """Metrics of the three policies on unseen prompts, and completions of five of these."""
    prompts = data.read(FILM_NOTES, "prompts", "test")["prompt"]
    repeats = 3 if config.preset == "full" else 1
    reference = LanguagePolicy(models.load(str(base))[0], critic="none")
    table: dict[str, dict[str, float]] = {}
    samples: list[dict[str, Any]] = []
    shown = range(0, len(prompts), max(1, len(prompts) // 5))
    folders = (base, folder / "with-kl", folder / "without-kl")
    for name, path in zip(POLICIES, folders, strict=True):
        model, tokenizer = models.load(str(path))
        bench = Bench(reference, tokenizer, {}, {"score": reward, "gold": gold}, 48)
        policy = LanguagePolicy(model, critic="none")
        table[name], rows = evaluate(bench, policy, {"prompt": prompts * repeats})
        samples += [{"policy": name, **rows[i]} for i in list(shown)[:5]]
    return table, samples


def _show(table: dict[str, dict[str, float]], samples: list[dict[str, Any]]) -> None:
    """The table, and the completions side by side."""
    numbers = Table("", *POLICIES, title="Means on prompts that no run was trained on")
    for key, label in ROWS.items():
        numbers.add_row(label, *(f"{table[name][key] + 0:.2f}" for name in POLICIES))
    console.print(numbers)
    side = Table(*POLICIES, title="The same prompts, answered by each", show_lines=True)
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
