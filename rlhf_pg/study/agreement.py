"""How well estimated advantages agree with the true ones, which may carry noise of their own."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_pg.core.returns import gae

LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
CLEAR = 2.0  # standard errors from 0 at which a true advantage has a sign

# What credit.json holds beside the counts. All of it is over the tokens of all completions.
AGREEMENT: dict[str, str] = {
    "correlation": "Pearson's, between estimate and truth as measured",
    "corrected_correlation": "the same with the truth's own noise taken off (Spearman 1904): "
    "divided by sqrt(1 - mean squared standard error / variance of the measured truth)",
    "sign_agreement": "share of tokens with the right sign, among those whose true advantage is "
    f"{CLEAR:g} standard errors from 0",
    "rmse": "root mean squared error of the estimate, the truth's noise taken off",
    "bias": "mean of estimate - truth",
    "noise": "root mean squared standard error of the truth",
    "value_correlation": "the critic's V against the true V",
    "value_bias": "mean of V - true V",
}


def agreement(records: Sequence[dict[str, Any]], lam: float) -> dict[str, Any]:
    """What AGREEMENT documents, of records with true advantages: by lambda, and by position.

    GAE is computed from the records' rewards and values. `lam` is the run's own, and that of the
    table by position. Raises ValueError where no token has a true advantage.
    """
    measured = [r for r in records if r["tokens"] and "true_advantage" in r["tokens"][0]]
    if not measured:
        raise ValueError("no record has true advantages; `rlhf-pg study credit` measures them")
    truth, errors = _column(measured, "true_advantage"), _column(measured, "true_advantage_se")
    values, true_values = _column(measured, "value"), _column(measured, "true_value")
    grid = sorted({*LAMBDAS, lam})
    return {
        "completions": len(measured),
        "tokens": len(truth),
        "lam": lam,
        "gae": [{"lam": x, **_compare(_gae(measured, x), truth, errors)} for x in grid],
        "by_position": _by_position(measured, _gae(measured, lam), truth, errors),
        "value_correlation": _correlation(values, true_values),
        "value_bias": float((values - true_values).mean()),
    }


def _compare(estimate: Tensor, truth: Tensor, errors: Tensor) -> dict[str, float | None]:
    clear = truth.abs() > CLEAR * errors
    noise = float((errors**2).mean())
    reliable = 1 - noise / max(float(truth.var()), 1e-30) if len(truth) > 1 else 0.0
    plain = _correlation(estimate, truth)
    corrected = plain / reliable**0.5 if plain is not None and reliable > 0 else None
    right = (estimate.sign() == truth.sign())[clear].double()
    return {
        "correlation": plain,
        "corrected_correlation": corrected,
        "sign_agreement": float(right.mean()) if len(right) else None,
        "rmse": max(0.0, float(((estimate - truth) ** 2).mean()) - noise) ** 0.5,
    }


def _by_position(
    records: Sequence[dict[str, Any]], estimate: Tensor, truth: Tensor, errors: Tensor
) -> list[dict[str, float]]:
    """The error at each place of a token in its completion."""
    rows: dict[int, list[int]] = defaultdict(list)
    places = [t for record in records for t in range(len(record["tokens"]))]
    for i, place in enumerate(places):
        rows[place].append(i)
    found = []
    for place, some in sorted(rows.items()):
        off, noise = (estimate - truth)[some], float((errors[some] ** 2).mean())
        found.append(
            {
                "position": place,
                "tokens": len(some),
                "rmse": max(0.0, float((off**2).mean()) - noise) ** 0.5,
                "bias": float(off.mean()),
                "noise": noise**0.5,
            }
        )
    return found


def _gae(records: Sequence[dict[str, Any]], lam: float) -> Tensor:
    """GAE of every token, one after another (tokens,)."""
    parts = []
    for record in records:
        rewards, values, following = (
            torch.tensor([[token[name] for token in record["tokens"]]], dtype=torch.float64)
            for name in ("reward", "value", "next_value")
        )
        ends = torch.zeros_like(rewards)
        ends[:, -1] = 1
        parts.append(gae(rewards, values, following, ends, record["gamma"], lam)[0])
    return torch.cat(parts)


def _column(records: Sequence[dict[str, Any]], name: str) -> Tensor:
    return torch.tensor(
        [token[name] for record in records for token in record["tokens"]], dtype=torch.float64
    )


def _correlation(a: Tensor, b: Tensor) -> float | None:
    """Pearson's; None where one of them does not vary."""
    if len(a) < 2 or not (float(a.std()) > 1e-12 and float(b.std()) > 1e-12):
        return None
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])
