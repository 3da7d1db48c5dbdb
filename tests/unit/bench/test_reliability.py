from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from roadwork_bench.reliability import plot_reliability, reliability, reliability_bins
from roadwork_bench.statistics import proportion_jeffreys
from sklearn.calibration import calibration_curve


def made_up(count: int = 400, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    said = rng.random(count)
    return (rng.random(count) < said).astype(int), said


def test_bins_of_equal_mass_are_those_of_scikit_learn() -> None:
    labels, said = made_up()
    share, mean = calibration_curve(labels, said, n_bins=8, strategy="quantile")
    bins = reliability_bins(labels, said, 8)
    assert [one.images for one in bins] == [50] * 8
    assert [one.said for one in bins] == pytest.approx(list(mean), abs=1e-3)
    assert [one.share for one in bins] == pytest.approx(list(share), abs=1e-3)


def test_equal_probabilities_share_a_bin() -> None:
    labels, said = np.array([0, 1, 0, 1, 1, 0, 0, 1]), np.array([0.3] * 5 + [0.7] * 3)
    bins = reliability_bins(labels, said, 4)
    assert [(one.images, one.said, one.share) for one in bins] == [(5, 0.3, 0.6), (3, 0.7, 0.3333)]
    assert reliability(labels, said, 4)["ece_equal_mass"] == pytest.approx((5 * 0.3 + 3 * 0.3667) / 8, abs=1e-3)


def test_intervals_are_jeffreys() -> None:
    # Brown, Cai and DasGupta (2001), table 5: n = 10.
    assert proportion_jeffreys(5, 10).rounded() == pytest.approx([0.224, 0.776], abs=1e-3)
    assert proportion_jeffreys(0, 10).rounded() == pytest.approx([0.0, 0.217], abs=1e-3)
    assert proportion_jeffreys(10, 10).rounded() == pytest.approx([0.783, 1.0], abs=1e-3)
    assert proportion_jeffreys(0, 0).rounded() == [0.0, 1.0]


def test_flattering_probabilities_lie_outside_their_intervals() -> None:
    labels, said = made_up()
    assert reliability(labels, said)["outside"] <= 2
    assert reliability(labels, said**0.2)["outside"] >= 5
    assert reliability([], [])["bins"] == []


def test_the_plot_is_a_picture_of_every_panel(tmp_path: Path) -> None:
    labels, said = made_up()
    parts = [("all", reliability(labels, said)), ("within one", reliability(labels[:9], said[:9]))]
    plot_reliability(parts[:1], tmp_path / "one.png")
    plot_reliability(parts, tmp_path / "new" / "two.png", "made up")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "new" / "two.png") as two:
        assert two.width == 2 * one.width
        assert len(np.unique(np.asarray(two.convert("RGB")).reshape(-1, 3), axis=0)) > 20
