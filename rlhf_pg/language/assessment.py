"""Everything worth knowing of a trained policy, beside the model it began from.

evaluate     both of them on the same unseen prompts
win_rate     completion against completion, prompt by prompt
best_of_n    what merely choosing among the base's samples would have earned
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from rich.table import Table

from rlhf_pg.language import data, models
from rlhf_pg.language.bench import Bench, score_table, spread
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.prompts import check_prompt_lengths
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.win_rate import WinRate, win_rate
from rlhf_pg.progress import console
from rlhf_pg.runs import options_of, saved_text

MEASURES = {  # what the table shows, in this order
    "score": "reward",
    "gold": "gold",
    "kl": "KL to base, nats per completion",
    "ref_perplexity": "perplexity under the base",
    "entropy": "entropy, nats per token",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "repetition": "repeated 4-grams, share",
    "length": "length, tokens",
    "eos_rate": "EOS rate",
}


@dataclass
class EvaluateConfig:
    """Measure a policy, on prompts it was not trained on, against the model it began from."""

    model: str = "runs/ppo"
    """A run, a folder, or a hub name."""
    base: str | None = None
    """What to compare with: a run, a folder or a hub name; None is what the run began from."""
    reward: str | None = None
    """The reward, as `rlhf-pg train` takes it; None is the run's own."""
    gold: str | None = None
    """A second reward, beside it; None is the run's own, and film-notes has one."""
    data: str | None = None
    """Prompts; None takes those of the run (film-notes' test prompts, not its training ones)."""
    prompts: int = 100
    """At most so many prompts, spread over the data; usually 50 to 500."""
    samples_per_prompt: int = 4
    """Completions of each, usually 1 to 8."""
    best_of: int = 64
    """Largest n of best-of-n, drawn from the base for every prompt; 0 leaves it out."""
    max_new_tokens: int | None = None
    """Longest completion, EOS included; None is the run's own, or 48."""
    temperature: float | None = None
    """Of sampling; None is the run's own, or 1."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one; "cpu" does not."""
    seed: int = 0
    """Of the draws."""
    output: str | None = None
    """A .json file for the result; None is evaluation.json in the run, where MODEL is one."""


def with_run_options(config: EvaluateConfig) -> EvaluateConfig:
    """The configuration with what it leaves open taken from MODEL's run, and then the defaults."""
    run = options_of(config.model)
    trained = {"reward", "algorithm"} <= set(run)  # else a run of another command
    own = run if trained else {}
    filled = {
        "base": own.get("reference") or own.get("model") or config.model,
        "reward": own.get("reward"),
        "gold": own.get("gold"),
        "data": own.get("data") or data.FILM_NOTES,
        "max_new_tokens": own.get("max_new_tokens") or 48,
        "temperature": own.get("temperature") or 1.0,
    }
    asked = {name: x for name, x in asdict(config).items() if x is not None}
    return EvaluateConfig(**(asdict(config) | filled | asked))


def assess(config: EvaluateConfig, rewards: Mapping[str, Reward]) -> dict[str, Any]:
    """Measure, print the tables, write the result and return it.

    `config` is as `with_run_options` fills it. `rewards` by name: "score" and "gold", either or
    both; the first is what best-of-n chooses by. Raises ValueError for options that do not suit.
    """
    _check(config, rewards)
    bench, policy, reference = open_bench(config, rewards)
    samples, own = config.samples_per_prompt, {"model": config.model, "base": config.base}
    result: dict[str, Any] = {**own, "prompts": len(bench.columns["prompt"])}
    result["samples_per_prompt"] = samples
    result["policy"], ours = bench.measure(policy, samples, config.seed, "evaluating")
    if policy is not reference:
        result["base_policy"], theirs = bench.measure(reference, samples, config.seed, "the base")
        result["win_rate"] = {
            name: asdict(
                win_rate(score_table(ours, name, samples), score_table(theirs, name, samples))
            )
            for name in rewards
        }
    if config.best_of:
        chosen_by = next(iter(rewards))
        seed = config.seed + 1
        result["best_of_n"] = bench.best_of_n(reference, config.best_of, seed, chosen_by)
    show(result)
    _write(config, result)
    return result


def open_bench(
    config: EvaluateConfig, rewards: Mapping[str, Reward]
) -> tuple[Bench, LanguagePolicy, LanguagePolicy]:
    """The bench, the policy and its base, which are one where they are the same folder."""
    assert config.base and config.data and config.max_new_tokens and config.temperature
    device = Accelerator(cpu=config.device == "cpu").device
    model, tokenizer = models.load(config.model)
    models.suit_threads(model)
    columns = spread(data.read(config.data, "prompts", "test", tokenizer), config.prompts)
    check_prompt_lengths(model, tokenizer, columns["prompt"], config.max_new_tokens)
    policy = LanguagePolicy(model, config.temperature, "none").to(device)
    reference = policy
    if Path(models.model_folder(config.base)) != Path(models.model_folder(config.model)):
        origin = models.load(config.base)[0]
        reference = LanguagePolicy(origin, config.temperature, "none").to(device)
    bench = Bench(reference, tokenizer, columns, dict(rewards), config.max_new_tokens)
    return bench, policy, reference


def show(result: Mapping[str, Any]) -> None:
    """Print what `assess` found."""
    many = f"{result['prompts']} prompts × {result['samples_per_prompt']}"
    ways = {"policy": result["policy"]}
    if "base_policy" in result:
        ways["base"] = result["base_policy"]
    table = Table(many, *ways, title=str(result["model"]).replace("[", r"\["))
    for key, label in MEASURES.items():
        if key in result["policy"]:
            table.add_row(label, *(f"{means[key] + 0:.3f}" for means in ways.values()))
    console.print(table)
    for name, found in result.get("win_rate", {}).items():
        won = WinRate(**found)
        console.print(
            f"win rate against the base by {MEASURES.get(name, name)}: {won.rate:.1%}, "
            f"95 % interval {won.low:.1%} to {won.high:.1%} (Wilson, {won.prompts} prompts; "
            "a tie counts half)"
        )
    if "best_of_n" in result:
        _show_best_of_n(result["best_of_n"])


def _show_best_of_n(rows: list[dict[str, float]]) -> None:
    names = [name for name in rows[0] if name not in ("n", "kl", "kl_bound")]
    labels = [MEASURES.get(name, name) for name in names]
    table = Table("best of n", "KL, nats", "log n - (n-1)/n", *labels, title="The base's best of n")
    for row in rows:
        numbers = [row[key] for key in ("kl", "kl_bound", *names)]
        table.add_row(str(row["n"]), *(f"{number + 0:.3f}" for number in numbers))
    console.print(table)
    console.print("The KL is exact for a continuous reward, and less than the bound where it ties.")


def _write(config: EvaluateConfig, result: Mapping[str, Any]) -> None:
    run = Path(config.model)
    if config.output is None and not (run / "config.yaml").is_file():
        return
    path = Path(config.output) if config.output else run / "evaluation.json"
    saved_text(path, json.dumps(result, indent=1) + "\n")
    console.print(f"written to {path}", markup=False)


def _check(config: EvaluateConfig, rewards: Mapping[str, Reward]) -> None:
    for name in ("prompts", "samples_per_prompt", "max_new_tokens"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(config, name)}")
    if config.best_of < 0:
        raise ValueError(f"best_of must be 0 or more, not {config.best_of}")
    if not rewards:
        raise ValueError(f"{config.model} was trained toward no reward: name one with --reward")
