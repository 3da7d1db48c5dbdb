from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from roadwork_bench.fit import describe, fit
from roadwork_bench.fitting import Settings, best_threshold, cross_validate, fit_policy
from roadwork_bench.judging import recordable
from roadwork_bench.replay import replay, without_members
from roadwork_bench.sample import Sample
from roadwork_bench.stacking import features, stack
from roadwork_bench.table import Table
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy, parse_policy
from sklearn.metrics import matthews_corrcoef

THREE = Settings(folds=3)


def _known(make_policy: Callable[..., Policy], n: int = 6000) -> tuple[Sample, Policy]:
    """Scores of two members whose calibration is known: the true logit, seen through each one's own a and b."""
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 300, n)  # many groups: the prior must not matter
    true = rng.normal(0, 2.5, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-true))).astype(int)
    scores = np.column_stack([1 / (1 + np.exp(-(true - b) / a)) for a, b in ((0.8, -1.0), (1.5, 0.5))])
    data = make_policy().to_dict()
    data["stages"] = data["stages"][:2]
    del data["stages"][1]["members"]["other"]
    data["stages"][0] |= {"accept": None, "reject": None}
    sample = Sample(labels, np.array([f"g{g}" for g in groups]), np.full(n, "camera"), ("scene", "eye"), scores)
    return sample, parse_policy(data)


def test_a_known_calibration_is_recovered(make_policy: Callable[..., Policy]) -> None:
    sample, policy = _known(make_policy)
    fitted = fit_policy(sample, policy, THREE)
    scene, eye = (member for _, member in fitted.members())
    assert (scene.a, scene.b) == pytest.approx((0.8, -1.0), abs=0.15)
    assert (eye.a, eye.b) == pytest.approx((1.5, 0.5), abs=0.3)
    assert (fitted.pool.alpha, fitted.pool.beta) == pytest.approx((1.0, 0.0), abs=0.2)
    assert fitted.threshold == pytest.approx(0.5, abs=0.12)


