"""The parts of a policy as frozen dataclasses; `policy` reads and writes them, docs/contracts.md explains them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["boxes", "scene", "text", "distance", "scorer", "reasoner"]
Needs = Literal["image", "canvas"]

VOTELESS: tuple[Kind, ...] = ("distance",)
"""Kinds that bring evidence and say nothing of roadwork: nothing is decided by them, nor by their absence."""


@dataclass(frozen=True)
class Member:
    """One model that is asked, under its own name.

    Its probability is `pool.member_probability(s, kind, a, b, nothing)`. `minimum_mass` (scorer and reasoner only) is
    the least probability that its yes and no tokens must have together for its answer to count. A member of a kind in
    `VOTELESS` has weight 0 and no calibration.
    """

    name: str
    kind: Kind
    weight: float
    a: float = 1.0
    b: float = 0.0
    nothing: float | None = None
    minimum_mass: float | None = None

    @property
    def votes(self) -> bool:
        """Whether it says anything of roadwork."""
        return self.kind not in VOTELESS


@dataclass(frozen=True)
class Seen:
    """What perception saw, as conditions ask it: fused boxes, the largest one's share of the image, words read."""

    boxes: int
    box_share: float
    words: bool


@dataclass(frozen=True)
class When:
    """Conditions on what is known so far; those that are None always hold."""

    min_probability: float | None = None
    max_probability: float | None = None
    disagreement: bool | None = None
    min_boxes: int | None = None
    max_boxes: int | None = None
    min_box_share: float | None = None
    max_box_share: float | None = None
    words: bool | None = None

    def holds(self, probability: float, disagreement: bool, seen: Callable[[], Seen] | None = None) -> bool:
        """Whether all conditions hold.

        `seen` is called only where a condition asks for boxes or words, because fusing boxes takes time. Raises
        `ValueError` where such a condition meets a caller who knows of no boxes.
        """
        if not (
            (self.min_probability is None or probability >= self.min_probability)
            and (self.max_probability is None or probability <= self.max_probability)
            and (self.disagreement is None or disagreement == self.disagreement)
        ):
            return False
        if not self.looks:
            return True
        if seen is None:
            raise ValueError("a condition on boxes or words cannot be judged by probabilities alone")
        known = seen()
        return (
            (self.min_boxes is None or known.boxes >= self.min_boxes)
            and (self.max_boxes is None or known.boxes <= self.max_boxes)
            and (self.min_box_share is None or known.box_share >= self.min_box_share)
            and (self.max_box_share is None or known.box_share <= self.max_box_share)
            and (self.words is None or known.words == self.words)
        )

    @property
    def looks(self) -> bool:
        """Whether a condition asks for boxes or words."""
        asked = (self.min_boxes, self.max_boxes, self.min_box_share, self.max_box_share, self.words)
        return any(value is not None for value in asked)


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
class TokenPrices:
    """Price of 1000 tokens read and of 1000 written."""

    input: float = 0.0
    output: float = 0.0

    def of(self, read: int, written: int) -> float:
        """Price of so many tokens."""
        return (read * self.input + written * self.output) / 1000.0


@dataclass(frozen=True)
class Rare:
    """A tier that gives its GPU memory back after so many seconds without a request.

    `level`: vLLM's, 1 keeps the weights in the host's memory, 2 reads them again. `wake_ms`: what waking takes at most.
    """

    sleep_after_seconds: float
    wake_ms: float
    level: Literal[1, 2] = 1


@dataclass(frozen=True)
class Tier:
    """One vision-language model that a route may climb to. `member.name` is the model's folder.

    `findings`: perception's findings go into the prompt. `required`: where it is not loaded, the verdict is degraded.
    `rare`: when it sleeps; None: never.
    """

    name: str
    deadline_ms: float
    price_per_second: float
    price_per_1000_tokens: TokenPrices
    accept: float | None
    reject: float | None
    when: When | None
    findings: bool
    required: bool
    member: Member
    rare: Rare | None = None


