from __future__ import annotations

import numpy as np
import pytest
from roadwork_bench.comparison import compare, holm
from roadwork_bench.honesty import carries, claim_warning, class_warning


def test_two_ways_are_compared_on_the_images_on_which_they_differ() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0] * 3)
    first, second = labels.copy(), labels.copy()
    first[[0, 8, 16, 1, 9, 17]] = 0
    second[[4]] = 1
    found = compare(labels, first, second, [f"drive{k // 4}" for k in range(24)])
    assert (found["only_first_right"], found["only_second_right"]) == (1, 6)
    assert found["mcnemar_p"] == pytest.approx(0.125)  # 2 * (1 + 7) / 2**7
    assert found["mcc_gain"] > 0
    assert found["mcc_gain_by_drive_95"][0] <= found["mcc_gain"] <= found["mcc_gain_by_drive_95"][1]
    same = compare(labels, first, first, ["drive"] * 24)
    assert (same["mcnemar_p"], same["mcc_gain"], same["mcc_gain_by_drive_95"]) == (1.0, 0.0, None)


def test_one_class_has_no_gain_and_is_still_tested() -> None:
    found = compare([1] * 8, [0] * 6 + [1, 1], [1] * 8, list("abcdefgh"))
    assert (found["mcc_gain"], found["mcnemar_p"]) == (None, pytest.approx(2 / 64, abs=1e-3))


def test_several_tests_are_adjusted_as_holm_does() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == [0.04, 0.09, 0.09, 0.5]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_plans_claim_needs_thousands_of_images_without_an_error() -> None:
    found = carries(0.9985, 0, 3993, 0.5)
    assert (found["images_without_error"], found["carried"]) == (3993, True)
    assert claim_warning(found) == []
    assert not carries(0.9985, 0, 3992, 0.5)["carried"]
    assert not carries(0.9985, 1, 3993, 0.5)["carried"]
    (warning,) = claim_warning(carries(0.9985, 3, 700, 0.5))
    assert "3,993 images without one error" in warning
    assert "700 with 3 errors" in warning


@pytest.mark.parametrize(("claim", "prevalence"), [(1.0, 0.5), (0.0, 0.5), (0.9, 0.0), (0.9, 1.0)])
def test_claims_that_mean_nothing_are_refused(claim: float, prevalence: float) -> None:
    with pytest.raises(ValueError, match="claim of MCC"):
        carries(claim, 0, 10, prevalence)


def test_one_class_is_said_in_words() -> None:
    assert class_warning(np.array([0, 1])) == []
    (warning,) = class_warning(np.array([1, 1]))
    assert "all images are labelled roadwork: MCC, balanced accuracy and AUROC are undefined" in warning
