from __future__ import annotations

import numpy as np
import pytest
from roadwork_bench.certificates import (
    certify_exit,
    drive_losses,
    hoeffding_bentkus,
    mean_loss_upper,
    sentence,
    trials_needed,
)
from scipy import stats


@pytest.mark.parametrize(("errors", "images", "exits"), [(0, 149, 1), (3, 400, 1), (5, 115, 4), (0, 8, 2)])
def test_the_bound_by_image_is_the_quantile_of_the_beta_distribution(errors: int, images: int, exits: int) -> None:
    labels = np.ones(images + 20, int)
    labels[:errors] = 0
    left = np.arange(images + 20) < images
    groups = np.array([f"drive{k % 7}" for k in range(images + 20)])
    found = certify_exit("glance", "yes", left, labels, groups, target=0.05, exits=exits)
    expected = stats.beta.ppf(1 - 0.05 / exits, errors + 1, images - errors)
    assert found.upper == pytest.approx(expected, rel=1e-3)
    assert (found.images, found.errors, found.drives) == (images, errors, 7)
    assert found.certified == (expected <= 0.05)


def test_without_an_error_the_bound_by_drive_is_that_of_as_many_independent_draws() -> None:
    assert mean_loss_upper(np.zeros(25), 0.95) == pytest.approx(stats.beta.ppf(0.95, 1, 25), rel=1e-6)
    assert mean_loss_upper([], 0.95) == 1.0
    assert mean_loss_upper([1.0, 1.0], 0.95) == 1.0
    assert hoeffding_bentkus(0.1, 50, 0.1) == 1.0, "what was seen never refutes itself"


def test_a_drive_with_all_its_frames_wrong_counts_once() -> None:
    wrong = np.array([True] * 30 + [False] * 10)
    groups = np.array(["long"] * 30 + ["a"] * 5 + ["b"] * 5)
    assert drive_losses(wrong, groups).tolist() == [0, 0, 1]


def test_bounds_by_image_cover_as_often_as_they_say() -> None:
    rng, rate, images = np.random.default_rng(0), 0.04, 200
    upper = stats.beta.ppf(0.95, np.arange(images) + 1, images - np.arange(images))
    groups, left = np.arange(images).astype(str), np.ones(images, bool)
    missed = 0
    for errors, times in zip(*np.unique(rng.binomial(images, rate, 400), return_counts=True), strict=True):
        labels = (np.arange(images) >= errors).astype(int)
        found = certify_exit("glance", "yes", left, labels, groups, target=0.05)
        assert found.upper == pytest.approx(upper[errors], rel=1e-3)
        missed += times * (found.upper < rate)
    # 5% of 400 is 20; over 33 would be three standard deviations.
    assert missed <= 33


def test_bounds_by_drive_cover_where_frames_of_a_drive_err_together() -> None:
    rng, drives, frames = np.random.default_rng(1), 25, 30
    true = 0.1
    missed_by_drive = missed_by_image = 0
    groups = np.repeat([f"drive{k}" for k in range(drives)], frames)
    left = np.ones(drives * frames, bool)
    for _ in range(120):
        # One drive in ten goes wrong as a whole: its frames tell no more than one image does.
        labels = np.repeat(rng.random(drives) >= true, frames).astype(int)
        found = certify_exit("glance", "yes", left, labels, groups, target=0.05)
        missed_by_drive += found.upper_by_drive < true
        missed_by_image += found.upper < true
    assert missed_by_drive <= 0.05 * 120 + 7
    assert missed_by_image > 0.2 * 120, "what is independent matters: the bound by image does not cover here"


def test_how_many_images_a_certificate_takes() -> None:
    # Known: 149 images without an error for 2%, 2,995 for 0.1%, 5,990 and one more for 0.05%.
    assert trials_needed(0.02, 0.95) == 149
    assert trials_needed(0.001, 0.95) == 2995
    assert trials_needed(0.0005, 0.95) == 5990
    assert trials_needed(0.02, 0.95, 0.02) is None
    needed = trials_needed(0.02, 0.95, 0.01)
    assert needed is not None
    assert stats.beta.ppf(0.95, 0.01 * needed + 1, 0.99 * needed) <= 0.02
    assert stats.beta.ppf(0.95, 0.01 * (needed - 1) + 1, 0.99 * (needed - 1)) > 0.02


def test_the_sentence_says_what_is_certified_and_what_is_not() -> None:
    groups = np.array([f"drive{k % 40}" for k in range(400)])
    labels, left = np.zeros(400, int), np.ones(400, bool)
    good = certify_exit("glance", "no", left, labels, groups, target=0.02)
    assert "errs at most 0.7% with 95% confidence by image" in sentence(good)
    assert "of a new drive's, not certified" in sentence(good), "40 drives do not carry 2%"
    assert (good.drives_needed, good.images_needed) == (149, 149)
    few = certify_exit("glance", "no", left & (np.arange(400) < 50), labels, groups, target=0.02)
    assert "not certified for 2.0%: needs 149 images" in sentence(few)
    bad = certify_exit("glance", "yes", left, labels, groups, target=0.02)
    assert "errs too often for any number of images" in sentence(bad)
    nobody = certify_exit("glance", "yes", ~left, labels, groups, target=0.02)
    assert "nobody left there" in sentence(nobody)
    assert nobody.upper == nobody.upper_by_drive == 1.0