def test_fitting_changes_only_what_is_fitted(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    policy = make_policy()
    before, after = policy.to_dict(), fit_policy(make_table().sample(), policy, THREE).to_dict()
    for data in (before, after):
        data.pop("threshold")
        data.pop("pool")
        for stage in data["stages"]:
            stage["accept"] = stage["reject"] = None
            for member in stage["members"].values():
                member["a"] = member["b"] = 0
                member["nothing"] = member["nothing"] is None
    assert before == after


def test_a_member_without_scores_keeps_its_numbers(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    table = make_table()
    for row in table.rows:
        del row.scores["sign"]
    fitted = fit_policy(table.sample(), make_policy(), THREE)
    assert fitted.stages[2].members == make_policy().stages[2].members


def test_a_distance_member_is_left_out_of_fitting(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    data = make_policy(version=2, routes=[], tiers=[]).to_dict()
    # Beside text alone in its stage, which is then asked only where its words matter.
    data["stages"][2] |= {"prepare": "decode"}
    data["stages"][1]["members"]["depth"] = data["stages"][2]["members"]["depth_too"] = {"kind": "distance"}
    grown, table = parse_policy(data), make_table()
    for row in table.rows:
        row.scores["sign"] = 0.9 if row.roadwork else 0.0
    plain = without_members(grown, ["depth", "depth_too"])
    expected, fitted = (fit_policy(table.sample(), policy, THREE) for policy in (plain, grown))
    assert without_members(fitted, ["depth", "depth_too"]).to_dict() == expected.to_dict()

    kept = fit(table, grown, THREE, command="fit")
    assert [member.name for _, member in kept.members() if not member.votes] == ["depth", "depth_too"]
    assert "depth: no vote, nothing to fit" in describe(kept)
    reduced, notes = recordable(grown, table)
    assert (reduced.to_dict(), notes) == (plain.to_dict(), [])


def test_words_that_are_mostly_absent_stay_out_of_the_pool(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    table = make_table()
    for row in table.rows:
        row.scores["sign"] = 0.0
    (sign,) = fit_policy(table.sample(), make_policy(), THREE).stages[2].members
    assert sign.nothing is None
    for row in table.rows:
        row.scores["sign"] = 0.9 if row.roadwork else 0.0
    (sign,) = fit_policy(table.sample(), make_policy(), THREE).stages[2].members
    assert sign.nothing is not None
    assert sign.nothing < 0.1


def test_threshold_is_the_best_and_among_equals_the_middle() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    apart = np.concatenate([np.full(50, 0.01), np.full(50, 0.99)])
    assert best_threshold(labels, apart, np.ones(100)) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    shifted = pool.sigmoid(rng.normal(3 * labels, 1))
    cut = best_threshold(labels, shifted, np.ones(100))
    best = max(matthews_corrcoef(labels, shifted >= t) for t in np.linspace(0.01, 0.99, 500))
    assert matthews_corrcoef(labels, shifted >= cut) >= best - 0.03
    assert cut > 0.6


def test_early_exits_keep_their_errors_below_the_bound(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    sample = make_table(60, 40, information=2.5).sample()
    policy = fit_policy(sample, make_policy(), Settings(exit_error=0.03, folds=3))
    glance = policy.stages[0]
    assert glance.accept is not None
    assert glance.reject is not None
    assert glance.reject < policy.threshold < glance.accept
    fresh = make_table(60, 40, seed=9, information=2.5).sample()
    result = replay(policy, fresh)
    left = ~result.asked[:, 1]
    assert left.mean() > 0.2
    assert ((result.probability >= 0.5) != fresh.labels)[left].mean() < 0.03


def test_no_exit_where_the_sample_cannot_vouch_for_it(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    # 80 images: even without an error the upper bound of their rate is over 2%.
    policy = fit_policy(make_table(8, 10, information=4).sample(), make_policy(), Settings(folds=2))
    assert policy.stages[0].accept is None
    assert policy.stages[0].reject is None


def test_scores_that_know_only_their_drive_are_worth_nothing_on_other_drives(
    make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    table = make_table(24, 10, information=0.0)
    rng = np.random.default_rng(2)
    own = {f"drive{k:02d}": rng.random() for k in range(24)}
    for row in table.rows:
        row.scores = dict.fromkeys(row.scores, own[row.group])
    sample = table.sample()
    tested = cross_validate(sample, make_policy(), THREE)
    assert abs(matthews_corrcoef(sample.labels, tested.decision)) < 0.45  # 24 coin tosses, not 240 known images
    assert not np.isnan(tested.probability).any()
    for fold in range(3):
        inside = set(sample.groups[tested.fold == fold])
        assert not inside & set(sample.groups[tested.fold != fold])


def test_informative_scores_are_used(make_policy: Callable[..., Policy], make_table: Callable[..., Table]) -> None:
    sample = make_table(information=2.0, missing=0.1).sample()
    tested = cross_validate(sample, make_policy(), THREE)
    assert matthews_corrcoef(sample.labels, tested.decision) > 0.8
    assert matthews_corrcoef(sample.labels, tested.all_stages_decision) > 0.85
    probability, decision = stack(sample, THREE)
    assert matthews_corrcoef(sample.labels, decision) > 0.85
    assert not np.isnan(probability).any()


def test_stacking_tells_missing_from_nothing_seen(make_table: Callable[..., Table]) -> None:
    table = make_table(4, 2)
    table.rows[0].scores = {"scene": 0.7, "eye": 0.0}
    found = features(table.sample())[0].reshape(3, 4)
    assert found[0] == pytest.approx([np.log(0.7 / 0.3), 0, 0, 0])
    assert found[1].tolist() == [0, 0, 1, 1]
    assert found[2].tolist() == [0, 1, 0, 0]
