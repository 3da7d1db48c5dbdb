"""`policy.yaml` as frozen dataclasses: every number that the cascade decides by.

`load_policy` and `parse_policy` check (`policy_check`), `policy.to_dict()` and `write_policy` go back, so that fitting
and wiring change a policy as a plain dict: `write_policy(parse_policy(edited), path)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from roadwork_cascade.policy_check import PolicyError, check_policy, read_yaml
from roadwork_cascade.policy_text import policy_text

__all__ = ["Member", "Policy", "PolicyError", "Stage", "load_policy", "parse_policy", "write_policy"]

Kind = Literal["boxes", "scene", "text"]
Needs = Literal["image", "canvas"]


@dataclass(frozen=True)
class Member:
    """One model with a say, under its own name.

    Its probability is `pool.member_probability(s, kind, a, b, nothing)`.
    """

    name: str
    kind: Kind
    weight: float
    a: float = 1.0
    b: float = 0.0
    nothing: float | None = None


@dataclass(frozen=True)
class When:
    """Conditions under which a stage is asked; those that are None always hold."""

    min_probability: float | None = None
    max_probability: float | None = None
    disagreement: bool | None = None

    def holds(self, probability: float, disagreement: bool) -> bool:
        """Whether all conditions hold for the pooled probability so far."""
        return (
            (self.min_probability is None or probability >= self.min_probability)
            and (self.max_probability is None or probability <= self.max_probability)
            and (self.disagreement is None or disagreement == self.disagreement)
        )


@dataclass(frozen=True)
class Stage:
    """Members that are asked together, the bounds that end the cascade after them, a deadline and a price.

    `model` is an ensemble of all members (None: they are asked directly), `prepare` the model that makes the canvas,
    `needs` the tensor that the ensemble takes. P >= `accept` or P <= `reject` ends the cascade (None: never).
    """

    name: str
    model: str | None
    prepare: str | None
    needs: Needs
    deadline_ms: float
    price_per_second: float
    accept: float | None
    reject: float | None
    when: When | None
    members: tuple[Member, ...]


@dataclass(frozen=True)
class PoolSettings:
    """Slope and offset of the pooled logit."""

    alpha: float
    beta: float


@dataclass(frozen=True)
class AgreementSettings:
    """Share of the box and scene members, by count, that must be on one side of 0.5 to end early."""

    share: float


@dataclass(frozen=True)
class BreakerSettings:
    """See `breaker.Breaker`."""

    window: int
    minimum: int
    failure_rate: float
    open_seconds: float


@dataclass(frozen=True)
class FusionSettings:
    """Overlap at which boxes are fused and the least score drawn."""

    iou: float
    score: float


@dataclass(frozen=True)
class Policy:
    """A checked policy. `digest` is the first 12 hex digits of the SHA-256 of the file (of its JSON, if parsed)."""

    version: int
    name: str
    fitted: Mapping[str, Any] | None
    threshold: float
    quorum: float
    deadline_ms: float
    all_stages: bool
    pool: PoolSettings
    agreement: AgreementSettings
    breaker: BreakerSettings
    fusion: FusionSettings
    stages: tuple[Stage, ...]
    digest: str

    @property
    def identity(self) -> str:
        """`name@digest`, as verdicts give it."""
        return f"{self.name}@{self.digest}"

    def members(self) -> Iterator[tuple[Stage, Member]]:
        """Every member with its stage, in the order of the file."""
        for stage in self.stages:
            for member in stage.members:
                yield stage, member

    def preparer(self, stage: Stage) -> str | None:
        """The model that makes the canvas for `stage`: its own, or that of the last stage before it that has one."""
        before = self.stages[: self.stages.index(stage) + 1]
        return next((earlier.prepare for earlier in reversed(before) if earlier.prepare), None)

    def to_dict(self) -> dict[str, Any]:
        """The policy as the file holds it: plain dicts, lists and numbers, to be edited and parsed again."""
        return {
            "version": self.version,
            "name": self.name,
            "fitted": None if self.fitted is None else dict(self.fitted),
            "threshold": self.threshold,
            "quorum": self.quorum,
            "deadline_ms": self.deadline_ms,
            "all_stages": self.all_stages,
            "pool": vars(self.pool).copy(),
            "agreement": vars(self.agreement).copy(),
            "breaker": vars(self.breaker).copy(),
            "fusion": vars(self.fusion).copy(),
            "stages": [_stage_dict(stage) for stage in self.stages],
        }


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
        when=None if data.get("when") is None else When(**data["when"]),
        members=tuple(
            Member(
                name=name,
                kind=entry["kind"],
                weight=float(entry["weight"]),
                a=float(entry.get("a", 1.0)),
                b=float(entry.get("b", 0.0)),
                nothing=_optional(entry.get("nothing")),
            )
            for name, entry in data["members"].items()
        ),
    )


def _stage_dict(stage: Stage) -> dict[str, Any]:
    conditions = {} if stage.when is None else {key: v for key, v in vars(stage.when).items() if v is not None}
    return {
        **{key: value for key, value in vars(stage).items() if key not in ("when", "members")},
        "when": conditions or None,
        "members": {
            member.name: {key: value for key, value in vars(member).items() if key != "name"}
            for member in stage.members
        },
    }


def _floats(data: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in data.items()}


def _optional(value: float | None) -> float | None:
    return None if value is None else float(value)
