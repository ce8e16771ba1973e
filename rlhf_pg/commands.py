"""The commands that need both a language model and a reward, which know nothing of each other."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from reward_models.config import PreferenceConfig
from reward_models.loading import load_reward
from reward_models.preference import learning_curve, split
from reward_models.preference import train as fit
from reward_models.reward_model import RewardModel
from rlhf_pg import demo as story
from rlhf_pg import labelling
from rlhf_pg.language import assessment, data, models, pairing, training
from rlhf_pg.language import frontier as sweep
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.prompts import check_prompt_lengths
from rlhf_pg.language.sampling import sample as draw
from rlhf_pg.language.settings import TrainConfig
from rlhf_pg.language.trained import FILM_NOTES_GOLD as GOLD
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, saved_text


@dataclass
class RewardConfig:
    """Train a Bradley-Terry reward model on preference pairs."""

    data: str = "film-notes"
    """Pairs: a file, folder or hub name with `prompt`, `chosen` and `rejected`."""
    test: str | None = None
    """Held-out pairs; without it, a share of the data (film-notes has its own)."""
    model: str = "runs/base"
    """The language model to begin with: a run, a folder, or a hub name."""
    curve: list[int] | None = None
    """Train fresh models on so many pairs, too, and report how accuracy grows: '[500, 1000]'."""
    output: str | None = None
    """Run folder; None takes runs/reward, or the next free number."""
    learner: PreferenceConfig = field(default_factory=PreferenceConfig)
    """How the model learns from the pairs."""


def reward(config: RewardConfig) -> Run:
    """Train a reward model, write the run folder, and report how often it is right."""
    base, tokenizer = models.load(config.model)  # and a clear error where it is no model
    models.suit_threads(base)
    pairs, held_out = _read_pairs(config, tokenizer)
    for size in config.curve or []:
        if not 1 <= size <= len(pairs):
            raise ValueError(f"curve: there are {len(pairs)} pairs to train on, not {size}")
    folder = models.model_folder(config.model)
    model = RewardModel.from_base(folder, seed=config.learner.seed)
    run = Run.create(config.output, "reward", config)
    console.print(f"{len(pairs):,} pairs → {run.path}", markup=False)
    report = fit_with_progress(model, pairs, held_out, config.learner, run)
    model.save_pretrained(run.path / "reward_model")
    console.print(
        f"held-out accuracy {report['accuracy']:.3f} on {report['held_out_pairs']:,} pairs; "
        f"scores have mean 0, std 1 on their completions; model in {run.path / 'reward_model'}",
        markup=False,
    )
    _show_calibration(report)
    if config.curve:
        fresh = RewardModel.from_base(folder, seed=config.learner.seed)
        curve = learning_curve(fresh, pairs, held_out, config.curve, config.learner)
        saved_text(run.path / "learning_curve.json", json.dumps(curve, indent=1) + "\n")
        for point in curve:
            console.print(f"{point['pairs']:>7,} pairs  held-out accuracy {point['accuracy']:.3f}")
    return run


def _read_pairs(config: RewardConfig, tokenizer: Any) -> tuple[list[Any], list[Any]]:
    """Pairs to train on and pairs held out."""
    pairs = _pairs(data.read(config.data, "preferences", tokenizer=tokenizer))
    test = config.test or (data.FILM_NOTES if config.data == data.FILM_NOTES else None)
    if test:
        return pairs, _pairs(data.read(test, "preferences", "test", tokenizer))
    if not int(len(pairs) * config.learner.held_out):
        raise ValueError(f"{len(pairs)} pairs are too few to hold some out; give --test too")
    return split(pairs, config.learner.held_out, config.learner.seed)


def _show_calibration(report: dict[str, Any]) -> None:
    """How often pairs called so sure are right, beside how sure they were called."""
    table = Table("called sure by", "pairs", "mean certainty", "right", title="Calibration")
    for row in report["calibration"]:
        numbers = str(row["pairs"]), f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}"
        table.add_row(f"{row['low']:.1f} to {row['high']:.1f}", *numbers)
    console.print(table)
    console.print(f"expected calibration error {report['ece']:.3f}")


def fit_with_progress(
    model: RewardModel,
    pairs: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    config: PreferenceConfig,
    run: Run,
) -> dict[str, Any]:
    """Train with a progress bar; the losses go to metrics.jsonl."""
    steps = -(-len(pairs) // config.batch_size) * config.epochs
    with Progress(steps, "reward model") as progress:

        def show(step: int, total: int, numbers: dict[str, float]) -> None:
            progress.total = total
            progress.update(step, loss=numbers["loss"], accuracy=numbers["accuracy"])
            run.log(step, {"loss": numbers["loss"], "batch_accuracy": numbers["accuracy"]})

        report = fit(model, pairs, held_out, config, progress=show)
    names = {"accuracy": "accuracy", "held_out_loss": "loss"}
    run.log(steps, {name: report[key] for name, key in names.items() if key in report})
    return report


def train(config: TrainConfig) -> Run | None:
    """Fine-tune toward the reward, measuring the gold beside it."""
    gold = config.gold or (GOLD if config.data == data.FILM_NOTES else None)
    if config.reward == "runs/reward" and not Path(config.reward).exists():
        raise ValueError("no reward model at runs/reward; `rlhf-pg reward` makes one")
    run = training.train(config, load_reward(config.reward), load_reward(gold) if gold else None)
    if run:
        console.print(f"read what it writes with: rlhf-pg sample {run.path}", markup=False)
        console.print(f"see every token's advantage: rlhf-pg inspect {run.path}", markup=False)
    return run


def evaluate(config: assessment.EvaluateConfig) -> None:
    """Measure a policy against the model it began from, by its own reward and the gold."""
    config = assessment.with_run_options(config)
    film_notes = GOLD if config.data == data.FILM_NOTES else None
    specs = {"score": config.reward, "gold": config.gold or film_notes}
    rewards = {name: load_reward(spec) for name, spec in specs.items() if spec}
    assessment.assess(config, rewards)


def frontier(config: sweep.FrontierConfig) -> None:
    """Sweep the KL coefficient, with the gold scorer where the task has one."""
    gold = config.gold or (GOLD if config.data == data.FILM_NOTES else None)
    specs = {"score": config.reward, "gold": gold}
    sweep.frontier(config, {name: load_reward(spec) for name, spec in specs.items() if spec})


def label(config: pairing.LabelConfig) -> None:
    """Let a person judge pairs in the terminal; what is judged is kept whatever happens."""
    with labelling.keys() as read_key:
        kept = labelling.Judgements(Path(config.output))
        reward = load_reward(config.reward) if config.reward else None
        pairs = pairing.draw_pairs(config, reward, skip=len(kept.made))
        labelling.judge(pairs, kept, read_key)
    decided = kept.folder / "preferences.jsonl"
    console.print(
        f"{len(kept.preferences())} pairs in {decided}; "
        f"learn from them with: rlhf-pg reward --data {decided}",
        markup=False,
    )


@dataclass
class SampleConfig:
    """Read what a model writes."""

    model: str = "runs/ppo"
    """A run, a folder, or a hub name."""
    prompt: list[str] | str | None = None
    """A prompt to complete, or a list of them: '["one", "two"]'. None takes some of the data's."""
    data: str = "film-notes"
    """Where prompts come from: a source with a `prompt` column."""
    reward: str | None = None
    """Score each completion with this reward; film-notes completions get their gold score."""
    count: int = 5
    """How many prompts of the data."""
    samples_per_prompt: int = 1
    """Completions of each prompt."""
    max_new_tokens: int = 48
    """Longest completion, EOS included."""
    temperature: float = 1.0
    """Of sampling; below 1 the likely becomes likelier."""
    greedy: bool = False
    """Take the likeliest token each time instead of drawing one."""
    seed: int = 0
    """Of the draws."""


