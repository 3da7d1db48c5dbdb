"""Medians of pairs and rounds."""

from __future__ import annotations

import numpy as np
import pytest
from roadwork_bench.medians import ENOUGH, median_interval, shown
from roadwork_bench.page.blocks import spanned

VALUES = [1.0, 1.2, 1.1, 0.9, 1.05, 1.15]


def test_the_interval_holds_the_median_within_the_values() -> None:
    found = median_interval(VALUES)
    low, high = found["interval_95"]
    assert 0.9 <= low < found["median"] < high <= 1.2
    assert shown(found) == f"1.075 ({low:.3f} to {high:.3f})"


def test_of_few_it_is_their_range_and_says_so() -> None:
    found = median_interval(VALUES[:3])
    assert (found["median"], found["interval_95"]) == (1.1, [1.0, 1.2])
    assert shown(found) == "1.100 (1.000 to 1.200, range of 3)"
    assert spanned(found, 2) == "1.1 (1.0 to 1.2, range of 3)"
    assert median_interval([2.0])["interval_95"] == [2.0, 2.0]


@pytest.mark.parametrize("count", [ENOUGH, 8, 12])
def test_the_interval_of_enough_pairs_holds_the_true_median_about_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(1)
    found = [median_interval(rng.lognormal(0.0, 0.1, count))["interval_95"] for _ in range(120)]
    assert np.mean([low <= 1.0 <= high for low, high in found]) > 0.85
