"""The commands `rlhf-pg reward`, `rlhf-pg sample` and `rlhf-pg evaluate`."""

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from rich.table import Table
from rich.text import Text

from reward_models import RewardError
from reward_models.config import PreferenceConfig
from reward_models.files import saved_text
from reward_models.held_out import split
from reward_models.loading import load_reward
from reward_models.preference import learning_curve, pair_problem, steps_of, without_equal
from reward_models.preference import train as train_reward_model
from reward_models.pretrained import limit_threads
from reward_models.reward_model import RewardModel
from reward_models.rules import FILM_NOTES_GOLD
from rlhf_pg.chat import chat
from rlhf_pg.checkpoint import Checkpoints, newest, warn_of_other_versions
from rlhf_pg.control.config import control_run
from rlhf_pg.control.evaluate import evaluate_episodes
from rlhf_pg.core.options import made_from
from rlhf_pg.language import data, models
from rlhf_pg.language.check import check_model
from rlhf_pg.language.config import FILM_NOTES, EvaluateConfig, RewardConfig, SampleConfig
from rlhf_pg.language.evaluate import assess
from rlhf_pg.language.loaded import with_run_options
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import score_completions
from rlhf_pg.language.sampling import Completions, check_rows_fit
from rlhf_pg.language.sampling import sample as sample_completions
from rlhf_pg.progress import Progress, command, console, plain
from rlhf_pg.runs import Run, discarded_if_empty, options_of

CHAT = ["How are you today?"]  # stands for what will be typed, where a model is checked


def reward(config: RewardConfig, resume: Path | None = None, until: int | None = None) -> Run:
    """Train a reward model, write the run folder, and report its held-out accuracy.

    `resume` is the folder of an interrupted run of this config; `until` a step to stop after.
    """
    tokenizer = models.load_tokenizer(config.model)
    pairs, held_out = _read_pairs(config, tokenizer)
    for size in config.curve or []:
        if not 1 <= size <= len(pairs):
            raise ValueError(f"curve: there are {len(pairs)} pairs to train on, not {size}")
    model = _untrained(config)
    limit_threads(model.model)
    state = newest(resume) if resume else None
    if resume and state:
        warn_of_other_versions(state["versions"])
        run = Run.resume(resume, state["run"])
    else:
        run = Run.create(config.output, "reward", config)
    console.print(f"{len(pairs):,} pairs → {run.path}", markup=False)
    checkpoints = Checkpoints(run.path, config.checkpoint_every, until)
    report = fit_reward_model(model, pairs, held_out, config.learner, run, checkpoints, state)
    print_report(report)
    console.print(
        f"scores have mean 0, std 1 on the held-out texts; model in {run.path / 'reward_model'}",
        markup=False,
    )
    if config.curve:
        curve = learning_curve(_untrained(config), pairs, held_out, config.curve, config.learner)
        saved_text(run.path / "learning_curve.json", json.dumps(curve, indent=1) + "\n")
        for point in curve:
            console.print(f"{point['pairs']:>7,} pairs  held-out accuracy {point['accuracy']:.3f}")
    console.print(f"train toward it with: {command('train', '--reward', run.path)}", markup=False)
    return run


def resume(run: Path, until: int | None = None) -> Run:
    """Continue an interrupted run of `rlhf-pg reward` (`rlhf-pg resume`)."""
    config = made_from(RewardConfig, options_of(run), str(run / "config.yaml"))
    return reward(config, resume=run, until=until)


def _untrained(config: RewardConfig) -> RewardModel:
    """The reward model before training, a new head on the language model's trunk."""
    return RewardModel.from_base(
        models.model_folder(config.model),
        seed=config.learner.seed,
        device=None if config.device == "auto" else config.device,
        lora_rank=config.lora_rank,
        freeze_trunk=config.freeze_trunk,
        bf16=config.bf16,
        max_length=config.max_length,
    )


