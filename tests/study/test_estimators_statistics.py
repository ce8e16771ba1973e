"""Measures from blocks, against closed forms and against many repetitions."""

import math

import pytest
import torch

from rlhf_pg.study.estimators.statistics import (
    Truth,
    known,
    measured,
    relative,
    root,
    square_of_mean,
)

SIZE, BLOCKS, EACH = 6, 20, 5
TRUE = torch.tensor([2.0, -1.0, 0.5, 0.0, 1.0, 0.0])
AWAY = torch.tensor([0.3, 0.2, 0.0, -0.4, 0.0, 0.1])  # a bias


def exactly(gradient=TRUE):
    return Truth(gradient[None], 1)


def sampled_around(generator, mean, noise=1.5):
    """Estimates (BLOCKS * EACH, SIZE), whose covariance has trace SIZE * noise^2."""
    shape = (BLOCKS * EACH, SIZE)
    return mean + noise * torch.randn(shape, generator=generator)


def of(estimates, truth, rescaled=False, anchor=None):
    def blocks(x):
        return x.reshape(BLOCKS, EACH, SIZE).mean(1)

    squares = (estimates**2).sum(1).reshape(BLOCKS, EACH).mean(1)
    beside = None if anchor is None else blocks(anchor)
    return measured(blocks(estimates), squares, truth, rescaled, beside)


def repeated(make, times=120):
    """Means, deviations and mean standard errors of each measure over independent repetitions."""
    generator = torch.Generator().manual_seed(0)
    runs = [make(generator) for _ in range(times)]
    values = {name: torch.tensor([run[name] for run in runs]) for name in runs[0]}
    return (
        {name: float(x.mean()) for name, x in values.items()},
        {name: float(x.std()) for name, x in values.items()},
        times**0.5,
    )


def test_the_square_of_a_mean_leaves_out_the_products_with_itself():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], dtype=torch.float64)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(float(x[i] @ x[j]) for i, j in pairs) / 3
    assert float(square_of_mean(x @ x.T)) == pytest.approx(expected)
    assert float(square_of_mean(x[:1] @ x[:1].T)) == 1  # one exact truth


def test_measures_by_hand():
    """|E g|^2 = 5, E g . g* = 4, trace 8, |g*|^2 = 4: bias^2 = (5 - 8 + 4) / 4."""
    plain = relative(5.0, 4.0, 8.0, 4.0, rescaled=False)
    assert plain["bias_squared"] == pytest.approx(0.25)
    assert plain["variance"] == pytest.approx(2)
    assert plain["mse"] == pytest.approx(2.25)
    assert plain["cosine"] == pytest.approx(4 / math.sqrt(20))
    assert plain["snr"] == pytest.approx(5 / 8)


def test_a_rescaled_estimator_is_compared_by_direction_alone():
    once = relative(5.0, 4.0, 8.0, 4.0, rescaled=True)
    twice = relative(4 * 5.0, 2 * 4.0, 4 * 8.0, 4.0, rescaled=True)
    for name in ("bias_squared", "variance", "mse", "cosine", "snr"):
        assert once[name] == pytest.approx(twice[name])
    assert twice["scale"] == pytest.approx(once["scale"] / 2)
    assert once["bias_squared"] == pytest.approx(math.tan(math.acos(once["cosine"])) ** 2)


def test_the_opposite_direction_is_no_good_at_any_scale():
    """E g = -3 g*: at the scale of the truth it is off by twice its length."""
    numbers = relative(36.0, -12.0, 8.0, 4.0, rescaled=True)
    assert numbers["cosine"] == pytest.approx(-1) and numbers["scale"] == pytest.approx(1 / 3)
    assert numbers["bias_squared"] == pytest.approx(4)


