"""`policy.yaml`: every number that the cascade decides by.

`load_policy` and `parse_policy` check (`policy_check`), `policy.to_dict()` and `write_policy` go back, so that fitting
and wiring change a policy as a plain dict: `write_policy(parse_policy(edited), path)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadwork_cascade.policy_check import PolicyError, check_policy, read_yaml
from roadwork_cascade.policy_parts import (
    VOTELESS,
    AgreementSettings,
    BreakerSettings,
    Budget,
    FusionSettings,
    Member,
    Policy,
    PoolSettings,
    Rare,
    Route,
    Stage,
    Tier,
    TokenPrices,
    When,
)
from roadwork_cascade.policy_text import policy_text

__all__ = [
    "Budget",
    "Member",
    "Policy",
    "PolicyError",
    "Rare",
    "Route",
    "Stage",
    "Tier",
    "TokenPrices",
    "When",
    "load_policy",
    "parse_policy",
    "write_policy",
]

MINIMUM_MASS = 0.5
"""Of a scorer or reasoner whose policy names none: less on yes and no together means that the question failed."""


def load_policy(path: str | Path) -> Policy:
    """Read `policy.yaml`. Raises `PolicyError` naming the file and the field."""
    data, raw = read_yaml(Path(path))
    try:
        check_policy(data)
        return _build(data, hashlib.sha256(raw).hexdigest()[:12])
    except PolicyError as error:
        raise PolicyError(error.field, error.problem, path=path) from None


def parse_policy(data: Any) -> Policy:
    """Check a policy given as plain dicts and lists. Raises `PolicyError` naming the field."""
    check_policy(data)
    canonical = json.dumps(data, sort_keys=True, default=str).encode()
    return _build(data, hashlib.sha256(canonical).hexdigest()[:12])


def write_policy(policy: Policy, path: str | Path) -> None:
    """Write a policy as commented YAML, in one step: a server that starts meanwhile reads the old or the new one."""
    path = Path(path)
    data = policy.to_dict()
    check_policy(data)
    draft = path.with_name(path.name + ".new")
    draft.write_text(policy_text(data), encoding="utf-8")
    draft.replace(path)


def _build(data: Any, digest: str) -> Policy:
    budget = data.get("budget") or {}
    return Policy(
        version=data["version"],
        name=data["name"],
        fitted=data.get("fitted"),
        threshold=float(data["threshold"]),
        quorum=float(data["quorum"]),
        deadline_ms=float(data["deadline_ms"]),
        all_stages=data.get("all_stages", False),
        pool=PoolSettings(**_floats(data["pool"])),
        agreement=AgreementSettings(**_floats(data["agreement"])),
        breaker=BreakerSettings(
            window=int(data["breaker"]["window"]),
            minimum=int(data["breaker"]["minimum"]),
            failure_rate=float(data["breaker"]["failure_rate"]),
            open_seconds=float(data["breaker"]["open_seconds"]),
        ),
        fusion=FusionSettings(**_floats(data["fusion"])),
        stages=tuple(_stage(entry) for entry in data["stages"]),
        digest=digest,
        absent_tiers=data.get("absent_tiers", "degrade"),
        budget=Budget(tokens=_whole(budget.get("tokens")), cost=_optional(budget.get("cost"))),
        routes=tuple(
            Route(entry["name"], _when(entry.get("when")), tuple(entry["climb"])) for entry in data.get("routes") or ()
        ),
        tiers=tuple(_tier(entry) for entry in data.get("tiers") or ()),
        together=data.get("together"),
    )


def _stage(data: Mapping[str, Any]) -> Stage:
    return Stage(
        name=data["name"],
        model=data.get("model"),
        prepare=data.get("prepare"),
        needs=data["needs"],
        deadline_ms=float(data["deadline_ms"]),
        price_per_second=float(data.get("price_per_second", 0.0)),
        accept=_optional(data.get("accept")),
        reject=_optional(data.get("reject")),
        when=_when(data.get("when")),
        members=tuple(_member(name, entry) for name, entry in data["members"].items()),
    )


def _tier(data: Mapping[str, Any]) -> Tier:
    ((name, entry),) = data["members"].items()
    prices = data.get("price_per_1000_tokens") or {}
    return Tier(
        name=data["name"],
        deadline_ms=float(data["deadline_ms"]),
        price_per_second=float(data.get("price_per_second", 0.0)),
        price_per_1000_tokens=TokenPrices(**_floats(prices)),
        accept=_optional(data.get("accept")),
        reject=_optional(data.get("reject")),
        when=_when(data.get("when")),
        findings=data.get("findings", False),
        required=data.get("required", False),
        member=_member(name, {"minimum_mass": MINIMUM_MASS, **entry}),
        rare=_rare(data.get("rare")),
    )


def _rare(data: Mapping[str, Any] | None) -> Rare | None:
    if data is None:
        return None
    return Rare(float(data["sleep_after_seconds"]), float(data["wake_ms"]), data.get("level", 1))


def _member(name: str, entry: Mapping[str, Any]) -> Member:
    if entry["kind"] in VOTELESS:
        return Member(name, entry["kind"], weight=0.0)
    return Member(
        name=name,
        kind=entry["kind"],
        weight=float(entry["weight"]),
        a=float(entry.get("a", 1.0)),
        b=float(entry.get("b", 0.0)),
        nothing=_optional(entry.get("nothing")),
        minimum_mass=_optional(entry.get("minimum_mass")),
    )


def _when(data: Mapping[str, Any] | None) -> When | None:
    return None if data is None else When(**data)


def _floats(data: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in data.items()}


def _optional(value: float | None) -> float | None:
    return None if value is None else float(value)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