def _read_pairs(config: RewardConfig, tokenizer: Any) -> tuple[list[Any], list[Any]]:
    """Training pairs and held-out pairs."""
    pairs = _pairs(config.data, "train", tokenizer, config.columns)
    test = config.test or (FILM_NOTES if config.data == FILM_NOTES else None)
    if test:
        return pairs, _pairs(test, "test", tokenizer, config.columns)
    if not int(len(pairs) * config.learner.held_out):
        raise ValueError(f"{len(pairs)} pairs are too few to hold some out; give --test too")
    train, held_out, apart = split(pairs, config.learner.held_out, config.learner.seed)
    console.print(
        f"{len(held_out):,} of {len(pairs):,} pairs held out; no {apart} are on both sides",
        markup=False,
    )
    return train, held_out


def _pairs(
    source: str, split: Literal["train", "test"], tokenizer: Any, columns: str | None = None
) -> list[Any]:
    """The pairs of a source whose completions differ; how many do not is printed."""
    rows = data.read(source, "preferences", split, tokenizer, columns)
    pairs = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
    for row, pair in enumerate(pairs):
        if problem := pair_problem(pair):
            raise ValueError(f"{data.place(source, row)}: {problem}")
    kept = without_equal(pairs)
    if not kept:
        raise ValueError(f"{source}: chosen equals rejected in every pair; nothing can be learned")
    if len(kept) < len(pairs):
        console.print(
            f"{source}: left out {len(pairs) - len(kept):,} of {len(pairs):,} pairs, whose chosen "
            "equals their rejected completion",
            markup=False,
        )
    return kept


