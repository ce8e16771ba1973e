"""How good a policy is, on prompts it was not trained on, beside its initial model.

evaluate     means over completions: rewards, KL, entropy, diversity
win_rate     completion against completion, prompt by prompt
best_of_n    what selecting among the base model's samples would have reached
assess       `rlhf-pg evaluate`: all three, printed and saved
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from reward_models.files import saved_text
from reward_models.guard import time_limit
from reward_models.loading import load_reward
from reward_models.pretrained import limit_threads, usable_device
from reward_models.rules import FILM_NOTES_GOLD
from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language import data, models
from rlhf_pg.language.check import check_model
from rlhf_pg.language.config import FILM_NOTES, EvaluateConfig, train_config
from rlhf_pg.language.loaded import RUN_OPTIONS, remembered, run_folder
from rlhf_pg.language.policy import LanguagePolicy, Reference
from rlhf_pg.language.rollout import (
    Reward,
    completion_rows,
    kl_per_token,
    reference_logprobs,
    score_completions,
    unscored,
)
from rlhf_pg.language.sampling import sample
from rlhf_pg.memory import check_fits
from rlhf_pg.progress import Progress, console
from rlhf_pg.trust import check

MEASURES = {  # rows of the table, in this order
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


ROW_BYTES = 500  # at least, of a measured completion: its text and numbers


@dataclass
class Bench:
    """Prompts, rewards and reference, the same for every policy that is measured."""

    reference: Reference
    tokenizer: Any
    columns: data.Rows
    rewards: dict[str, Reward]  # by name: "score", "gold"
    max_new_tokens: int
    reward_timeout: float | None = None  # seconds

    def measure(
        self, policy: LanguagePolicy, samples: int, seed: int, title: str
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """The policy's means and completions, `samples` of each prompt in a row."""
        columns = data.repeated(self.columns, range(len(self.columns["prompt"])), samples)
        with Progress(len(columns["prompt"]), title) as progress:
            return evaluate(self, policy, columns, seed, progress=progress.update)

    def best_of_n(
        self, policy: LanguagePolicy, most: int, seed: int, chosen_by: str
    ) -> list[dict[str, float]]:
        """For n = 1, 2, 4, ... `most`: KL, its upper bound, and the mean of each reward.

        The best is the one of highest `chosen_by`. `most` samples of each prompt are drawn, or
        more if there are few prompts. Prompts with a sample without a score are left out; raises
        ValueError if that leaves none.
        """
        samples = _pool_size(most, self.columns)
        pool = self.measure(policy, samples, seed, f"best of {most}")[1]
        scores = score_table(pool, chosen_by, samples)
        values = {name: score_table(pool, name, samples) for name in self.rewards}
        whole = ~torch.stack([x.isnan().any(1) for x in values.values()]).any(0)
        if not whole.any():
            raise ValueError(
                "best-of-n needs the scores of all samples of a prompt, and no prompt has them (a "
                "reward gave None): set --best_of 0"
            )
        scores, values = scores[whole], {name: x[whole] for name, x in values.items()}
        return [
            {
                "n": n,
                "kl": float(pool_kl(scores, n).mean()),
                "kl_bound": kl_bound(n),
                **{name: float(best_of_n(scores, x, n).mean()) for name, x in values.items()},
            }
            for n in (2**i for i in range(most.bit_length()))
        ]


