from __future__ import annotations

import numpy as np
import pytest
from roadwork_bench.calibration import fit_constant, fit_slope_and_shift


def test_enough_data_recovers_slope_and_shift() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, 20_000)
    labels = (rng.random(len(x)) < 1 / (1 + np.exp(-(0.7 * x - 1.2)))).astype(int)
    a, b = fit_slope_and_shift(x, labels, np.ones(len(x)))
    assert a == pytest.approx(0.7, abs=0.03)
    assert b == pytest.approx(-1.2, abs=0.06)


def test_no_data_leaves_the_answer_as_it_is() -> None:
    assert fit_slope_and_shift(np.array([]), np.array([]), np.array([])) == pytest.approx((1.0, 0.0))


def test_slope_stays_positive_where_a_member_is_wrong() -> None:
    x = np.linspace(-4, 4, 400)
    a, _ = fit_slope_and_shift(x, (x < 0).astype(int), np.ones(400))
    assert 0 < a < 0.1


def test_separable_data_stay_finite() -> None:
    x = np.linspace(-1, 1, 20)
    a, b = fit_slope_and_shift(x, (x > 0).astype(int), np.ones(20))
    assert 1 < a < 30
    assert abs(b) < 1


def test_few_drives_move_little() -> None:
    x, labels = np.linspace(-1, 1, 1000), (np.linspace(-1, 1, 1000) > 0.3).astype(int)
    few, many = (fit_slope_and_shift(x, labels, np.full(1000, total / 1000))[0] for total in (3, 1000))
    assert 1 < few < many


def test_constant_is_the_share_with_a_prior() -> None:
    assert fit_constant(np.array([]), np.array([])) == 0.5
    assert fit_constant(np.zeros(9, int), np.ones(9)) == pytest.approx(0.05)
    assert fit_constant(np.array([1, 0]), np.array([30.0, 10.0])) == pytest.approx(30.5 / 41)
