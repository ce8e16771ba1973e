"""A trained run opened again: its policy and critic, and the task it was trained on."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rlhf_pg.core.algorithms import LearnerConfig
from rlhf_pg.language import data, models
from rlhf_pg.language.answers import Task
from rlhf_pg.language.critics import load_critic
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.settings import TrainConfig
from rlhf_pg.runs import options_of, read_jsonl

FILM_NOTES_GOLD = "film-notes-gold"  # the spelling of their gold score, as a reward


@dataclass
class Trained:
    """A policy as a run left it, and what it was asked and paid."""

    path: Path  # the run's folder
    policy: LanguagePolicy
    task: Task
    prompts: data.Rows
    kl_coef: float  # where an adaptive one ended


def open_trained(name: str, load_reward: Callable[[str], Reward], **overrides: Any) -> Trained:
    """The run at `name`, a model inside one, or any model where the reward is given, too.

    `overrides`, where not None, replace options of the run (reward, reference, data, ...). Raises
    ValueError where there is no model, no reward, or options that this version does not know.
    """
    asked = {key: value for key, value in overrides.items() if value is not None}
    path = run_of(name)
    if path is None and "reward" not in asked:
        if not Path(name).exists():
            raise ValueError(f"no run at {name}; `rlhf-pg train` makes runs")
        raise ValueError(
            f"{name} is no run of `rlhf-pg train`, so what pays it is not known: give --reward"
        )
    config = replace(train_config(path) if path else TrainConfig(model=name), **asked)
    model, tokenizer = models.load(name)
    models.suit_threads(model)
    policy = with_critic(model, Path(models.model_folder(name)), config)
    origin = _origin(config.reference or config.model, name)
    reference = LanguagePolicy(origin, config.temperature, "none").requires_grad_(False)
    gold = config.gold or (FILM_NOTES_GOLD if config.data == data.FILM_NOTES else None)
    rewards = load_reward(config.reward), load_reward(gold) if gold else None
    task = Task(config, tokenizer, reference, *rewards)
    rows = data.read(config.data, "prompts", tokenizer=tokenizer)
    return Trained(path or Path(name), policy, task, rows, _last_kl_coef(path, config))


def _origin(model: str, name: str) -> Any:
    """The model that a run is held near to, whose place is kept as it was given then."""
    try:
        return models.load(model)[0]
    except ValueError as error:
        raise ValueError(
            f"{name} is measured against {model}, which cannot be read from here: go to the folder "
            f"that it was trained in ({error})"
        ) from error


def run_of(name: str) -> Path | None:
    """The folder of the text run that `name` is, or is inside of."""
    here = Path(name)
    keys = {"algorithm", "rows"}
    return next((p for p in (here, *here.parents[:2]) if keys <= set(options_of(p))), None)


def train_config(path: Path) -> TrainConfig:
    """What a run was asked for, from its config.yaml."""
    options = dict(options_of(path))
    learner = options.pop("learner", {})
    for given, known in ((options, TrainConfig), (learner, LearnerConfig)):
        strange = set(given) - {field.name for field in fields(known)}
        if strange:
            raise ValueError(
                f"{path / 'config.yaml'} has options unknown to this version: "
                f"{', '.join(sorted(strange))}"
            )
    return TrainConfig(**options, learner=LearnerConfig(**learner))


def with_critic(model: Any, folder: Path, config: TrainConfig) -> LanguagePolicy:
    """The policy of a saved model, with the critic that was saved beside it; "none" without one."""
    own = load_critic(folder / "critic") if (folder / "critic").is_dir() else None
    shared = (folder / "value_head.safetensors").is_file()
    kind = "separate" if own else config.critic if shared else "none"
    policy = LanguagePolicy(model, config.temperature, kind, own)
    policy.load_value_head(folder)
    return policy


def _last_kl_coef(path: Path | None, config: TrainConfig) -> float:
    if path is not None and (path / "metrics.jsonl").is_file():
        lines = read_jsonl(path / "metrics.jsonl")
        if lines and config.kl_target is not None:
            return float(lines[-1]["kl_coef"])
    return config.kl_coef
