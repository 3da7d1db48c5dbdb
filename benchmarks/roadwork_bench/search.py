"""Two-sided bounds of all stages, routes and tiers at once, by search over recorded scores.

An image that was routed to the end once tells what every choice of bounds would have done with it: which bounds it
crosses first, what it would have been told there, and what had been spent. So no policy is replayed twice. The search
goes over the bounds in turn and, for one stage, weighs every pair of accept and reject at once (two cumulative sums);
it maximises MCC - price * spending for a sweep of prices, and keeps every policy that it met on the way and that no
other beats in both. (Lagrangian sweep over two-sided thresholds, as D. Kang et al., "NoScope", VLDB 2017, and L.
Dekoninck et al., "A Unified Approach to Routing and Cascading for LLMs", ICML 2025, trade one against the other.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roadwork_bench.errors import BenchError
from roadwork_bench.exits import Cut
from roadwork_bench.landscape import Landscape, leaves, outcome
from roadwork_bench.settings import GRID, TOLERANCE, Settings, rounded
from roadwork_bench.statistics import mcc_from_rates

COARSE = 5
"""Every fifth of the grid (0.25 in the logit): with so few drives a finer bound would fit the noise."""
PRICES = np.concatenate([[0.0], np.geomspace(0.003, 3.0, 13)])
"""MCC that one whole spending (everything asked of every image) is worth, at each point of the sweep."""
ROUNDS = 8


@dataclass(frozen=True)
class Found:
    """Bounds for each column, with the weighted MCC and the mean cost and milliseconds that an image takes."""

    cuts: tuple[Cut, ...]
    mcc: float
    cost: float
    ms: float


@dataclass
class _Archive:
    """What the search met: only what no other beats is kept."""

    axis: str
    found: list[Found] = field(default_factory=list)

    def tidy(self) -> list[Found]:
        best, kept = -np.inf, []
        for one in sorted(self.found, key=lambda one: (getattr(one, self.axis), -one.mcc)):
            if one.mcc > best + 1e-9:
                kept.append(one)
                best = one.mcc
        self.found = kept
        return kept


def search(land: Landscape, settings: Settings) -> list[Found]:
    """The policies that no other beats in both MCC and spending, the cheapest first.

    Spending is milliseconds where `max_ms` is given, else cost. A zone needs `exit_groups` drives.
    """
    axis = "ms" if settings.max_ms is not None else "cost"
    archive = _Archive(axis)
    count = land.p.shape[1]
    open_: list[Cut] = [(None, None)] * count
    grids = _grids(land.threshold)
    shut: list[Cut] = [(float(grids[0][0]), float(grids[1][0]))] * count
    least = settings.exit_groups
    for start, prices in ((open_, PRICES), (shut, PRICES[::-1])):
        cuts = list(start)
        for price in prices:
            for _ in range(ROUNDS):
                before = list(cuts)
                for column in range(count):
                    cuts[column] = _scan(land, cuts, column, float(price), grids, least, archive)
                if cuts == before:
                    break
            archive.tidy()
    return archive.tidy()


def choose(found: list[Found], settings: Settings) -> Found:
    """The best under the settings' bound; of those within `TOLERANCE` of it, the cheapest.

    Raises BenchError where none holds the bound, with what the cheapest takes.
    """
    within = [
        one
        for one in found
        if (settings.max_cost is None or one.cost <= settings.max_cost)
        and (settings.max_ms is None or one.ms <= settings.max_ms)
    ]
    if not within:
        cheapest = found[0]
        bound = (
            f"--max-cost {settings.max_cost:g}" if settings.max_cost is not None else f"--max-ms {settings.max_ms:g}"
        )
        raise BenchError(
            f"no policy holds {bound}: the cheapest found takes {cheapest.cost:.3g} and {cheapest.ms:.1f} ms an image "
            f"on average, at MCC {cheapest.mcc:.3f}; give at least that"
        )
    best = max(one.mcc for one in within)
    return next(one for one in within if one.mcc >= best - TOLERANCE)


def _grids(threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cuts of accept and of reject, widest zone first: from the threshold outward."""
    grid = GRID[::COARSE]
    yes = [threshold, *grid[grid > threshold]]
    no = [threshold - 1e-6, *grid[grid < threshold - 1e-6][::-1]]
    return np.array([rounded(cut) for cut in yes]), np.array([rounded(cut) for cut in no])


