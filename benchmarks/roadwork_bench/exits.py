"""Where a cascade ends early: its bounds, its routes that climb to no tier, and who left where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy, parse_policy
from roadwork_cascade.policy_parts import Stage, Tier

from roadwork_bench.replay import Replay, steps

SETTLED_YES, SETTLED_NO = "settled_yes", "settled_no"
"""Routes that climb to no tier because perception is sure enough; only the search writes them."""
NO_TIER = "without a tier"

Cut = tuple[float | None, float | None]
"""Accept and reject; None: never."""


def climbs(policy: Policy) -> bool:
    """Whether any route climbs to a tier."""
    return any(route.climb for route in policy.routes)


def columns(policy: Policy) -> list[str]:
    """Names of all that can end a cascade, in its order: stages, the routes where any climbs, tiers."""
    names = steps(policy)
    count = len(policy.stages)
    return [*names[:count], *([NO_TIER] if climbs(policy) else []), *names[count:]]


def without_settled(data: dict[str, Any]) -> dict[str, Any]:
    """A policy as plain data, less the routes that a search has put first."""
    if "routes" not in data:
        return data
    return data | {"routes": [route for route in data["routes"] if route["name"] not in (SETTLED_YES, SETTLED_NO)]}


def with_cuts(policy: Policy, cuts: Sequence[Cut]) -> Policy:
    """The policy with these bounds, one pair for each of `columns`."""
    data = without_settled(policy.to_dict())
    found = dict(zip(columns(policy), cuts, strict=True))
    for step in [*data["stages"], *data.get("tiers", [])]:
        step["accept"], step["reject"] = found[step["name"]]
    data["routes"] = [*settled_routes(found.get(NO_TIER, (None, None))), *data.get("routes", [])]
    if not data["routes"] and policy.version < 2:
        del data["routes"]
    return parse_policy(data)


def settled_routes(cut: Cut) -> list[dict[str, Any]]:
    """The routes that end the cascade after the stages at these probabilities."""
    accept, reject = cut
    routes: list[dict[str, Any]] = []
    if accept is not None:
        routes.append({"name": SETTLED_YES, "when": {"min_probability": accept}, "climb": []})
    if reject is not None:
        routes.append({"name": SETTLED_NO, "when": {"max_probability": reject}, "climb": []})
    return routes


def exits_of(policy: Policy) -> list[tuple[str, str]]:
    """Name and answer (yes or no) of every early exit that the policy has."""
    found: list[tuple[str, str]] = []
    asked_in_turn: list[Stage | Tier] = [*policy.stages, *policy.tiers]
    for step in asked_in_turn:
        found += [(step.name, "yes")] if step.accept is not None else []
        found += [(step.name, "no")] if step.reject is not None else []
    if climbs(policy):
        found += [(NO_TIER, "yes"), (NO_TIER, "no")]
    return found


def exits_taken(policy: Policy, replayed: Replay) -> NDArray[np.object_]:
    """[n]: `<exit> yes` or `<exit> no` of each image, "" for one that went the whole way. Not for all stages always."""
    taken = np.full(len(replayed.probability), "", dtype=object)
    asked_in_turn: list[Stage | Tier] = [*policy.stages, *policy.tiers]
    for index, step in enumerate(asked_in_turn):
        asked, p = replayed.asked[:, index], replayed.by_stage[:, index]
        if step.accept is not None:
            taken[asked & replayed.may_accept[:, index] & (p >= step.accept)] = f"{step.name} yes"
        if step.reject is not None:
            taken[asked & replayed.may_reject[:, index] & (p <= step.reject)] = f"{step.name} no"
    if climbs(policy):
        open_ = (taken == "") & ~replayed.asked[:, len(policy.stages) :].any(axis=1)
        yes = replayed.probability >= policy.threshold
        taken[open_ & yes], taken[open_ & ~yes] = f"{NO_TIER} yes", f"{NO_TIER} no"
    return taken
