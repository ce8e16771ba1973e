"""`rlhf-pg study credit`: estimated advantages of every token, compared with the true ones.

The policy of a run completes some of its prompts, and the true advantages of the tokens are
measured without a critic (true_values). The comparison says how much of what GAE credits to a
token is right.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from reward_models.files import reward_model_folder, saved_text
from rlhf_pg.core.returns import gae
from rlhf_pg.language import data, token_records
from rlhf_pg.language.enumeration import enumerable
from rlhf_pg.language.loaded import LoadedRun, open_run
from rlhf_pg.language.rollout import all_scored
from rlhf_pg.progress import Progress, console, number
from rlhf_pg.reading import FLAG, NUMBER, Shape
from rlhf_pg.study.config import CreditConfig
from rlhf_pg.study.reward_credit import reward_credit
from rlhf_pg.study.true_values import TrueValues, continued_values, enumerated_values

Records = Sequence[dict[str, Any]]  # as documented in runs.EPISODE and runs.TOKEN

LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
CLEAR = 2.0  # a true advantage has a sign if it is so many standard errors from 0

# The numbers in credit.json, over the tokens of all completions.
AGREEMENT: dict[str, str] = {
    "correlation": "Pearson correlation of estimated and measured true advantages",
    "corrected_correlation": "the same corrected for the noise of the measurement (Spearman 1904): "
    "divided by sqrt(1 - mean squared standard error / variance of the measured values)",
    "sign_agreement": "share of tokens whose estimate has the right sign, among those whose true "
    f"advantage is {CLEAR:g} standard errors from 0",
    "rmse": "root mean squared error of the estimate, with the noise of the measurement removed",
    "bias": "mean of estimate - true advantage",
    "noise": "root mean squared standard error of the measured true advantages",
    "advantage": "the same numbers of the advantage that the learner used; with a critic, gae has "
    "them at the run's lambda too",
    "value_correlation": "correlation of the critic's V with the true V",
    "value_bias": "mean of V - true V",
}
AGREEMENT_SHAPE: Shape = {  # of credit.json
    "exact": FLAG,
    "gae": [{"lam!": NUMBER, "*": NUMBER}],
    "advantage": {"*": NUMBER},
    "by_position": [{"*": NUMBER}],
    "*": NUMBER,
}


def credit(config: CreditConfig) -> dict[str, Any]:
    """Measure a run, print the agreement, and write credit.jsonl and credit.json.

    A reward model has a credit of its own: what each token adds to its score.
    """
    if reward_model_folder(config.run):
        return {"texts": reward_credit(config)}
    run = open_run(
        config.run,
        config.trust,
        reward=config.reward,
        data=config.data,
        reference=config.reference,
        max_new_tokens=config.max_new_tokens,
    )
    records, result = measure(run, config.completions, config.continuations, config.seed)
    folder = Path(config.output) if config.output else run.path
    save(folder, records, result)
    show(result)
    console.print(f"saved in {folder}: credit.jsonl, credit.json", markup=False)
    return result


def measure(
    run: LoadedRun, count: int, continuations: int, seed: int = 0
) -> tuple[Records, dict[str, Any]]:
    """Records of `count` completions with true advantages, and their agreement.

    True values are exact if the completions can be enumerated; otherwise every prefix is continued
    `continuations` times. Raises ValueError for fewer than two continuations.
    """
    config, learner, group = run.config, run.config.learner, run.config.samples_per_prompt
    columns = data.spread(run.prompts, max(1, count // group), group)
    data.check_prompt_lengths(
        run.policy.model, run.tokenizer, columns["prompt"], config.max_new_tokens
    )
    generator = torch.Generator().manual_seed(seed)
    # The steps of a training iteration before the update: sample, score, rollout, advantages.
    completions = run.complete(columns, generator)
    scores = run.score(completions, columns)
    all_scored(scores.shaped, completions)
    rollout, ref_logprobs = run.rollout(completions, scores.rewards)
    records = token_records.episodes(
        run.policy,
        run.tokenizer,
        completions,
        scores,
        ref_logprobs,
        rollout,
        learner,
        run.kl_coef,
        run.constant_baseline,
    )
    # The true value of every prefix, without the critic.
    vocabulary = run.policy.model.config.get_text_config().vocab_size
    if enumerable(vocabulary, config.max_new_tokens, len(set(columns["prompt"]))):
        true = enumerated_values(run, completions, rollout, columns)
    else:
        with Progress(int(completions.mask.sum()), "continuing every prefix") as progress:
            true = continued_values(
                run, completions, rollout, columns, continuations, generator, progress.update
            )
    add_true_values(records, true)
    method = {"exact": true.exact, "continuations": 0 if true.exact else continuations}
    return records, {**method, **agreement(records, learner.lam)}


def add_true_values(records: Records, true: TrueValues) -> None:
    """Add true values, true advantages and their standard errors to the tokens' records."""
    columns = {
        "true_value": true.values,
        "true_value_se": true.value_errors,
        "true_advantage": true.advantages,
        "true_advantage_se": true.advantage_errors,
    }
    for i, record in enumerate(records):
        for t, token in enumerate(record["tokens"]):
            for name, x in columns.items():
                token[name] = round(float(x[i, t]), token_records.DIGITS)