def sample(config: SampleConfig) -> None:
    """Print completions, each with its score where there is a reward."""
    if config.count < 1 or config.samples_per_prompt < 1 or config.max_new_tokens < 1:
        raise ValueError("count, samples_per_prompt and max_new_tokens must be at least 1")
    model, tokenizer = models.load(config.model)
    policy = LanguagePolicy(model, config.temperature, critic="none")
    film_notes = config.prompt is None and config.data == data.FILM_NOTES
    columns = _asked(config, tokenizer)
    prompts = columns.pop("prompt")
    check_prompt_lengths(model, tokenizer, prompts, config.max_new_tokens)
    generator = torch.Generator().manual_seed(config.seed)
    done = draw(policy, tokenizer, prompts, config.max_new_tokens, generator, config.greedy)
    spec = config.reward or (GOLD if film_notes else None)
    finished = done.finished.tolist()
    asked = {**columns, "prompts": prompts, "completions": done.texts, "finished": finished}
    scores = load_reward(spec)(**asked) if spec else None
    for i, text in enumerate(done.texts):
        # Text objects, for text from models is data: brackets in it are no markup.
        line = Text()
        if scores is not None:
            line.append("  n/a " if scores[i] is None else f"{scores[i]:+.2f} ", "cyan")
        line.append(prompts[i], "dim").append(text)
        console.print(line if finished[i] else line.append(" … cut", "yellow"), soft_wrap=True)


def _asked(config: SampleConfig, tokenizer: Any) -> data.Rows:
    """Prompts with their columns, each `samples_per_prompt` times."""
    if config.prompt is not None:
        one = isinstance(config.prompt, str)
        rows: data.Rows = {"prompt": [config.prompt] if one else list(config.prompt)}
        if not rows["prompt"] or not all(prompt.strip() for prompt in rows["prompt"]):
            raise ValueError("a prompt is empty; give it some text to begin from")
        chosen = range(len(rows["prompt"]))
    else:
        rows = data.read(config.data, "prompts", "test", tokenizer)
        count = len(rows["prompt"])
        chosen = range(0, count, max(1, count // config.count))[: config.count]
    repeated = [i for i in chosen for _ in range(config.samples_per_prompt)]
    return {name: [values[i] for i in repeated] for name, values in rows.items()}


def demo(config: story.DemoConfig) -> Path:
    """The whole story, with the shipped gold scorer and reward model."""

    def fit_reward(base: Path, pairs: list[dict[str, Any]], output: Path) -> tuple[Any, float]:
        held_out = max(1, len(pairs) // 10)
        learner = PreferenceConfig(seed=config.seed)
        run = Run.create(output, "reward", asdict(learner))
        model = RewardModel.from_base(base, seed=config.seed)
        report = fit_with_progress(
            model, pairs[held_out:], pairs[:held_out], learner, run
        )  # fmt: skip
        model.save_pretrained(output / "reward_model")
        return model, report["accuracy"]

    return story.demo(config, load_reward(GOLD), fit_reward)


def _pairs(rows: data.Rows) -> list[dict[str, Any]]:
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
