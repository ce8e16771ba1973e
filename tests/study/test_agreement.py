"""Agreement with the truth: by hand, and with noise of a known size."""

import pytest
import torch

from rlhf_pg.study.agreement import AGREEMENT, agreement


def record(rewards, values, truth, errors=None, true_values=None, gamma=1.0):
    following = [*values[1:], 0.0]
    errors = errors or [0.0] * len(truth)
    return {
        "gamma": gamma,
        "tokens": [
            {
                "reward": rewards[t],
                "value": values[t],
                "next_value": following[t],
                "true_value": (true_values or values)[t],
                "true_advantage": truth[t],
                "true_advantage_se": errors[t],
            }
            for t in range(len(rewards))
        ],
    }


def at(found, lam):
    return next(row for row in found["gae"] if row["lam"] == lam)


def test_a_perfect_critic_at_lambda_zero_is_the_truth():
    values = [0.5, 0.8, -0.3]  # delta = .3, -1.1, 1.3
    found = agreement([record([0, 0, 1.0], values, [0.3, -1.1, 1.3])], lam=0.0)
    assert at(found, 0.0) == {
        "lam": 0.0,
        "correlation": pytest.approx(1),
        "corrected_correlation": pytest.approx(1),
        "sign_agreement": 1.0,
        "rmse": pytest.approx(0, abs=1e-7),
    }
    assert found["tokens"] == 3 and found["completions"] == 1
    assert found["value_correlation"] == pytest.approx(1) and found["value_bias"] == 0


def test_by_hand():
    """lambda = 1: 1 - V = .5, .2, 1.3 against the truth .3, -1.1, 1.3 -> one sign of three off."""
    found = agreement([record([0, 0, 1.0], [0.5, 0.8, -0.3], [0.3, -1.1, 1.3])], lam=1.0)
    row = at(found, 1.0)
    estimate, truth = torch.tensor([0.5, 0.2, 1.3]), torch.tensor([0.3, -1.1, 1.3])
    a, b = estimate - estimate.mean(), truth - truth.mean()
    assert row["correlation"] == pytest.approx(float((a @ b) / (a.norm() * b.norm())), abs=1e-6)
    assert row["sign_agreement"] == pytest.approx(2 / 3)
    assert row["rmse"] == pytest.approx(((0.2**2 + 1.3**2) / 3) ** 0.5)
    assert [p["position"] for p in found["by_position"]] == [0, 1, 2]
    assert found["by_position"][1] == {
        "position": 1,
        "tokens": 1,
        "rmse": pytest.approx(1.3),
        "bias": pytest.approx(1.3),
        "noise": 0.0,
    }


def test_the_noise_of_the_truth_is_taken_off():
    """estimate = x + e, truth = x, measured with noise: the correction gives corr(estimate, x)."""
    torch.manual_seed(0)
    n, noise = 20_000, 0.8
    x, e = torch.randn(n), torch.randn(n)
    estimate, measured = x + e, x + noise * torch.randn(n)
    records = [
        record([float(g)], [0.0], [float(m)], [noise])
        for g, m in zip(estimate, measured, strict=True)
    ]
    found = agreement(records, lam=1.0)
    row = at(found, 1.0)
    assert row["correlation"] == pytest.approx(0.5**0.5 / (1 + noise**2) ** 0.5, abs=0.02)
    assert row["corrected_correlation"] == pytest.approx(0.5**0.5, abs=0.02)
    assert row["rmse"] == pytest.approx(1.0, abs=0.02)
    clear = measured.abs() > 2 * noise
    right = (estimate.sign() == measured.sign())[clear].float().mean()
    assert row["sign_agreement"] == pytest.approx(float(right))
    assert found["by_position"][0]["noise"] == pytest.approx(noise)


def test_discount_and_values_are_counted():
    found = agreement(
        [record([1.0, 2.0], [0.5, 1.0], [1.0, 1.0], true_values=[0.0, 0.5], gamma=0.5)], lam=0.0
    )
    # delta = 1 + .5*1 - .5 = 1 and 2 - 1 = 1: right at both, and the critic is .5 too high.
    assert at(found, 0.0)["rmse"] == 0 and found["value_bias"] == pytest.approx(0.5)
    assert at(found, 0.0)["correlation"] is None  # nothing varies


def test_the_runs_own_lambda_is_among_the_rows():
    found = agreement([record([1.0, 2.0], [0.5, 1.0], [1.0, 0.0])], lam=0.93)
    assert [row["lam"] for row in found["gae"]] == [0, 0.5, 0.8, 0.9, 0.93, 0.95, 0.99, 1]
    names = set(found["gae"][0]) | set(found["by_position"][0]) | set(found)
    counts = {"lam", "position", "tokens", "completions", "gae", "by_position"}
    assert names - counts <= set(AGREEMENT)


def test_records_without_the_truth_are_refused():
    with pytest.raises(ValueError, match="study credit"):
        agreement([{"gamma": 1.0, "tokens": [{"reward": 1.0}]}], lam=1.0)
