"""How much reward a nat of KL buys, and when more of the proxy means less of the gold.

for each KL coefficient: train, then measure on unseen prompts
beside them: best-of-n of the base, and where every completion can be written down, the optimum
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rich.table import Table

from rlhf_pg.chart import BLUE, GREEN, ORANGE, Series, panel, picture, ticks
from rlhf_pg.language import settings, training
from rlhf_pg.language.assessment import MEASURES, EvaluateConfig, open_bench
from rlhf_pg.language.bench import Bench
from rlhf_pg.language.enumeration import enumerable, optima
from rlhf_pg.language.overoptimisation import Law, fit
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.progress import console
from rlhf_pg.runs import Run, saved_text


@dataclass
class FrontierConfig:
    """Train with several KL coefficients, and compare what each buys with best-of-n."""

    coefficients: list[float] = field(default_factory=lambda: [0.0, 0.05, 0.1, 0.2, 0.4])
    """KL coefficients, usually 4 to 8 from 0 to 0.5; each is a whole run."""
    algorithm: str = "ppo"
    """As in `rlhf-pg train`, with its settings for text."""
    model: str = "runs/base"
    """The policy to begin with: a run, a folder, or a hub name."""
    reward: str = "runs/reward"
    """The proxy to maximise, as `rlhf-pg train` takes it."""
    gold: str | None = None
    """A second reward that is only measured; film-notes has its own."""
    data: str = "film-notes"
    """Prompts: a file, folder or hub name with a `prompt` column."""
    iterations: int = 60
    """Rollouts of each run, usually 50 to 200."""
    rows: int = 64
    """Completions in a rollout, usually 32 to 512."""
    lr: float | None = None
    """Of the policy; None is the algorithm's own."""
    max_new_tokens: int = 48
    """Longest completion, EOS included."""
    temperature: float = 1.0
    """Of sampling, usually 0.7 to 1."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a completion cut at the limit, in training alone."""
    prompts: int = 100
    """At most so many prompts to measure on, usually 50 to 500."""
    samples_per_prompt: int = 4
    """Completions of each when measuring, usually 1 to 8."""
    best_of: int = 64
    """Largest n of best-of-n from the base."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes an accelerator where there is one; "cpu" does not."""
    seed: int = 0
    """Of everything."""
    output: str | None = None
    """Run folder; None takes runs/frontier, or the next free number."""


def frontier(config: FrontierConfig, rewards: Mapping[str, Reward]) -> dict[str, Any]:
    """Train, measure, fit, draw; returns what frontier.json holds.

    `rewards` holds "score", the proxy, and maybe "gold". Raises ValueError for coefficients that
    are none, negative or the same twice.
    """
    wanted = config.coefficients
    if not wanted or min(wanted) < 0 or len(set(wanted)) < len(wanted):
        raise ValueError(f"coefficients must differ and not be negative, but are {wanted}")
    if config.best_of < 1:
        raise ValueError(f"best_of must be at least 1, not {config.best_of}")
    bench, base, _ = open_bench(_measuring(config, config.model), rewards)
    run = Run.create(config.output, "frontier", config)
    result: dict[str, Any] = {"base": bench.measure(base, config.samples_per_prompt, 0, "base")[0]}
    result["best_of_n"] = bench.best_of_n(base, config.best_of, config.seed + 1, "score")
    result["trained"] = [_trained(config, c, run, bench, rewards) for c in sorted(wanted)]
    result["optimum"] = _optimum(config, bench, base)
    result["laws"] = {name: _laws(result, name) for name in rewards}
    saved_text(run.path / "frontier.json", json.dumps(result, indent=1) + "\n")
    saved_text(run.path / "frontier.svg", draw(result, list(rewards)))
    show(result, list(rewards))
    console.print(f"written to {run.path / 'frontier.json'} and frontier.svg", markup=False)
    return result


def _measuring(config: FrontierConfig, model: str) -> EvaluateConfig:
    return EvaluateConfig(
        model=model,
        base=config.model,
        data=config.data,
        prompts=config.prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        device=config.device,
    )


