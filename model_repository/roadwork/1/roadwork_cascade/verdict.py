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
CURRENCY = "USD"

Status = Literal["ok", "degraded", "timed_out"]
Outcome = Literal["answered", "partial", "failed", "timed_out", "skipped"]


@dataclass(frozen=True)
class StageRecord:
    """How one stage went. `probability` is the pool's after it, None where it was not asked."""

    name: str
    outcome: Outcome
    probability: float | None = None
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


def write_verdict(conclusion: Conclusion) -> dict[str, Any]:
    """The verdict as plain dicts, lists, text and finite numbers."""
    probability = round(conclusion.probability, 6)
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in [0, 1], got {probability}")  # a NaN must never reach a caller
    size = conclusion.geometry
    return {
        "schema": 1,
        "probability": probability,
        "roadwork": probability >= conclusion.threshold,
        "threshold": conclusion.threshold,
        "status": conclusion.status,
        "decided_by": conclusion.decided_by,
        "image": None if size is None else {"width": round(size.width), "height": round(size.height)},
        "boxes": conclusion.boxes,
        "words": [word for answer in conclusion.answers for word in answer.reading.words],
        "answers": [_answer(answer) for answer in conclusion.answers],
        "tiers": [],
        "missing": [
            {"member": gap.member.name, "stage": gap.stage, "reason": gap.reason, "detail": gap.detail}
            for gap in conclusion.missing
        ],
        "stages": [_stage(record) for record in conclusion.stages],
        "milliseconds": _milliseconds(conclusion.seconds),
        "tokens": {"input": 0, "output": 0},
        "cost": _significant(math.fsum(record.cost for record in conclusion.stages)),
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
        "raw": round(answer.reading.raw, 6),
        "probability": None if answer.probability is None else round(answer.probability, 6),
        "weight": answer.member.weight,
    }


def _stage(record: StageRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "outcome": record.outcome,
        "probability": None if record.probability is None else round(record.probability, 6),
        "milliseconds": _milliseconds(record.seconds),
        "cost": _significant(record.cost),
    }


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000.0, 3)


def _significant(value: float) -> float:
    return float(f"{value:.6g}")