def _pool_size(most: int, columns: data.Rows) -> int:
    """Samples of each prompt for best-of-n up to n = `most`."""
    return most * max(1, 64 // len(columns["prompt"]))


@torch.no_grad()
def evaluate(
    bench: Bench,
    policy: LanguagePolicy,
    columns: data.Rows,
    seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over one completion of each row of `columns`, and a row per completion.

    KL(policy || reference) is in nats per completion, entropy in nats per token; `ref_perplexity`
    is the reference's perplexity per token of what the policy wrote. `progress` is called with the
    number of completions so far.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    entropy = surprise = tokens = 0.0
    for start in range(0, len(columns["prompt"]), batch_size):
        part = {name: values[start : start + batch_size] for name, values in columns.items()}
        completions = sample(
            policy, bench.tokenizer, part["prompt"], bench.max_new_tokens, generator
        )
        with time_limit(bench.reward_timeout, "--reward_timeout"):
            scores = {
                name: score_completions(reward, completions, part)[0]
                for name, reward in bench.rewards.items()
            }
        ref_logprobs = reference_logprobs(bench.reference, completions)
        kl = kl_per_token(completions, ref_logprobs).sum(1)
        rows += completion_rows(completions, {**scores, "kl": kl})
        entropies = policy.evaluate(unscored(completions)).entropies
        entropy += float(zero_padding(entropies, completions.mask).sum())
        surprise -= float(zero_padding(ref_logprobs, completions.mask).sum())
        tokens += float(completions.mask.sum())
        if progress:
            progress(len(rows))
    texts = [row["completion"] for row in rows]
    means = {name: _mean(row[name] for row in rows) for name in [*bench.rewards, "kl"]}
    means |= {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "repetition": repetition(texts),
        "eos_rate": _mean(row["finished"] for row in rows),
        "length": _mean(row["length"] for row in rows),
        "ref_perplexity": math.exp(min(surprise / tokens, 700.0)),
        "entropy": entropy / tokens,
    }
    return means, rows


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of word n-grams that are distinct, over all texts together (Li et al. 2016).

    It falls with the number of texts: compare only samples of one size.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """Mean share of a text's word n-grams that occurred before in it (Welleck et al. 2019)."""
    shares = []
    for text in texts:
        grams = _grams(text, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return _mean(shares)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _mean(values: Any) -> float:
    """The mean of the values that are not None (no score)."""
    numbers = [float(value) for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else 0.0


def score_table(rows: list[dict[str, Any]], name: str, samples: int) -> Tensor:
    """One reward of the rows as (P, samples), float64; NaN where there is no score."""
    scores = [math.nan if row[name] is None else row[name] for row in rows]
    return torch.tensor(scores, dtype=torch.float64).reshape(-1, samples)


# Best-of-n: sample n completions of a prompt and keep the one with the highest score. It needs no
# gradient, and its KL to the policy is known. `scores` are (P, N): a pool of N samples of each of
# P prompts serves every n up to N.


def best_of_n(scores: Tensor, values: Tensor, n: int) -> Tensor:
    """E[value of the sample with the highest score among n] of each prompt, (P,), unbiased.

    The mean over all n-subsets of the pool: in rising order, the i-th sample is the best of
    C(i-1, n-1) of the C(N, n) subsets. Samples of equal score share these weights equally.
    `values` (P, N) may be the scores or anything else measured on the same samples. Raises
    ValueError if the pool is smaller than n.
    """
    if not 1 <= n <= scores.shape[1]:
        raise ValueError(
            f"best-of-{n} needs n between 1 and the {scores.shape[1]} samples of each prompt; "
            "draw a larger pool"
        )
    return (_chosen(scores.double(), n) * values.double()).sum(1)


def best_of_n_kl(probabilities: Tensor, n: int) -> float:
    """The exact KL(best-of-n || policy), nats, for a reward that takes few values.

    `probabilities` are the policy's of each value, in rising order of the reward. With F the
    distribution function, the best of n has the value i with probability F_i^n - F_{i-1}^n. Ties
    make it smaller than log n - (n-1)/n (Beirami et al. 2024, arXiv 2401.01879).
    """
    above = probabilities.double().cumsum(0)
    return float(_kl_of_ties(above - probabilities.double(), above, n).sum())


def pool_kl(scores: Tensor, n: int) -> Tensor:
    """KL(best-of-n || policy) of each prompt, (P,), nats, estimated from its pool of samples.

    A score that several samples share is an outcome of that frequency (the plug-in of
    `best_of_n_kl`); a score that occurs once is a piece of a continuous distribution. Without ties
    this is log n - (n-1)/n, exact for a continuous reward; it is never above that.
    """
    kls = []
    for row in scores.double():
        count = row.unique(return_counts=True)[1].double() / len(row)
        above = count.cumsum(0)
        below = above - count
        alone = count * len(row) < 1.5
        kls.append(torch.where(alone, _kl_alone(below, above, n), _kl_of_ties(below, above, n)))
    return torch.stack([kl.sum() for kl in kls])


def kl_bound(n: int) -> float:
    """log n - (n-1)/n: the KL of best-of-n without ties, and an upper bound with them."""
    return math.log(n) - (n - 1) / n


def _chosen(scores: Tensor, n: int) -> Tensor:
    """P(this sample is the best of a random n-subset of its prompt's pool), (P, N)."""
    size = scores.shape[1]
    rank = torch.arange(size, 0, -1, dtype=torch.float64)  # of the best first
    # C(i-2, n-1) / C(i-1, n-1) = (i-n) / (i-1) takes each weight to the next one below.
    ratio = ((rank[:-1] - n).clamp(min=0) / (rank[:-1] - 1)) if size > 1 else rank[:0]
    weights = n / size * torch.cat([torch.ones(1, dtype=torch.float64), ratio.cumprod(0)])
    placed = torch.empty_like(scores)
    for row, own in enumerate(scores):
        order = own.argsort(descending=True)
        tied = own[order].unique_consecutive(return_inverse=True)[1]
        sums = torch.zeros(size, dtype=torch.float64).index_add(0, tied, weights)
        counts = torch.zeros(size, dtype=torch.float64).index_add(0, tied, torch.ones_like(weights))
        placed[row, order] = (sums / counts)[tied]
    return placed


def _kl_of_ties(below: Tensor, above: Tensor, n: int) -> Tensor:
    """q log(q / p) of outcomes with probability p = above - below, q that of the best of n."""
    p, q = above - below, above**n - below**n
    return torch.where(q > 0, q * (q / p).log(), torch.zeros_like(q))


def _kl_alone(below: Tensor, above: Tensor, n: int) -> Tensor:
    """The integral of n u^(n-1) log(n u^(n-1)) du from below to above."""

    def primitive(u: Tensor) -> Tensor:
        log_u = u.clamp(min=1e-300).log()
        return u**n * (math.log(n) + (n - 1) * (log_u - 1 / n))

    return primitive(above) - primitive(below)


@dataclass
class WinRate:
    """A share in [0, 1] with its 95 % interval, over so many prompts."""

    rate: float
    low: float
    high: float
    prompts: int


def win_rate(ours: Tensor, theirs: Tensor) -> WinRate:
    """P(our completion scores higher than theirs), from scores (P, K) and (P, L) of P prompts.

    Paired by prompt: all K x L pairs of a prompt are compared, and a tie counts half. Pairs with a
    NaN (no score) are left out, as are prompts without any other pair. The interval
    is Wilson's (1927) with the prompts as trials, since completions of one prompt are not
    independent. Ties and several samples lower the variance of a prompt's share, so the interval
    is conservative.
    """
    difference = ours[:, :, None] - theirs[:, None, :]
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()
    compared = (~difference.isnan()).double().sum((1, 2))
    shares = (wins.sum((1, 2)) / compared)[compared > 0]
    if not len(shares):
        return WinRate(0.5, 0.0, 1.0, 0)
    rate = float(shares.mean())
    return WinRate(rate, *wilson(rate, len(shares)), prompts=len(shares))


def wilson(rate: float, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; `z` 1.96 is 95 %. Not empty even at 0 and 1."""
    squeeze = 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / squeeze
    half = z / squeeze * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


# `rlhf-pg evaluate`


def with_run_options(config: EvaluateConfig) -> EvaluateConfig:
    """The configuration with unset options taken from MODEL's run, then from the defaults.

    Raises ValueError if the run is of unknown origin and names something to load.
    """
    folder = run_folder(config.model)
    own = train_config(folder) if folder else None
    given = {name: x for name, x in asdict(config).items() if x is not None}
    named = {name: given.get(name) for name in RUN_OPTIONS}
    found = remembered(config.model, named, config.trust, ("reward", "gold", "data"))
    kept = [folder / name for name in ("reference", "initial")] if folder else []
    base = next((str(path) for path in kept if path.is_dir()), None)
    filled = {
        "base": base or (own and (own.reference or own.model)) or config.model,
        "data": FILM_NOTES,
        "max_new_tokens": 48,
        "temperature": 1.0,
    }
    if folder and "base" not in given:
        check(folder, {"base": filled["base"]}, config.trust, flags=("base",))
    return EvaluateConfig(**(asdict(config) | filled | found | given))


def assess(config: EvaluateConfig) -> dict[str, Any]:
    """Measure, print the tables, write the result and return it (`rlhf-pg evaluate`).

    Best-of-n selects by the reward, or by the gold if there is no reward. Raises ValueError for
    options out of range, or if no reward is known.
    """
    config = with_run_options(config)
    film_notes = FILM_NOTES_GOLD if config.data == FILM_NOTES else None
    specs = {"score": config.reward, "gold": config.gold or film_notes}
    rewards = {name: load_reward(spec) for name, spec in specs.items() if spec}
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
    """The bench, the policy and its base model; both are one object if they are one folder."""
    assert config.base and config.data and config.max_new_tokens and config.temperature
    device = usable_device("cpu" if config.device == "cpu" else None)
    model, tokenizer = models.load(config.model)
    limit_threads(model)
    columns = data.read(config.data, "prompts", "test", tokenizer, config.columns)
    columns = data.spread(columns, config.prompts)
    data.check_prompt_lengths(model, tokenizer, columns["prompt"], config.max_new_tokens)
    samples = max(config.samples_per_prompt, _pool_size(config.best_of, columns))
    count = samples * len(columns["prompt"])
    lower = "--prompts, --samples_per_prompt or --best_of"
    check_fits(count * ROW_BYTES, f"measuring {count:,} completions", lower)
    policy = LanguagePolicy(model, config.temperature, "none").to(device)
    limit = config.max_new_tokens
    check_model(policy, tokenizer, columns["prompt"], limit, config.model)
    reference = policy
    if Path(models.model_folder(config.base)) != Path(models.model_folder(config.model)):
        origin, other = models.load(config.base)
        models.check_same_vocabulary(tokenizer, other, f"the base {config.base}")
        reference = LanguagePolicy(origin, config.temperature, "none").to(device)
        check_model(reference, tokenizer, columns["prompt"], limit, config.base)
    bench = Bench(reference, tokenizer, columns, dict(rewards), config.max_new_tokens)
    return bench, policy, reference


def show(result: Mapping[str, Any]) -> None:
    """Print the tables of a result of `assess`."""
    many = f"{result['prompts']} prompts × {result['samples_per_prompt']}"
    ways = {"policy": result["policy"]}
    if "base_policy" in result:
        ways["base"] = result["base_policy"]
    table = Table(many, *ways, title=Text(str(result["model"])))
    for key, label in MEASURES.items():
        if key in result["policy"]:
            table.add_row(label, *(f"{means[key] + 0:.3f}" for means in ways.values()))
    console.print(table)
    for name, rate in result.get("win_rate", {}).items():
        won = WinRate(**rate)
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
    if not rewards:
        raise ValueError(f"{config.model} was trained toward no reward: name one with --reward")