def save(folder: Path, records: Records, result: dict[str, Any]) -> None:
    """Write credit.jsonl and credit.json, each whole or not at all."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    saved_text(folder / "credit.jsonl", "".join(lines))
    saved_text(folder / "credit.json", json.dumps(result, indent=1) + "\n")


def agreement(records: Records, lam: float) -> dict[str, Any]:
    """The numbers of AGREEMENT from records with true advantages, by lambda and by position.

    With a critic, GAE is computed from the records' rewards and values; `lam` is the lambda of the
    table by position. Without one, there is no GAE: "gae" is empty, and the table is that of the
    recorded advantages. Raises ValueError if no token has a true advantage.
    """
    measured = [r for r in records if r["tokens"] and "true_advantage" in r["tokens"][0]]
    if not measured:
        raise ValueError("no record has true advantages; `rlhf-pg study credit` measures them")
    true, errors = _column(measured, "true_advantage"), _column(measured, "true_advantage_se")
    values, true_values = _column(measured, "value"), _column(measured, "true_value")
    critic = measured[0].get("baseline", "critic") == "critic"
    gae_of_run = _gae(measured, lam)
    recorded = all("advantage" in record["tokens"][0] for record in measured)
    used = _column(measured, "advantage") if recorded else gae_of_run
    lambdas = sorted({*LAMBDAS, lam}) if critic else []
    return {
        "completions": len(measured),
        "tokens": len(true),
        "lam": lam,
        "gae": [{"lam": x, **_compare(_gae(measured, x), true, errors)} for x in lambdas],
        "advantage": _compare(used, true, errors),
        "by_position": _by_position(measured, gae_of_run if critic else used, true, errors),
        "value_correlation": _correlation(values, true_values) if critic else None,
        "value_bias": float((values - true_values).mean()) if critic else None,
    }


def _compare(estimate: Tensor, true: Tensor, errors: Tensor) -> dict[str, float | None]:
    noise = float((errors**2).mean())
    # The measured values vary by the true ones' variance plus noise; this is the true share.
    reliability = 1 - noise / max(float(true.var()), 1e-30) if len(true) > 1 else 0.0
    correlation, corrected = _correlation(estimate, true), None
    if correlation is not None and reliability > 0:
        corrected = correlation / reliability**0.5
    # Signs are compared only where noise alone would hardly turn the measured one.
    clear = true.abs() > CLEAR * errors
    same_sign = (estimate.sign() == true.sign())[clear].double()
    return {
        "correlation": correlation,
        "corrected_correlation": corrected,
        "sign_agreement": float(same_sign.mean()) if len(same_sign) else None,
        "rmse": _rmse(estimate - true, noise),
    }


def _by_position(
    records: Records, estimate: Tensor, true: Tensor, errors: Tensor
) -> list[dict[str, float]]:
    """The errors of the tokens at each position of a completion."""
    rows: dict[int, list[int]] = defaultdict(list)
    positions = [t for record in records for t in range(len(record["tokens"]))]
    for i, position in enumerate(positions):
        rows[position].append(i)
    table = []
    for position, indices in sorted(rows.items()):
        difference, noise = (estimate - true)[indices], float((errors[indices] ** 2).mean())
        table.append(
            {
                "position": position,
                "tokens": len(indices),
                "rmse": _rmse(difference, noise),
                "bias": float(difference.mean()),
                "noise": noise**0.5,
            }
        )
    return table


def _gae(records: Records, lam: float) -> Tensor:
    """GAE of every token, one completion after another, (tokens,)."""
    parts = []
    for record in records:
        rewards, values, next_values = (
            _column([record], name)[None] for name in ("reward", "value", "next_value")
        )
        ends = torch.zeros_like(rewards)
        ends[:, -1] = 1
        parts.append(gae(rewards, values, next_values, ends, record["gamma"], lam)[0])
    return torch.cat(parts)


def _column(records: Records, name: str) -> Tensor:
    tokens = [token for record in records for token in record["tokens"]]
    return torch.tensor([token[name] for token in tokens], dtype=torch.float64)


def _rmse(difference: Tensor, noise: float) -> float:
    """Root mean squared difference after `noise`, a variance, is removed."""
    return max(0.0, float((difference**2).mean()) - noise) ** 0.5


def _correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson correlation; None if one of them does not vary."""
    if len(a) < 2 or not (float(a.std()) > 1e-12 and float(b.std()) > 1e-12):
        return None
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def show(result: dict[str, Any]) -> None:
    """Print the agreement by lambda, of the values, and by position."""
    method = "exact" if result["exact"] else f"{result['continuations']} continuations per prefix"
    table = Table(
        "λ of GAE", "correlation", "corrected for noise", "same sign", "rmse",
        title=f"Estimated against true advantages ({method}): {result['tokens']:,} tokens of "
        f"{result['completions']} completions",
    )  # fmt: skip
    names = ("correlation", "corrected_correlation", "sign_agreement", "rmse")
    for row in result["gae"]:
        style = "bold" if row["lam"] == result["lam"] else None
        table.add_row(f"{row['lam']:g}", *(number(row[name]) for name in names), style=style)
    if not result["gae"]:
        used = result["advantage"]
        table.add_row("no critic", *(number(used[name]) for name in names), style="bold")
    console.print(table)
    if result["gae"]:
        value = result["value_correlation"], result["value_bias"]
        console.print(
            f"The critic's V against the true V: correlation {number(value[0])}, "
            f"bias {number(value[1])}. Bold: the run's λ."
        )
    else:
        console.print("This run has no critic: the advantages are those that its learner used.")
    console.print(_position_table(result))


def _position_table(result: dict[str, Any], groups: int = 6) -> Table:
    """The errors by position, neighbouring positions together."""
    rows = result["by_position"]
    estimate = f"GAE({result['lam']:g})" if result["gae"] else "the advantage"
    table = Table(
        "positions", "tokens", "rmse", "bias", "noise of the true advantage",
        title=f"Error of {estimate} by position in the completion",
    )  # fmt: skip
    size = -(-len(rows) // groups)
    for start in range(0, len(rows), size):
        group = rows[start : start + size]
        table.add_row(
            f"{group[0]['position'] + 1} to {group[-1]['position'] + 1}",
            f"{sum(row['tokens'] for row in group):,}",
            number(_mean(group, "rmse", 2)),
            number(_mean(group, "bias")),
            number(_mean(group, "noise", 2)),
        )
    return table


def _mean(rows: list[dict[str, float]], name: str, power: int = 1) -> float:
    """Mean over the tokens of the rows; for `power` 2 the root of the mean square."""
    total = sum(row["tokens"] * row[name] ** power for row in rows)
    return float((total / sum(row["tokens"] for row in rows)) ** (1 / power))
