from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import roadwork_bench.search as searching
from roadwork_bench.errors import BenchError
from roadwork_bench.exits import Cut, columns, exits_of, exits_taken, with_cuts, without_settled
from roadwork_bench.fitting import cross_validate, fit_policy
from roadwork_bench.landscape import Landscape, landscape, outcome, without_idle
from roadwork_bench.replay import replay, unbounded
from roadwork_bench.search import Found, choose, search
from roadwork_bench.settings import GRID, Settings
from roadwork_bench.spending import spending_of
from roadwork_bench.statistics import mcc_from_rates
from roadwork_bench.table import Table
from roadwork_cascade.policy import Policy, parse_policy

Make = Callable[..., Policy]
EVERY = Settings(exit_groups=1)


def _random_cut(rng: np.random.Generator) -> Cut:
    accept = float(rng.choice(GRID[GRID > 0.5])) if rng.random() < 0.6 else None
    reject = float(rng.choice(GRID[GRID < 0.5])) if rng.random() < 0.6 else None
    return accept, reject


@pytest.mark.parametrize("tiers", [False, True])
def test_what_the_search_reckons_is_what_the_policy_does(
    tiers: bool, make_policy: Make, add_tiers: Make, tier_table: Callable[..., Table]
) -> None:
    table = tier_table(10, 8, missing=0.1)
    policy = unbounded(add_tiers(make_policy()) if tiers else make_policy())
    sample, spending = table.sample(policy.fusion), spending_of(table.usable, policy)
    land = landscape(policy, replay(policy, sample, all_stages=False), sample, spending)
    assert land.p.shape[1] == len(columns(policy)) == (6 if tiers else 3)
    rng = np.random.default_rng(3)
    for _ in range(20):
        cuts = [_random_cut(rng) for _ in columns(policy)]
        decision, spent = outcome(land, cuts)
        bounded = with_cuts(policy, cuts)
        there = replay(bounded, sample, all_stages=False)
        assert ((there.probability >= policy.threshold) == decision).all()
        assert spending.cost_of(there.asked) == pytest.approx(spent[:, 0])
        assert spending.milliseconds_of(there.asked) == pytest.approx(spent[:, 1])
        fewer = with_cuts(policy, without_idle(land, cuts))
        assert (replay(fewer, sample, all_stages=False).asked == there.asked).all()


def _two_stages(n: int = 400) -> Landscape:
    """A cheap look that knows something, then a dear one that knows more."""
    rng = np.random.default_rng(0)
    labels = rng.random(n) < 0.4
    first = 1 / (1 + np.exp(-(1.2 * (2 * labels - 1) + rng.normal(0, 1.5, n))))
    second = 1 / (1 + np.exp(-(3.0 * (2 * labels - 1) + rng.normal(0, 2.0, n))))
    p = np.stack([first, second], axis=1)
    yes = np.ones((n, 2), bool)
    spent = np.cumsum(np.stack([np.full((n, 2), 1.0), np.full((n, 2), 10.0)], axis=1), axis=1)
    return Landscape(0.5, labels, np.ones(n), np.arange(n) % 20, p, yes, yes, spent, second >= 0.5)


def test_the_search_finds_what_trying_everything_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "COARSE", 20)
    land = _two_stages()
    yes, no = searching._grids(land.threshold)
    pairs = list(itertools.product([None, *yes.tolist()], [None, *no.tolist()]))
    every = []
    for first in pairs:  # the last stage's bounds change nothing: it ends there anyhow
        decision, spent = outcome(land, [first, (None, None)])
        true, false = decision[land.labels].mean(), decision[~land.labels].mean()
        every.append((spent[:, 0].mean(), float(mcc_from_rates(land.labels.mean(), false, 1 - true))))
    found = search(land, EVERY)
    for bound in (2.0, 3.0, 5.0, 8.0, 11.0):
        best = max(mcc for cost, mcc in every if cost <= bound)
        ours = max(one.mcc for one in found if one.cost <= bound)
        assert best - 0.01 <= ours <= best + 1e-9
    assert choose(found, Settings(max_cost=11.0)).mcc >= max(mcc for _, mcc in every) - 0.011


