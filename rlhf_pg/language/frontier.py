"""Reward against KL: trained policies, best-of-n, the optimum, and the laws of over-optimisation.

for each KL coefficient: train, then measure on unseen prompts
for comparison: best-of-n of the initial policy and, if completions can be enumerated, the optimum

With d = sqrt(KL(policy || base)), a score gains d (alpha - beta d) by best-of-n and
d (alpha - beta log d) by reinforcement learning (Gao et al. 2022, arXiv 2210.10760). alpha is the
slope at the start, beta the loss by over-optimisation: near 0 for the learned reward, not for the
gold.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.table import Table

from reward_models.files import saved_text
from reward_models.loading import load_reward
from reward_models.rules import FILM_NOTES_GOLD
from rlhf_pg.chart import BLUE, GREEN, ORANGE, Series, panel, picture, ticks
from rlhf_pg.language import config as settings
from rlhf_pg.language.config import FILM_NOTES, EvaluateConfig, FrontierConfig, TrainConfig
from rlhf_pg.language.enumeration import enumerable, optima
from rlhf_pg.language.evaluate import MEASURES, Bench, open_bench
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reward
from rlhf_pg.language.train import train
from rlhf_pg.progress import console
from rlhf_pg.runs import Run, discarded_if_empty


@dataclass
class Law:
    """gain(d) = d (alpha - beta d), or d (alpha - beta log d) where `logarithmic`."""

    alpha: float
    beta: float
    logarithmic: bool
    residual: float  # root mean square, in units of the score

    def gain(self, d: float) -> float:
        """The gain in score at distance d."""
        if d <= 0:
            return 0.0
        bend = float(torch.tensor(d).log()) if self.logarithmic else d
        return d * (self.alpha - self.beta * bend)


def fit(points: Sequence[tuple[float, float]], logarithmic: bool) -> Law | None:
    """The least-squares law through points (d, gain); None for fewer than two with d > 0."""
    kept = [(d, gain) for d, gain in points if d > 1e-3]
    if len({d for d, _ in kept}) < 2:
        return None
    d, gain = torch.tensor(kept, dtype=torch.float64).unbind(1)
    shapes = torch.stack([d, -d * (d.log() if logarithmic else d)], dim=1)
    found = torch.linalg.lstsq(shapes, gain[:, None]).solution[:, 0]
    residual = (shapes @ found - gain).square().mean().sqrt()
    return Law(float(found[0]), float(found[1]), logarithmic, float(residual))


def frontier(config: FrontierConfig) -> dict[str, Any]:
    """Train, measure, fit, draw; returns the content of frontier.json.

    Raises ValueError for coefficients that are missing, negative or repeated.
    """
    wanted = config.coefficients
    if not wanted or len({_folder_name(c) for c in wanted}) < len(wanted):
        raise ValueError(f"coefficients must be different numbers, not {wanted}")
    gold = config.gold or (FILM_NOTES_GOLD if config.data == FILM_NOTES else None)
    specs = {"score": config.reward, "gold": gold}
    rewards = {name: load_reward(spec) for name, spec in specs.items() if spec}
    for coefficient in wanted:
        settings.check(_training(config, coefficient))
    bench, base, _ = open_bench(_measuring(config, config.model), rewards)
    run = Run.create(config.output, "frontier", config)
    samples, result = config.samples_per_prompt, dict[str, Any]()
    with discarded_if_empty(run):
        result["base"] = bench.measure(base, samples, 0, "base")[0]
        result["best_of_n"] = bench.best_of_n(base, config.best_of, config.seed + 1, "score")
        result["trained"] = [_trained(config, c, run, bench, rewards) for c in sorted(wanted)]
    result["optimum"] = _optimum(config, bench, base)
    result["laws"] = {name: _laws(result, name) for name in rewards}
    saved_text(run.path / "frontier.json", json.dumps(result, indent=1) + "\n")
    saved_text(run.path / "frontier.svg", draw(result, list(rewards)))
    show(result, list(rewards))
    console.print(f"written to {run.path / 'frontier.json'} and frontier.svg", markup=False)
    return result


def _folder_name(kl_coef: float) -> str:
    return f"kl-{kl_coef:g}"


def _measuring(config: FrontierConfig, model: str) -> EvaluateConfig:
    return EvaluateConfig(
        model=model,
        base=config.model,
        data=config.data,
        columns=config.columns,
        prompts=config.prompts,
        samples_per_prompt=config.samples_per_prompt,
        best_of=config.best_of,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        device=config.device,
    )


def _trained(
    config: FrontierConfig, kl_coef: float, run: Run, bench: Bench, rewards: Mapping[str, Reward]
) -> dict[str, float]:
    """Means of one run with this coefficient."""
    folder = str(run.path / _folder_name(kl_coef))
    train(replace(_training(config, kl_coef), output=folder))
    policy = open_bench(_measuring(config, folder), rewards)[1]
    title = f"kl {kl_coef:g}"
    means = bench.measure(policy, config.samples_per_prompt, config.seed, title)[0]
    return {"kl_coef": kl_coef, **means}


def _training(config: FrontierConfig, kl_coef: float) -> TrainConfig:
    """Options of one run with this coefficient."""
    shared = (
        "model",
        "reward",
        "data",
        "columns",
        "iterations",
        "rows",
        "max_new_tokens",
        "temperature",
    )
    same = {name: getattr(config, name) for name in (*shared, "missing_eos_penalty", "device")}
    options = replace(
        settings.preset(config.algorithm),
        **same,
        gold=config.gold,
        seed=config.seed,
        kl_coef=kl_coef,
    )
    if config.lr is not None:
        options.learner.lr = config.lr
    return options


def _optimum(config: FrontierConfig, bench: Bench, base: LanguagePolicy) -> list[dict[str, float]]:
    """The exact frontier, if the task is small enough to enumerate."""
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
    laws = {}
    for way, logarithmic in (("best_of_n", False), ("trained", True)):
        points = [(max(row["kl"], 0.0) ** 0.5, row[name] - start) for row in result[way]]
        law = fit(points, logarithmic)
        laws[way] = asdict(law) if law else None
    return laws


def draw(result: Mapping[str, Any], names: list[str]) -> str:
    """Each score against sqrt(KL), as SVG: dots are measured, lines fitted, dashes exact."""
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
    table = Table("", "KL, nats", "√KL", *labels, title="Reward against KL")
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
