"""The verdict: what a caller gets, as a plain dict that `verdict.schema.json` describes."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from roadwork_cascade.members import Answer, Geometry, Missing

SCHEMA_PATH = Path(__file__).with_name("verdict.schema.json")
SCHEMA = 2
CURRENCY = "USD"
DIGITS = 6

Status = Literal["ok", "degraded", "timed_out"]
Outcome = Literal["answered", "partial", "failed", "timed_out", "skipped"]
TierOutcome = Literal["answered", "skipped", "failed", "timed_out"]
SkipReason = Literal[
    "cannot_change", "condition", "budget", "unavailable", "breaker_open", "deadline", "asleep", "decided", "not_wanted"
]

MOST_TEXT = 4000
"""Characters of a tier's text and thoughts that a verdict carries."""


@dataclass(frozen=True)
class StageRecord:
    """How one stage went. `probability` is the pool's after it, None where it was not asked."""

    name: str
    outcome: Outcome
    probability: float | None = None
    seconds: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True)
class TierRecord:
    """How one tier of the route went. `reason` is why it was skipped; `missing` says why one failed."""

    name: str
    member: str
    kind: str
    outcome: TierOutcome
    reason: SkipReason | None = None
    raw: float | None = None
    mass: float | None = None
    probability: float | None = None
    text: str | None = None
    thoughts: str | None = None
    repaired: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True)
class Conclusion:
    """All that a verdict is written from."""

    probability: float
    threshold: float
    status: Status
    decided_by: str | None
    geometry: Geometry | None
    boxes: list[dict[str, Any]]
    answers: list[Answer]
    missing: list[Missing]
    stages: list[StageRecord]
    seconds: float
    policy: str
    models: Mapping[str, str] = field(default_factory=dict)
    route: str | None = None
    tiers: list[TierRecord] = field(default_factory=list)


def is_roadwork(probability: float, threshold: float) -> bool:
    """The answer that a verdict with this probability gives; it is taken from the digits that callers see."""
    return round(probability, DIGITS) >= threshold


def write_verdict(conclusion: Conclusion) -> dict[str, Any]:
    """The verdict as plain dicts, lists, text and finite numbers."""
    probability = round(conclusion.probability, DIGITS)
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in [0, 1], got {probability}")  # a NaN must never reach a caller
    size = conclusion.geometry
    return {
        "schema": SCHEMA,
        "probability": probability,
        "roadwork": is_roadwork(probability, conclusion.threshold),
        "threshold": conclusion.threshold,
        "status": conclusion.status,
        "decided_by": conclusion.decided_by,
        "image": None if size is None else {"width": round(size.width), "height": round(size.height)},
        "boxes": conclusion.boxes,
        "words": [word for answer in conclusion.answers for word in answer.reading.words],
        "answers": [_answer(answer) for answer in conclusion.answers],
        "route": conclusion.route,
        "tiers": [tier_entry(record) for record in conclusion.tiers],
        "missing": [
            {"member": gap.member.name, "stage": gap.stage, "reason": gap.reason, "detail": gap.detail}
            for gap in conclusion.missing
        ],
        "stages": [_stage(record) for record in conclusion.stages],
        "milliseconds": _milliseconds(conclusion.seconds),
        "tokens": tokens(conclusion.tiers),
        "cost": significant(math.fsum(record.cost for record in conclusion.stages)),
        "currency": CURRENCY,
        "versions": {"policy": conclusion.policy, "models": dict(conclusion.models)},
    }


def verdict_bytes(verdict: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON. Raises `ValueError` rather than write NaN."""
    return json.dumps(verdict, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def schema_problems(verdict: Any) -> list[str]:
    """What the schema finds wrong with a verdict, a line each; empty when it is right."""
    errors: Iterable[Any] = _validator().iter_errors(verdict)
    return [f"{error.json_path}: {error.message}" for error in errors]


@functools.lru_cache(maxsize=1)
def _validator() -> Any:
    import jsonschema  # the cascade itself writes verdicts without it

    return jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def _answer(answer: Answer) -> dict[str, Any]:
    return {
        "member": answer.member.name,
        "stage": answer.stage,
        "kind": answer.member.kind,
        "raw": _rounded(answer.reading.raw),
        "probability": _rounded(answer.probability),
        "weight": answer.member.weight,
    }


def _stage(record: StageRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "outcome": record.outcome,
        "probability": _rounded(record.probability),
        "milliseconds": _milliseconds(record.seconds),
        "cost": significant(record.cost),
    }


def tier_entry(record: TierRecord) -> dict[str, Any]:
    """A tier as verdicts and events give it."""
    return {
        "name": record.name,
        "member": record.member,
        "kind": record.kind,
        "outcome": record.outcome,
        "reason": record.reason,
        "raw": _rounded(record.raw),
        "mass": _rounded(record.mass),
        "probability": _rounded(record.probability),
        "text": _bounded(record.text),
        "thoughts": _bounded(record.thoughts),
        "repaired": record.repaired,
        "tokens": {"input": record.input_tokens, "output": record.output_tokens},
        "milliseconds": _milliseconds(record.seconds),
        "cost": significant(record.cost),
    }


def tokens(records: Iterable[TierRecord]) -> dict[str, int]:
    """Tokens read and written by all tiers."""
    listed = list(records)
    return {"input": sum(r.input_tokens for r in listed), "output": sum(r.output_tokens for r in listed)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _bounded(text: str | None) -> str | None:
    return text if text is None or len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000.0, 3)


def significant(value: float) -> float:
    """Six significant digits: prices of a call are tiny."""
    return float(f"{value:.6g}")
