from __future__ import annotations

import numpy as np
import pytest
from roadwork_bench.errors import BenchError
from roadwork_bench.sample import balanced_weights, grouped_folds


def _mixed() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    groups = np.array([f"g{k}" for k in rng.integers(0, 15, 400)])
    labels = np.array([int(group[1:]) % 2 for group in groups])
    labels[groups == "g3"] = rng.integers(0, 2, (groups == "g3").sum())  # a drive may show both
    sources = np.where(labels == 1, "camera", np.where(rng.random(400) < 0.9, "large", "small"))
    return labels, groups, sources


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_and_every_image_is_tested_once(seed: int) -> None:
    labels, groups, _ = _mixed()
    tested = np.zeros(len(labels), int)
    for train, test in grouped_folds(labels, groups, 5, seed):
        assert not set(groups[train]) & set(groups[test])
        assert set(labels[train]) == {0, 1}
        tested[test] += 1
    assert (tested == 1).all()


def test_folds_are_fewer_where_groups_are() -> None:
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array(["a", "b", "c", "d", "d"])
    assert len(list(grouped_folds(labels, groups))) == 2


def test_one_group_of_a_class_cannot_be_tested() -> None:
    with pytest.raises(BenchError, match="at least two groups"):
        list(grouped_folds(np.array([0, 0, 1]), np.array(["a", "b", "c"])))


def test_weights_balance_classes_and_temper_sources() -> None:
    labels, groups, sources = _mixed()
    weights = balanced_weights(labels, groups, sources)
    assert weights.sum() == pytest.approx(len(set(groups)))
    assert weights[labels == 1].sum() == pytest.approx(weights[labels == 0].sum())
    large, small = (labels == 0) & (sources == "large"), (labels == 0) & (sources == "small")
    expected = np.sqrt(large.sum() / small.sum())
    assert weights[large].sum() / weights[small].sum() == pytest.approx(expected)