@dataclass(frozen=True)
class Route:
    """Names of the tiers that are climbed in turn where `when` holds (None: always)."""

    name: str
    when: When | None
    climb: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """The most tokens (read and written) and the most money that a request may take; None: no limit."""

    tokens: int | None = None
    cost: float | None = None


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
    """A checked policy. `digest` is the first 12 hex digits of the SHA-256 of the file (of its JSON, if parsed).

    `together` is an ensemble of all stages before the first one that has none; None: they are always asked in turn.
    """

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
    absent_tiers: Literal["degrade", "refuse"] = "degrade"
    budget: Budget = field(default_factory=Budget)
    routes: tuple[Route, ...] = ()
    tiers: tuple[Tier, ...] = ()
    together: str | None = None

    @property
    def identity(self) -> str:
        """`name@digest`, as verdicts give it."""
        return f"{self.name}@{self.digest}"

    def members(self) -> Iterator[tuple[Stage, Member]]:
        """Every member of perception with its stage, in the order of the file; `tiers` has the others."""
        for stage in self.stages:
            for member in stage.members:
                yield stage, member

    def tier(self, name: str) -> Tier:
        """The tier of that name. Raises `KeyError`."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        raise KeyError(name)

    def preparer(self, stage: Stage) -> str | None:
        """The model that makes the canvas for `stage`: its own, or that of the last stage before it that has one."""
        before = self.stages[: self.stages.index(stage) + 1]
        return next((earlier.prepare for earlier in reversed(before) if earlier.prepare), None)

    @property
    def ensembles(self) -> tuple[Stage, ...]:
        """The stages before the first one that has no ensemble."""
        return tuple(itertools.takewhile(lambda stage: stage.model is not None, self.stages))

    @property
    def merged(self) -> Stage | None:
        """`ensembles` as the one stage that `together` asks, with the sum of their deadlines; None: not two of them."""
        stages = self.ensembles
        if self.together is None or len(stages) < 2 or stages[0].prepare is None:
            return None
        return dataclasses.replace(
            stages[0],
            name=self.together,
            model=self.together,
            deadline_ms=math.fsum(stage.deadline_ms for stage in stages),
            accept=None,
            reject=None,
            when=None,
            members=tuple(member for stage in stages for member in stage.members),
        )

    def to_dict(self) -> dict[str, Any]:
        """The policy as the file holds it: plain dicts, lists and numbers, to be edited and parsed again."""
        data: dict[str, Any] = {
            "version": self.version,
            "name": self.name,
            "fitted": None if self.fitted is None else dict(self.fitted),
            "threshold": self.threshold,
            "quorum": self.quorum,
            "deadline_ms": self.deadline_ms,
            "all_stages": self.all_stages,
            **({} if self.together is None else {"together": self.together}),
            "pool": vars(self.pool).copy(),
            "agreement": vars(self.agreement).copy(),
            "breaker": vars(self.breaker).copy(),
            "fusion": vars(self.fusion).copy(),
            "stages": [_stage_dict(stage) for stage in self.stages],
        }
        if self.version >= 2:
            data["absent_tiers"] = self.absent_tiers
            data["budget"] = vars(self.budget).copy()
            data["routes"] = [
                {"name": route.name, "when": _when_dict(route.when), "climb": list(route.climb)}
                for route in self.routes
            ]
            data["tiers"] = [_tier_dict(tier) for tier in self.tiers]
        return data


def _stage_dict(stage: Stage) -> dict[str, Any]:
    return {
        **{key: value for key, value in vars(stage).items() if key not in ("when", "members")},
        "when": _when_dict(stage.when),
        "members": {member.name: _member_dict(member) for member in stage.members},
    }


def _tier_dict(tier: Tier) -> dict[str, Any]:
    return {
        "name": tier.name,
        "deadline_ms": tier.deadline_ms,
        "price_per_second": tier.price_per_second,
        "price_per_1000_tokens": vars(tier.price_per_1000_tokens).copy(),
        "accept": tier.accept,
        "reject": tier.reject,
        "when": _when_dict(tier.when),
        "findings": tier.findings,
        "required": tier.required,
        **({} if tier.rare is None else {"rare": vars(tier.rare).copy()}),
        "members": {tier.member.name: _member_dict(tier.member)},
    }


def _when_dict(when: When | None) -> dict[str, Any] | None:
    return None if when is None else {key: value for key, value in vars(when).items() if value is not None} or None


def _member_dict(member: Member) -> dict[str, Any]:
    if not member.votes:
        return {"kind": member.kind}
    data = {key: value for key, value in vars(member).items() if key != "name"}
    if member.minimum_mass is None:
        del data["minimum_mass"]
    return data
