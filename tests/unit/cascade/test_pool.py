"""The pool: order does not matter, a missing member is neutral, bounds hold, yes and no are symmetric, never NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roadwork_cascade.pool import EPS, agrees, calibrate, logit, member_probability, pool, quorum, sigmoid, votes

shares = st.floats(0.0, 1.0)
answers = st.one_of(shares, st.just(math.nan))
weights = st.floats(1e-3, 1e3)
members = st.lists(st.tuples(answers, weights), min_size=1, max_size=12)
slopes = st.floats(0.0, 5.0)
offsets = st.floats(-5.0, 5.0)


def split(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([p for p, _ in pairs]), np.array([w for _, w in pairs])


@given(members, slopes, offsets, st.randoms(use_true_random=False))
def test_order_of_members_does_not_matter(pairs: list, alpha: float, beta: float, random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert pool(*split(pairs), alpha, beta) == pytest.approx(pool(*split(shuffled), alpha, beta), abs=1e-9)


@given(members, weights, slopes, offsets)
def test_a_missing_member_is_neutral(pairs: list, weight: float, alpha: float, beta: float) -> None:
    with_gap = [*pairs, (math.nan, weight)]
    assert pool(*split(pairs), alpha, beta) == pytest.approx(pool(*split(with_gap), alpha, beta), abs=1e-12)


@given(members)
def test_the_pool_lies_between_the_least_and_the_most_sure_member(pairs: list) -> None:
    p, w = split(pairs)
    spoken = np.clip(p[~np.isnan(p)], EPS, 1 - EPS)
    pooled = float(pool(p, w))
    if spoken.size:
        assert spoken.min() - 1e-9 <= pooled <= spoken.max() + 1e-9
    else:
        assert pooled == 0.5


@given(members, slopes, offsets)
def test_yes_and_no_are_symmetric(pairs: list, alpha: float, beta: float) -> None:
    p, w = split(pairs)
    if np.isnan(p).all():
        return
    assert float(pool(1 - p, w, alpha, -beta)) == pytest.approx(1 - float(pool(p, w, alpha, beta)), abs=1e-9)


@given(
    st.lists(st.tuples(answers, st.floats(min_value=0, exclude_min=True, allow_infinity=False)), min_size=1),
    st.floats(0, 1000),
    st.floats(-1000, 1000),
)
def test_the_pool_is_never_nan_and_never_outside_0_and_1(pairs: list, alpha: float, beta: float) -> None:
    assert 0.0 <= float(pool(*split(pairs), alpha, beta)) <= 1.0


@given(members, st.integers(0, 11), shares)
def test_a_member_that_gets_surer_never_lowers_the_pool(pairs: list, index: int, surer: float) -> None:
    p, w = split(pairs)
    index %= len(p)
    if np.isnan(p[index]):
        return
    raised = p.copy()
    raised[index] = max(p[index], surer)
    assert pool(raised, w) >= pool(p, w) - 1e-9


def test_no_member_can_veto() -> None:
    assert pool([0.0, 0.99, 0.99, 0.99], [1, 1, 1, 1]) > 0.5
    assert pool([1.0, 0.01, 0.01, 0.01], [1, 1, 1, 1]) < 0.5


def test_a_table_is_pooled_row_by_row() -> None:
    table = np.array([[0.9, 0.2, np.nan], [np.nan, np.nan, np.nan], [0.5, 0.5, 0.5]])
    rows = [float(pool(row, [1.0, 2.0, 3.0], 1.3, 0.1)) for row in table]
    assert pool(table, [1.0, 2.0, 3.0], 1.3, 0.1).tolist() == rows
    assert rows[1] == 0.5


def test_the_pool_of_nobody_is_neutral() -> None:
    assert float(pool([], [])) == 0.5


@given(shares)
def test_calibration_by_one_and_zero_changes_nothing_but_the_clip(s: float) -> None:
    assert float(calibrate(s, 1.0, 0.0)) == pytest.approx(min(max(s, EPS), 1 - EPS), abs=1e-12)


@given(st.floats(allow_nan=False))
def test_sigmoid_takes_any_number_in_silence(x: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        assert 0.0 <= float(sigmoid(x)) <= 1.0


def test_logit_is_the_inverse_of_sigmoid_and_keeps_nan() -> None:
    assert sigmoid(logit(0.3)) == pytest.approx(0.3)
    assert np.isnan(logit(np.nan))
    assert np.isnan(calibrate(np.nan, 1.0, 0.0))


def test_a_detector_that_saw_nothing_says_its_constant() -> None:
    assert member_probability([0.0, 0.009, 0.5], "boxes", 1.0, 0.0, 0.1).tolist() == pytest.approx([0.1, 0.1, 0.5])


def test_a_text_member_without_constant_does_not_enter_the_pool_where_it_read_nothing() -> None:
    assert np.isnan(member_probability(0.0, "text", 1.0, 0.0, None))
    assert float(member_probability(0.8, "text", 1.0, 0.0, None)) == pytest.approx(0.8)


def test_a_scene_member_near_zero_is_calibrated_like_any_other_answer() -> None:
    assert float(member_probability(0.005, "scene", 1.0, 0.0, None)) == pytest.approx(0.005)


def test_a_missing_raw_answer_stays_missing() -> None:
    assert np.isnan(member_probability(np.nan, "boxes", 1.0, 0.0, 0.1))


def test_quorum_is_the_share_of_weight() -> None:
    assert float(quorum([True, False], [1.0, 3.0])) == 0.25
    assert quorum([[True, True], [False, False]], [1.0, 3.0]).tolist() == [1.0, 0.0]
    assert float(quorum([], [])) == 1.0


def test_votes_are_counted_not_weighed_and_half_votes_for_neither() -> None:
    yes, no = votes([[0.9, 0.8, 0.2], [0.5, np.nan, 0.6], [np.nan, np.nan, np.nan]])
    assert yes.tolist() == pytest.approx([2 / 3, 0.5, 1.0])
    assert no.tolist() == pytest.approx([1 / 3, 0.0, 1.0])


def test_two_of_three_reach_two_thirds() -> None:
    assert agrees(2 / 3, 0.667)
    assert not agrees(0.66, 0.667)
