"""`rlhf-pg study credit`: each token's advantage by the critic, beside the true one.

A run's policy completes some of its prompts; every prefix is then continued many times, which gives
the true value there without a critic. Where all completions can be written down, it is exact.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from rlhf_pg.language import tokens
from rlhf_pg.language.enumeration import enumerable
from rlhf_pg.language.prompts import check_prompt_lengths, spread
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.trained import Trained, open_trained
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import saved_text
from rlhf_pg.study.agreement import agreement
from rlhf_pg.study.truth import Truth, by_continuation, by_enumeration


@dataclass
class CreditConfig:
    """Compare a policy's advantages, token by token, with the true ones."""

    run: str = "runs/ppo"
    """A run, a model inside one, or any model where --reward is given."""
    completions: int = 32
    """How many to look at, usually 16 to 200; of prompts spread over the data."""
    continuations: int = 64
    """Of every prefix, usually 32 to 512; the error of a true value falls with their root."""
    reward: str | None = None
    """What pays, as `rlhf-pg train` takes it; None is the run's own."""
    data: str | None = None
    """Prompts; None takes the run's."""
    reference: str | None = None
    """What the KL is measured to; None is the run's own."""
    max_new_tokens: int | None = None
    """Longest completion, EOS included; None takes the run's."""
    seed: int = 0
    """Of the draws."""
    output: str | None = None
    """Folder of credit.jsonl and credit.json; None is the run's own, where they are replaced."""


def main(config: CreditConfig, load_reward: Callable[[str], Reward]) -> dict[str, Any]:
    """Measure, print how well they agree, and save the records and the agreement."""
    trained = open_trained(
        config.run,
        load_reward,
        reward=config.reward,
        data=config.data,
        reference=config.reference,
        max_new_tokens=config.max_new_tokens,
    )
    records, found = measure(trained, config.completions, config.continuations, config.seed)
    folder = Path(config.output) if config.output else trained.path
    save(folder, records, found)
    show(found)
    console.print(f"saved in {folder}: credit.jsonl, credit.json", markup=False)
    return found


def measure(
    trained: Trained, count: int, continuations: int, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records of `count` completions with the true value of every token, and the agreement."""
    if count < 1:
        raise ValueError(f"completions must be at least 1, not {count}")
    task, policy, learner = trained.task, trained.policy, trained.task.config.learner
    group = task.config.samples_per_prompt
    columns = spread(trained.prompts, max(1, count // group), group)
    check_prompt_lengths(
        policy.model, task.tokenizer, columns["prompt"], task.config.max_new_tokens
    )
    generator = torch.Generator().manual_seed(seed)
    answers = task.answer(policy, columns, generator, trained.kl_coef)
    records = tokens.episodes(policy, task.tokenizer, answers, learner)
    vocabulary = policy.model.config.get_text_config().vocab_size
    prompts = len(set(columns["prompt"]))
    if enumerable(vocabulary, task.config.max_new_tokens, prompts):
        truth = by_enumeration(policy, task, answers, columns)
    else:
        with Progress(int(answers.done.mask.sum()), "continuing from every prefix") as progress:
            truth = by_continuation(
                policy, task, answers, columns, continuations, generator, progress.update
            )
    _add(records, truth)
    how = {"exact": truth.exact, "continuations": 0 if truth.exact else continuations}
    return records, {**how, **agreement(records, learner.lam)}


def _add(records: list[dict[str, Any]], truth: Truth) -> None:
    """Put the truth beside each token."""
    columns = {
        "true_value": truth.values,
        "true_value_se": truth.value_errors,
        "true_advantage": truth.advantages,
        "true_advantage_se": truth.advantage_errors,
    }
    for i, record in enumerate(records):
        for t, token in enumerate(record["tokens"]):
            token |= {name: round(float(x[i, t]), tokens.DIGITS) for name, x in columns.items()}


def save(folder: Path, records: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Write credit.jsonl and credit.json, each whole or not at all."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    saved_text(folder / "credit.jsonl", "".join(lines))
    saved_text(folder / "credit.json", json.dumps(found, indent=1) + "\n")


def show(found: dict[str, Any]) -> None:
    """The agreement as a table, and a sentence that reads it."""
    how = "exact values" if found["exact"] else f"{found['continuations']} continuations a prefix"
    table = Table(
        "λ of GAE", "correlation", "noise taken off", "right sign", "rms error",
        title=f"Advantages against the truth: {found['tokens']:,} tokens of "
        f"{found['completions']} completions, {how}",
    )  # fmt: skip
    names = ("correlation", "corrected_correlation", "sign_agreement", "rmse")
    for row in found["gae"]:
        style = "bold" if row["lam"] == found["lam"] else None
        table.add_row(f"{row['lam']:g}", *(_number(row[name]) for name in names), style=style)
    console.print(table)
    console.print(
        f"The critic's V against the true V: correlation {_number(found['value_correlation'])}, "
        f"bias {found['value_bias']:+.3f}. In bold, the run's own λ."
    )
    console.print(_positions(found))


def _positions(found: dict[str, Any], groups: int = 6) -> Table:
    """The error by place in the completion, neighbouring places together."""
    places = found["by_position"]
    size = -(-len(places) // groups)
    table = Table(
        "tokens", "how many", "rms error", "bias", "noise of the truth",
        title=f"GAE({found['lam']:g}) by position",
    )  # fmt: skip
    for start in range(0, len(places), size):
        some = places[start : start + size]
        table.add_row(
            f"{some[0]['position'] + 1} to {some[-1]['position'] + 1}",
            f"{sum(place['tokens'] for place in some):,}",
            f"{_mean(some, 'rmse', 2):.3f}",
            f"{_mean(some, 'bias'):+.3f}",
            f"{_mean(some, 'noise', 2):.3f}",
        )
    return table


def _mean(places: list[dict[str, float]], name: str, power: int = 1) -> float:
    """The mean over their tokens; of the squares, and its root, for `power` 2."""
    count = sum(place["tokens"] for place in places)
    total = sum(place["tokens"] * place[name] ** power for place in places)
    return float((total / count) ** (1 / power)) if power > 1 else total / count


def _number(x: float | None) -> str:
    return "–" if x is None else f"{x:.3f}"