def fit_reward_model(
    model: RewardModel,
    pairs: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    config: PreferenceConfig,
    run: Run,
    checkpoints: Checkpoints,
    resume: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train with a progress bar, log the losses, save the model in the run; returns its report."""
    steps = steps_of(len(pairs), config)
    measured: dict[str, float] = {}  # the last held-out loss, which is not measured at every step
    with checkpoints, discarded_if_empty(run), Progress(steps, "reward model") as progress:

        def log(step: int, total: int, metrics: dict[str, float]) -> None:
            if "held_out_loss" in metrics:
                measured["held_out_loss"] = metrics["held_out_loss"]
            progress.update(step, loss=metrics["loss"], accuracy=metrics["accuracy"], **measured)
            line = {"loss": metrics["loss"], "batch_accuracy": metrics["accuracy"]}
            run.log(step, line | {n: x for n, x in metrics.items() if n == "held_out_loss"})

        def after_step(step: int, total: int, state: Callable[[], dict[str, Any]]) -> None:
            checkpoints.after(
                step, total, lambda: state() | {"command": "reward", "run": run.state_dict()}
            )

        report = train_reward_model(
            model,
            pairs,
            held_out,
            config,
            progress=log,
            after_step=after_step,
            resume=resume,
        )
    if report["steps"] < steps:
        best = report["kept_step"]
        console.print(f"stopped early: the held-out loss has not fallen since step {best:,}")
    names = {"accuracy": "accuracy", "held_out_loss": "loss"}
    run.log(report["steps"], {name: report[key] for name, key in names.items() if key in report})
    model.save_pretrained(run.path / "reward_model")
    return report


def print_report(report: dict[str, Any]) -> None:
    """The held-out accuracy beside that of the length, calibration, and warnings."""
    console.print(
        f"held-out accuracy {report['accuracy']:.3f}, loss {report['loss']:.3f} (no opinion: 0.693)"
        f" on {report['held_out_pairs']:,} pairs; weights of step {report['kept_step']:,} of "
        f"{report['steps']:,}"
    )
    lost = report["longer_lost_accuracy"]
    console.print(
        f"the longer one wins {report['longer_wins']:.3f}, the shorter one "
        f"{report['shorter_wins']:.3f}; accuracy where the longer one loses "
        f"{'none' if lost is None else f'{lost:.3f}'} ({report['longer_lost_pairs']:,} pairs); "
        f"correlation of score and length {report['length_correlation']:.2f}"
    )
    table = Table("stated probability", "pairs", "its mean", "accuracy", title="Calibration")
    for row in report["calibration"]:
        numbers = str(row["pairs"]), f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}"
        table.add_row(f"{row['low']:.1f} to {row['high']:.1f}", *numbers)
    console.print(table)
    console.print(f"expected calibration error {report['ece']:.3f}")
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def sample(config: SampleConfig) -> None:
    """Print completions, each with its score if there is a reward, and its gold score; or answer
    what is typed."""
    config = with_run_options(config)
    assert config.max_new_tokens and config.temperature
    model, tokenizer = models.load(config.model)
    policy = LanguagePolicy(model, config.temperature, critic="none")
    if config.chat:
        check_model(policy, tokenizer, CHAT, config.max_new_tokens, config.model)
        generator = torch.Generator().manual_seed(config.seed)
        return chat(policy, tokenizer, config.max_new_tokens, generator, config.greedy)
    columns = _prompts(config, tokenizer)
    count, limit = len(columns["prompt"]), config.max_new_tokens
    data.check_prompt_lengths(model, tokenizer, columns["prompt"], limit)
    check_model(policy, tokenizer, columns["prompt"], limit, config.model)
    rows = count * config.samples_per_prompt
    check_rows_fit(model, rows, limit, "--samples_per_prompt or --max_new_tokens", "cpu")
    columns = data.repeated(columns, range(count), config.samples_per_prompt)
    prompts = columns["prompt"]
    generator = torch.Generator().manual_seed(config.seed)
    completions = sample_completions(
        policy, tokenizer, prompts, config.max_new_tokens, generator, config.greedy
    )
    finished = completions.finished.tolist()
    scores = _scores(config, completions, columns)
    for i, text in enumerate(completions.texts):
        line = Text()
        for name, values in scores.items():
            value = "n/a" if math.isnan(values[i]) else f"{values[i]:+.2f}"
            line.append(f"{name} {value:>5} " if len(scores) > 1 else f"{value:>5} ", "cyan")
        line.append(plain(prompts[i]), "dim").append(plain(text))  # a completion is a line
        console.print(line if finished[i] else line.append(" … cut", "yellow"), soft_wrap=True)


def _scores(
    config: SampleConfig, completions: Completions, columns: data.Rows
) -> dict[str, list[float]]:
    """Scores of completions by name: the reward, and the gold that film notes have; NaN is none.

    Of a prompt given by hand there are no columns; a reward that needs them is left out, with a
    note.
    """
    film_notes = config.prompt is None and config.data == FILM_NOTES
    specs = {"reward": config.reward, "gold": FILM_NOTES_GOLD if film_notes else None}
    if config.reward == FILM_NOTES_GOLD:
        del specs["gold"]
    scores = {}
    for name, spec in specs.items():
        if spec:
            try:
                found = score_completions(load_reward(spec), completions, columns)[0]
                scores[name] = found.tolist()
            except RewardError as error:
                if config.prompt is None:
                    raise
                console.print(f"not scored: {error}", markup=False)
    return scores


def _prompts(config: SampleConfig, tokenizer: Any) -> data.Rows:
    """Prompts with their columns."""
    if config.prompt is None:
        assert config.data
        rows = data.read(config.data, "prompts", "test", tokenizer, config.columns)
        count = len(rows["prompt"])
        chosen = range(0, count, max(1, count // config.count))[: config.count]
        return data.repeated(rows, chosen)
    prompts = [config.prompt] if isinstance(config.prompt, str) else list(config.prompt)
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ValueError("a prompt is empty; give it some text to begin from")
    return {"prompt": prompts}


ONLY_CONTROL, IN_BOTH = {"episodes", "greedy"}, {"model", "seed", "output", "trust"}


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure a policy of text, or of a run of `rlhf-pg control`.

    Raises ValueError for an option that is only for the other.
    """
    run = control_run(config.model)
    changed = {f.name for f in fields(config) if getattr(config, f.name) != f.default}
    wrong = sorted(changed - IN_BOTH - ONLY_CONTROL if run else changed & ONLY_CONTROL)
    if wrong:
        kind = "a run of `rlhf-pg control`" if run else "no run of `rlhf-pg control`"
        raise ValueError(f"{config.model} is {kind}: --{wrong[0]} does not apply to it")
    if run is None:
        return assess(config)
    return evaluate_episodes(
        Path(config.model),
        config.episodes,
        config.seed,
        config.greedy,
        Path(config.output) if config.output else None,
        config.trust,
    )
