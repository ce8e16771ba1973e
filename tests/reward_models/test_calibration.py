"""Calibration of preferences against hand values."""

import math

import pytest

from reward_models.calibration import calibration


def test_reliability_table_and_error_by_hand():
    sure = math.log(0.9 / 0.1)  # stated 90 %
    unsure = math.log(0.55 / 0.45)  # stated 55 %
    result = calibration([sure, sure, sure, -sure, unsure, -unsure])
    low, high = result["calibration"]
    assert (low["pairs"], high["pairs"]) == (2, 4)
    assert (low["low"], low["high"]) == (0.5, pytest.approx(0.6))
    assert (low["confidence"], low["accuracy"]) == (pytest.approx(0.55), 0.5)
    assert (high["confidence"], high["accuracy"]) == (pytest.approx(0.9), 0.75)
    assert result["ece"] == pytest.approx((2 * 0.05 + 4 * 0.15) / 6)


def test_no_difference_is_half_right_and_perfectly_calibrated():
    result = calibration([0.0, 0.0])
    assert result["ece"] == 0
    assert result["calibration"][0]["accuracy"] == 0.5


def test_certainty_of_1_falls_in_the_last_bin_and_none_in_no_bin():
    assert calibration([1000.0])["calibration"][0]["high"] == 1.0
    assert calibration([]) == {"ece": 0.0, "calibration": []}
