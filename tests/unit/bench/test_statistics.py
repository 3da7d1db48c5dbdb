from __future__ import annotations

import json

import numpy as np
import pytest
from roadwork_bench.statistics import (
    Counts,
    cluster_bootstrap,
    error_rate_upper,
    expected_calibration_error,
    figures,
    mcc_from_rates,
    mcc_jeffreys,
    mcnemar_exact,
)
from sklearn.metrics import matthews_corrcoef


def _labels(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    cells = ((1, 1, counts.tp), (0, 1, counts.fp), (0, 0, counts.tn), (1, 0, counts.fn))
    truth = np.concatenate([np.full(n, t) for t, _, n in cells])
    said = np.concatenate([np.full(n, s) for _, s, n in cells])
    return truth, said


@pytest.mark.parametrize("cells", [(30, 4, 50, 7), (1, 1, 1, 1), (500, 0, 499, 1), (3, 90, 2, 40)])
def test_mcc_of_rates_is_mcc(cells: tuple[int, int, int, int]) -> None:
    counts = Counts(*cells)
    truth, said = _labels(counts)
    fpr, fnr = counts.fp / (counts.fp + counts.tn), counts.fn / (counts.fn + counts.tp)
    assert Counts.of(truth, said) == counts
    assert mcc_from_rates(truth.mean(), fpr, fnr) == pytest.approx(matthews_corrcoef(truth, said))


def test_mcc_is_zero_where_every_decision_is_the_same() -> None:
    assert mcc_from_rates(0.3, 0.0, 1.0) == 0
    assert mcc_from_rates(0.3, 1.0, 0.0) == 0


def test_one_error_in_a_thousand_is_mcc_0_998() -> None:
    assert mcc_from_rates(0.5, 0.0, 1 / 500) == pytest.approx(0.998, abs=1e-4)


@pytest.mark.parametrize(("images", "rate"), [(2995, 0.001), (5991, 0.0005), (3993, 0.00075)])
def test_error_free_images_certify_a_rate(images: int, rate: float) -> None:
    assert error_rate_upper(0, images) <= rate
    assert error_rate_upper(0, images - 5) > rate


def test_upper_bound_of_no_images_says_nothing() -> None:
    assert error_rate_upper(0, 0) == 1.0
    assert error_rate_upper(3, 3) == 1.0


def test_jeffreys_interval_covers() -> None:
    rng, covered, sims = np.random.default_rng(3), 0, 200
    true = float(mcc_from_rates(0.5, 0.01, 0.02))
    for _ in range(sims):
        fp, fn = int(rng.binomial(500, 0.01)), int(rng.binomial(500, 0.02))
        interval = mcc_jeffreys(Counts(500 - fn, fp, 500 - fp, fn), draws=2000)
        covered += interval.low <= true <= interval.high
    assert 0.9 <= covered / sims <= 0.99


def test_jeffreys_interval_does_not_depend_on_which_class_is_named_yes() -> None:
    one, other = mcc_jeffreys(Counts(90, 3, 200, 9)), mcc_jeffreys(Counts(200, 9, 90, 3))
    assert one.low == pytest.approx(other.low, abs=0.005)
    assert one.high == pytest.approx(other.high, abs=0.005)


def test_jeffreys_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes"):
        mcc_jeffreys(Counts(5, 0, 0, 1))


def test_bootstrap_by_drive_is_wider_than_by_image_where_frames_are_copies() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(20) % 2, 50)
    said = np.repeat(np.where(rng.random(20) < 0.2, 1 - np.arange(20) % 2, np.arange(20) % 2), 50)
    groups = [f"drive{k}" for k in np.repeat(np.arange(20), 50)]
    found = cluster_bootstrap(truth, said, groups)
    assert found is not None
    by_drive, dropped = found
    by_image = mcc_jeffreys(Counts.of(truth, said))
    assert dropped == 0
    assert by_drive.high - by_drive.low > 2 * (by_image.high - by_image.low)


def test_bootstrap_of_the_difference_to_itself_is_nothing() -> None:
    truth, groups = np.arange(40) % 2, [f"g{k // 4}" for k in range(40)]
    said = np.where(np.arange(40) % 7 == 0, 1 - truth, truth)
    found = cluster_bootstrap(truth, said, groups, other=said)
    assert found is not None
    assert found[0].rounded() == [0.0, 0.0]


def test_bootstrap_of_one_drive_or_one_class_is_not_given() -> None:
    assert cluster_bootstrap([1, 0], [1, 0], ["a", "a"]) is None
    assert cluster_bootstrap([1, 1], [1, 0], ["a", "b"]) is None


@pytest.mark.parametrize(("one_way", "p_value"), [(0, 1.0), (5, 0.0625), (6, 0.03125)])
def test_mcnemar_needs_six_one_way_disagreements(one_way: int, p_value: float) -> None:
    truth = np.ones(20, int)
    worse = np.ones(20, int)
    worse[:one_way] = 0
    assert mcnemar_exact(truth, truth, worse) == (one_way, 0, pytest.approx(p_value))


def test_mcnemar_counts_each_side() -> None:
    truth, first, second = [1, 1, 0, 0, 1], [1, 1, 0, 1, 0], [0, 1, 1, 0, 0]
    only_first, only_second, _ = mcnemar_exact(truth, first, second)
    assert (only_first, only_second) == (2, 1)


def test_calibration_error_of_known_bins() -> None:
    # Bin 0.2 to 0.3: mean 0.25, a quarter true, no gap. Bin of 0.9: half true, gap 0.4 on 2 of 6 images.
    said, truth = [0.25, 0.25, 0.25, 0.25, 0.9, 0.9], [1, 0, 0, 0, 1, 0]
    assert expected_calibration_error(truth, said) == pytest.approx(0.4 * 2 / 6)
    assert expected_calibration_error([1, 0], [1.0, 0.0]) == 0


def test_figures_of_one_class_leave_undefined_what_is() -> None:
    found = figures([0, 0, 0], [0, 1, 0], ["a", "a", "b"], [0.1, 0.8, 0.2])
    assert found["mcc"] is None
    assert found["mcc_jeffreys_95"] is None
    assert found["fp"] == 1
    assert found["auroc"] is None
    assert found["brier"] is not None


def test_figures_are_plain_numbers() -> None:

    found = figures(
        np.array([1, 0, 1, 0]), np.array([1, 0, 0, 0]), ["a", "b", "c", "d"], np.array([0.9, 0.1, 0.4, 0.2])
    )
    assert json.loads(json.dumps(found))["mcc"] == pytest.approx(0.5774, abs=1e-3)