def _scan(
    land: Landscape,
    cuts: list[Cut],
    column: int,
    price: float,
    grids: tuple[NDArray[np.float64], NDArray[np.float64]],
    least: int,
    archive: _Archive,
) -> Cut:
    """The best pair for one column while the others stay."""
    n = len(land.p)
    # With this column open: who gets to it, and what becomes of them if they go on.
    others = [*cuts[:column], (None, None), *cuts[column + 1 :]]
    decided, spent = outcome(land, others)
    yes, no = leaves(land, others)
    reach = ~(yes | no)[:, :column].any(axis=1)
    positive, negative = land.weights * land.labels, land.weights * ~land.labels
    change = np.stack([positive, negative], axis=1)
    cheaper = (land.spent[:, column] - spent) / n
    base = np.array([(positive * decided).sum(), (negative * decided).sum(), *spent.mean(axis=0)])
    gain_yes = np.hstack([change * ~decided[:, np.newaxis], cheaper])
    gain_no = np.hstack([-change * decided[:, np.newaxis], cheaper])
    p = land.p[:, column]
    up = _zones(reach & land.yes[:, column], p, grids[0], gain_yes, land.place, least)
    down = _zones(reach & land.no[:, column], -p, -grids[1], gain_no, land.place, least)
    total = base + up[:, np.newaxis] + down[np.newaxis]
    true, false, cost, ms = np.moveaxis(total, 2, 0)
    mcc = mcc_from_rates(positive.sum() / land.weights.sum(), false / negative.sum(), 1 - true / positive.sum())
    mcc = np.where(np.isnan(true), -1.0, mcc)
    axis = cost if archive.axis == "cost" else ms
    whole = land.spent[:, -1, 0 if archive.axis == "cost" else 1].mean()
    worth = np.where(np.isnan(true), -np.inf, mcc - price * axis / whole)
    a, r = np.unravel_index(int(np.argmax(worth)), mcc.shape)

    def pair(i: int, j: int) -> Cut:
        return (float(grids[0][i - 1]) if i else None, float(grids[1][j - 1]) if j else None)

    order = np.lexsort((-mcc.ravel(), axis.ravel()))
    best = -1.0
    for flat in order[_records(mcc.ravel()[order])]:
        i, j = divmod(int(flat), mcc.shape[1])
        value = float(mcc[i, j])
        if value > best:
            best = value
            here: tuple[Cut, ...] = (*cuts[:column], pair(i, j), *cuts[column + 1 :])
            archive.found.append(Found(here, value, float(cost[i, j]), float(ms[i, j])))
    return pair(int(a), int(r))


def _records(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[n]: whether each is over all before it."""
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])
    return (values > before) & (values > -1.0)


def _zones(
    may: NDArray[np.bool_],
    p: NDArray[np.float64],
    grid: NDArray[np.float64],
    gain: NDArray[np.float64],
    place: NDArray[np.int64],
    least: int,
) -> NDArray[np.float64]:
    """[1 + cuts, 4]: what leaving at p >= cut changes, no exit first; NaN where the zone has too few drives.

    `grid` ascends.
    """
    inside = np.flatnonzero(may & (p >= grid[0]))
    narrowest = np.searchsorted(grid, p[inside], side="right") - 1  # the last cut that the image still crosses
    sums = np.zeros((len(grid), gain.shape[1]))
    np.add.at(sums, narrowest, gain[inside])
    sums = sums[::-1].cumsum(axis=0)[::-1]
    furthest = np.full(place.max() + 1, -1)
    np.maximum.at(furthest, place[inside], narrowest)
    drives = (furthest[np.newaxis] >= np.arange(len(grid))[:, np.newaxis]).sum(axis=1)
    sums[drives < least] = np.nan
    return np.vstack([np.zeros(gain.shape[1]), sums])