def _trained(
    config: FrontierConfig, kl_coef: float, run: Run, bench: Bench, rewards: Mapping[str, Reward]
) -> dict[str, float]:
    """One run with this coefficient, measured."""
    asked = settings.preset(config.algorithm)
    shared = ("model", "reward", "data", "iterations", "rows", "max_new_tokens", "temperature")
    same = {name: getattr(config, name) for name in (*shared, "missing_eos_penalty", "device")}
    folder = str(run.path / f"kl-{kl_coef:g}")
    asked = replace(asked, **same, seed=config.seed, kl_coef=kl_coef, output=folder)
    if config.lr is not None:
        asked.learner.lr = config.lr
    training.train(asked, rewards["score"], rewards.get("gold"))
    policy = open_bench(_measuring(config, folder), rewards)[1]
    found = bench.measure(policy, config.samples_per_prompt, config.seed, f"kl {kl_coef:g}")[0]
    return {"kl_coef": kl_coef, **found}


def _optimum(config: FrontierConfig, bench: Bench, base: LanguagePolicy) -> list[dict[str, float]]:
    """The exact frontier, where the task is small enough."""
    vocabulary = base.model.config.get_text_config().vocab_size
    if not enumerable(vocabulary, config.max_new_tokens, len(bench.columns["prompt"])):
        return []
    fine = [0.02 * 1.35**i for i in range(20)]
    return [
        asdict(best)
        for best in optima(
            base,
            bench.tokenizer,
            bench.columns,
            bench.rewards["score"],
            config.max_new_tokens,
            sorted({*fine, *config.coefficients}),
        )
    ]


def _laws(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Gao's laws of one score, for best-of-n and for the trained policies."""
    start = result["best_of_n"][0][name]
    found = {}
    for way, logarithmic in (("best_of_n", False), ("trained", True)):
        points = [(max(row["kl"], 0.0) ** 0.5, row[name] - start) for row in result[way]]
        law = fit(points, logarithmic)
        found[way] = asdict(law) if law else None
    return found


def draw(result: Mapping[str, Any], names: list[str]) -> str:
    """Each score against sqrt(KL): dots are measured, lines are fitted, dashes are exact (SVG)."""
    ways = {"trained": ("trained", BLUE), "best_of_n": ("best of n", ORANGE)}
    rows = [row for way in (*ways, "optimum") for row in result[way]]
    right = max(max(row["kl"], 0.0) for row in rows) ** 0.5 or 1.0
    panels = []
    for name in names:
        start = result["best_of_n"][0][name]
        series = []
        for way, (label, colour) in ways.items():
            dots = sorted((max(row["kl"], 0.0) ** 0.5, row[name]) for row in result[way])
            series.append(Series(dots, colour, label, kind="dots"))
            if law := result["laws"][name][way]:
                far = dots[-1][0]
                grid = [far * i / 60 for i in range(61)]
                series.append(Series([(d, start + Law(**law).gain(d)) for d in grid], colour))
        if name == "score" and result["optimum"]:
            best = [(row["kl"] ** 0.5, row["score"]) for row in result["optimum"]]
            series.append(Series(best, GREEN, "optimum", kind="dashed"))
        heights = [y for one in series for _, y in one.points]
        scale = (min(heights), max(heights))
        title = MEASURES.get(name, name)
        panels.append(panel(title, series, "√KL to the base", (0, right), scale, ticks(0, right)))
    return picture(panels, f"{' and '.join(names)} against the square root of the KL to the base")


def show(result: Mapping[str, Any], names: list[str]) -> None:
    """Print the points and the laws."""
    labels = [MEASURES.get(name, name) for name in names]
    table = Table("", "KL, nats", "√KL", *labels, title="What a nat buys")
    ways = [("base", result["base"])]
    ways += [(f"best of {row['n']}", row) for row in result["best_of_n"][1:]]
    ways += [(f"trained, KL coefficient {row['kl_coef']:g}", row) for row in result["trained"]]
    for way, row in ways:
        kl = max(row["kl"], 0.0)
        table.add_row(way, *(f"{x + 0:.3f}" for x in (kl, kl**0.5, *(row[n] for n in names))))
    for row in result["optimum"]:
        if row["kl_coef"] in {trained["kl_coef"] for trained in result["trained"]}:
            numbers = [f"{row['kl']:.3f}", f"{row['kl'] ** 0.5:.3f}", f"{row['score']:.3f}"]
            way = f"optimum, KL coefficient {row['kl_coef']:g}"
            table.add_row(way, *numbers, *[""] * (len(names) - 1))
    console.print(table)
    for name, label in zip(names, labels, strict=True):
        for way, law in result["laws"][name].items():
            if law:
                bend = "log d" if law["logarithmic"] else "d"
                console.print(
                    f"{label} of {way.replace('_', '-')}: gains d ({law['alpha']:.3f} "
                    f"{-law['beta']:+.3f} {bend}), d = √KL; off by {law['residual']:.3f} (rms)"
                )