def test_a_frontier_rises_and_a_zone_needs_its_drives() -> None:
    land = _two_stages()
    found = search(land, EVERY)
    assert len(found) > 5
    assert all(a.cost < b.cost and a.mcc < b.mcc for a, b in itertools.pairwise(found))
    for one in found:
        decision, spent = outcome(land, one.cuts)
        assert spent.mean(axis=0) == pytest.approx([one.cost, one.ms])
        true, false = decision[land.labels].mean(), decision[~land.labels].mean()
        assert one.mcc == pytest.approx(float(mcc_from_rates(land.labels.mean(), false, 1 - true)))
    (only,) = search(land, Settings(exit_groups=21))
    assert only.cuts == ((None, None), (None, None)), "no zone has 21 of the 20 drives"


def test_the_cheapest_among_equals_is_chosen_and_an_impossible_bound_refused() -> None:
    found = [Found((), 0.5, 1.0, 10.0), Found((), 0.795, 2.0, 20.0), Found((), 0.8, 3.0, 30.0), Found((), 0.9, 4.0, 40)]
    assert choose(found, Settings(max_cost=3.0)).cost == 2.0
    assert choose(found, Settings(max_ms=15)).cost == 1.0
    with pytest.raises(BenchError, match=r"no policy holds --max-cost 0.5: the cheapest found takes 1 and 10.0 ms"):
        choose(found, Settings(max_cost=0.5))
    with pytest.raises(BenchError, match="--max-ms 5"):
        choose(found, Settings(max_ms=5))


def test_a_useless_dear_stage_is_not_asked_and_a_useful_one_is(
    make_policy: Make, make_table: Callable[..., Table]
) -> None:
    data = unbounded(make_policy()).to_dict()
    for stage in data["stages"]:
        stage["price_per_second"] = 1.0
    data["stages"] = data["stages"][:2]
    table, policy = make_table(30, 10, information=3.0), parse_policy(data)
    for row in table.rows:
        row.scores["scene"] = 0.98 if row.roadwork else 0.02  # the glance knows it all
    sample, spending = table.sample(), spending_of(table.usable, policy)
    settings = Settings(folds=3, max_cost=1.0)
    tested = cross_validate(sample, policy, settings, spending)
    assert (tested.decision == sample.labels.astype(bool)).all()
    assert not tested.asked[:, 1].any(), "the same answer for less"

    rng = np.random.default_rng(0)
    for row in table.rows:
        row.scores["scene"] = float(rng.random())
    sample = table.sample()
    useful = cross_validate(sample, policy, settings, spending)
    assert useful.asked[:, 1].mean() > 0.5
    cheap = cross_validate(sample, policy, Settings(folds=3, max_cost=0.02), spending)
    assert spending.cost_of(cheap.asked).mean() <= 0.025
    assert (cheap.decision == sample.labels).mean() < (useful.decision == sample.labels).mean()


def test_settled_routes_come_first_and_are_replaced_when_fitted_again(
    make_policy: Make, add_tiers: Make, tier_table: Callable[..., Table]
) -> None:
    table, policy = tier_table(16, 8), add_tiers(make_policy())
    sample, spending = table.sample(policy.fusion), spending_of(table.usable, policy)
    settings = Settings(folds=3, max_cost=float(spending.cost.sum(axis=1).mean()) / 8)
    once = fit_policy(sample, policy, settings, spending)
    assert [route.name for route in once.routes][:1] != ["sure"], "so little money must keep some from the tiers"
    twice = fit_policy(sample, once, settings, spending)
    assert [route.name for route in twice.routes] == [route.name for route in once.routes]
    assert without_settled(twice.to_dict())["routes"] == policy.to_dict()["routes"]
    there = replay(once, sample, all_stages=False)
    taken = exits_taken(once, there)
    assert set(taken) - {""} <= {f"{name} {says}" for name, says in exits_of(once)}
    assert (taken != "").any()
    whole_way = taken == ""
    assert there.asked[whole_way, 3:].any(axis=1).all(), "who left nowhere has asked a tier"


def test_a_member_without_times_is_refused(make_policy: Make, make_table: Callable[..., Table]) -> None:
    table = make_table(4, 3)
    del table.rows[0].ms["eye"]
    times = spending_of(table.usable, make_policy())
    assert times.milliseconds[0, 1] == 30.0
    for row in table.rows:
        row.ms.pop("sign")
    with pytest.raises(BenchError, match="no milliseconds of sign: give --milliseconds sign=MS"):
        spending_of(table.usable, make_policy())