@pytest.mark.parametrize("shift", [torch.zeros(SIZE), AWAY])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("anchored", [False, True])
def test_measures_are_unbiased_and_their_errors_true(shift, sampled, anchored):
    """Noise 1.5 in each of six directions; the anchor shares most of it."""
    norm = float(TRUE @ TRUE)

    def make(generator):
        truth = exactly()
        if sampled:
            blocks = TRUE + 0.6 * torch.randn(BLOCKS, SIZE, generator=generator)
            truth = Truth(blocks, 1)
        noise = sampled_around(generator, torch.zeros(SIZE), 1.5)
        estimates = TRUE + shift + noise
        other = sampled_around(generator, torch.zeros(SIZE), 0.6)
        anchor = TRUE + 0.9 * noise + other if anchored else None
        return of(estimates, truth, anchor=anchor)

    mean, deviation, root_of_times = repeated(make)
    bias = float(shift @ shift) / norm
    expected = {
        "bias_squared": bias,
        "variance": SIZE * 1.5**2 / norm,
        "mse": bias + SIZE * 1.5**2 / norm,
        "snr": float((TRUE + shift) @ (TRUE + shift)) / (SIZE * 1.5**2),
    }
    for name, value in expected.items():
        # A ratio is off by about the squared relative error of the truth.
        allowed = 4 * deviation[name] / root_of_times + 0.03 * value
        assert mean[name] == pytest.approx(value, abs=allowed), name
        # A square that is zero: the jackknife's variance is then twice the true one.
        factor = 2**0.5 if name == "bias_squared" and not bias else 1.0
        assert mean[f"{name}_se"] == pytest.approx(factor * deviation[name], rel=0.25), name


def test_an_anchor_shows_a_bias_that_is_lost_in_noise_without_it():
    def make(generator):
        noise = sampled_around(generator, torch.zeros(SIZE), 5.0)
        alone, beside = TRUE + AWAY + noise, TRUE + noise
        return of(alone, exactly(), anchor=beside)

    mean, deviation, _ = repeated(make, 20)
    assert mean["bias_squared"] == pytest.approx(float(AWAY @ AWAY) / float(TRUE @ TRUE), rel=1e-4)
    assert deviation["bias_squared"] < 1e-4


def test_an_estimator_of_another_scale_is_fitted_to_its_anchor():
    noise = sampled_around(torch.Generator().manual_seed(3), torch.zeros(SIZE), 2.0)
    numbers = of(7 * (TRUE + noise), exactly(), rescaled=True, anchor=TRUE + noise)
    assert numbers["bias_squared"] == pytest.approx(0, abs=1e-5)
    assert numbers["scale"] == pytest.approx(1 / 7, rel=1e-4)


def test_what_is_known_needs_no_sampling():
    numbers = known(TRUE + AWAY, 60.0, 4, exactly(), rescaled=False)
    norm, own = float(TRUE @ TRUE), float((TRUE + AWAY) @ (TRUE + AWAY))
    assert numbers["bias_squared"] == pytest.approx(float(AWAY @ AWAY) / norm)
    assert numbers["variance"] == pytest.approx((60 - own) / 4 / norm)
    assert all(error == 0 for name, error in numbers.items() if name.endswith("_se"))


@pytest.mark.parametrize("rows", [1, 16])
def test_the_signal_to_noise_ratio_grows_with_the_batch(rows):
    one, many = (known(TRUE, 60.0, n, exactly(), False)["snr"] for n in (1, rows))
    assert many == pytest.approx(rows * one)


def test_the_error_of_a_sampled_truth():
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(200):
        truth = Truth(TRUE + 0.5 * torch.randn(BLOCKS, SIZE, generator=generator), 1)
        distance = float((truth.mean - TRUE).square().sum()) / float(TRUE @ TRUE)
        errors.append((truth.relative_error**2, distance))
    stated, true = (sum(x) / len(x) for x in zip(*errors, strict=True))
    assert stated == pytest.approx(true, rel=0.1)
    assert exactly().relative_error == 0
    drowned = Truth(torch.eye(4) - 0.5, 1)  # products of different rows are all negative
    assert drowned.relative_error == math.inf


def test_a_bias_within_noise_is_bounded_by_two_errors():
    assert root(0.04, 0.0) == (pytest.approx(0.2), pytest.approx(0))
    value, error = root(-0.01, 0.02)
    assert value == 0 and value + 2 * error == pytest.approx(0.2)
    value, error = root(1.0, 0.01)
    assert error == pytest.approx(0.01 / 2, rel=0.01)  # d sqrt(x) = dx / (2 sqrt(x))
