"""Tiers that fail, hang, are not loaded or dear: the verdict comes in time and says what happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import Piece, RequestRefused
from roadwork_cascade.policy import parse_policy
from roadwork_cascade.prompts import Prompts
from roadwork_cascade.verdict import schema_problems
from tier_double import TierEngine, entry, prompts, tiers_policy, unsure_engine

Make = Callable[..., Cascade]


@pytest.fixture
def data() -> dict[str, Any]:
    return tiers_policy()


@pytest.fixture
def engine() -> TierEngine:
    return unsure_engine()


@pytest.fixture
def cascade(engine: TierEngine, data: dict[str, Any], clock: Any) -> Cascade:
    return Cascade(parse_policy(data), engine, clock=clock, prompts=prompts())


async def run(cascade: Cascade, **options: Any) -> dict[str, Any]:
    verdict = await cascade.run(b"an image", **options)
    assert schema_problems(verdict) == []
    return verdict


def fast(verdict: dict[str, Any]) -> dict[str, Any]:
    return next(tier for tier in verdict["tiers"] if tier["name"] == "fast")


async def test_a_callers_own_fault_does_not_open_a_tiers_breaker(cascade: Cascade, engine: TierEngine) -> None:
    engine.faults["vlm_s"] = RequestRefused("vlm_s: image[0]: has too many pixels")
    for _ in range(12):
        assert fast(await run(cascade))["outcome"] == "failed"
    engine.faults.clear()
    assert fast(await run(cascade))["outcome"] == "answered"


@pytest.mark.parametrize(
    ("fault", "outcome", "reason"),
    [("error", "failed", "error"), ("hang", "timed_out", "timed_out"), (KeyError("bug"), "failed", "error")],
)
async def test_a_tier_that_fails_is_missing_and_the_next_is_asked(
    cascade: Cascade, engine: TierEngine, fault: Any, outcome: str, reason: str
) -> None:
    engine.faults["vlm_s"] = fault
    verdict = await run(cascade)
    assert fast(verdict)["outcome"] == outcome
    assert fast(verdict)["reason"] is None
    assert [(gap["member"], gap["stage"], gap["reason"]) for gap in verdict["missing"]] == [("vlm_s", "fast", reason)]
    assert verdict["status"] == "degraded"
    assert verdict["decided_by"] == "reason"


async def test_a_tier_that_goes_on_failing_is_not_asked_for_a_while(
    cascade: Cascade, engine: TierEngine, clock: Any
) -> None:
    engine.faults["vlm_s"] = "error"
    for _ in range(3):
        await run(cascade)
    engine.asked.clear()
    verdict = await run(cascade)
    assert fast(verdict)["reason"] == "breaker_open"
    assert "vlm_s" not in engine.tiers
    assert verdict["status"] == "degraded"
    engine.faults.clear()
    clock.advance(11)
    assert fast(await run(cascade))["outcome"] == "answered"


async def test_a_tier_that_is_not_loaded_costs_nothing_and_joins_later(
    cascade: Cascade, engine: TierEngine, clock: Any
) -> None:
    engine.faults.update(vlm_s="unavailable", thinker="unavailable")
    verdict = await run(cascade)
    assert fast(verdict)["reason"] == "unavailable"
    assert (verdict["status"], verdict["missing"]) == ("ok", [])
    engine.asked.clear()
    engine.faults.clear()
    for _ in range(5):
        assert fast(await run(cascade))["reason"] == "unavailable"
    assert engine.asked == []
    clock.advance(6)
    assert fast(await run(cascade))["outcome"] == "answered"


async def test_a_required_tier_that_is_not_loaded_degrades(
    engine: TierEngine, data: dict[str, Any], clock: Any
) -> None:
    data["tiers"][0]["required"] = True
    cascade = Cascade(parse_policy(data), engine, clock=clock, prompts=prompts())
    engine.faults["vlm_s"] = "unavailable"
    for _ in range(2):
        verdict = await run(cascade)
        assert verdict["status"] == "degraded"
        assert verdict["missing"][0]["reason"] == "unavailable"


async def test_a_folder_that_comes_later_is_found(
    engine: TierEngine, data: dict[str, Any], clock: Any, tmp_path: Path
) -> None:
    import json

    from tier_double import SCORER

    cascade = Cascade(parse_policy(data), engine, clock=clock, prompts=Prompts(tmp_path))
    assert fast(await run(cascade))["reason"] == "unavailable"
    (tmp_path / "vlm_s").mkdir()
    (tmp_path / "vlm_s" / "prompt.json").write_text(json.dumps(SCORER))
    clock.advance(6)
    assert fast(await run(cascade))["outcome"] == "answered"


async def test_a_slow_tier_leaves_the_time_to_conclude(engine: TierEngine, data: dict[str, Any]) -> None:
    data["tiers"][0]["deadline_ms"] = 5000
    cascade = Cascade(parse_policy(data), engine, prompts=prompts())
    engine.faults["vlm_s"] = "hang"
    start = time.monotonic()
    verdict = await run(cascade, deadline_ms=700)
    assert time.monotonic() - start < 0.75
    assert verdict["status"] == "timed_out"
    assert verdict["probability"] == pytest.approx(0.6, abs=1e-3)
    assert fast(verdict)["outcome"] == "timed_out"
    assert verdict["tiers"][1]["reason"] == "deadline"
    await asyncio.sleep(0.01)
    assert engine.closed == ["vlm_s"]


async def test_a_tier_is_not_asked_with_hardly_any_time(engine: TierEngine, data: dict[str, Any]) -> None:
    data["tiers"][0]["deadline_ms"] = 60_000
    cascade = Cascade(parse_policy(data), engine, prompts=prompts())
    verdict = await run(cascade, deadline_ms=1000)
    assert fast(verdict)["reason"] == "deadline"
    assert verdict["status"] == "timed_out"
    assert verdict["decided_by"] == "reason"


async def test_a_hundred_requests_for_one_slot_all_keep_their_deadline(
    engine: TierEngine, data: dict[str, Any]
) -> None:
    data["breaker"]["failure_rate"] = 1.0
    data["tiers"][0]["deadline_ms"] = 1000
    cascade = Cascade(parse_policy(data), engine, prompts=prompts())
    engine.slots, engine.piece_seconds = asyncio.Semaphore(1), 0.02

    async def timed() -> tuple[dict[str, Any], float]:
        start = time.monotonic()
        verdict = await cascade.run(b"an image", deadline_ms=4000, tiers=["fast"])
        return verdict, time.monotonic() - start

    told = await asyncio.gather(*(timed() for _ in range(100)))
    outcomes = [fast(verdict)["outcome"] for verdict, _ in told]
    assert max(seconds for _, seconds in told) < 4.25
    assert outcomes.count("answered") >= 3  # one after another, while the others wait
    assert outcomes.count("timed_out") >= 5
    await asyncio.sleep(0.05)
    assert not engine.slots.locked()


@pytest.mark.parametrize("how", ["option", "policy"])
async def test_a_budget_of_tokens_keeps_tiers_out(engine: TierEngine, data: dict[str, Any], how: str) -> None:
    if how == "policy":
        data["budget"]["tokens"] = 80
    cascade = Cascade(parse_policy(data), engine, prompts=prompts())
    engine.says["vlm_s"] = 0.5  # leaves it open
    verdict = await run(cascade, max_tokens=80 if how == "option" else None)
    assert fast(verdict)["outcome"] == "answered"
    # 71 of 80 are spent, and the reasoner may write 64.
    assert verdict["tiers"][1]["reason"] == "budget"
    assert verdict["status"] == "ok"
    # The input of the last request is known now.
    assert fast(await run(cascade, max_tokens=70))["reason"] == "budget"
    assert fast(await run(cascade, max_tokens=71))["outcome"] == "answered"


async def test_a_budget_of_cost_keeps_tiers_out(cascade: Cascade, engine: TierEngine) -> None:
    await run(cascade)
    engine.asked.clear()
    verdict = await run(cascade, max_cost=0.0005)
    assert fast(verdict)["reason"] == "budget"
    assert engine.asked == []


async def test_no_budget_means_no_tier(cascade: Cascade, engine: TierEngine) -> None:
    await run(cascade, max_tokens=0)
    assert engine.asked == []


async def test_little_mass_is_a_question_that_failed(cascade: Cascade, engine: TierEngine) -> None:
    engine.says["vlm_s"] = [Piece("maybe", [entry("maybe", 9, 0.2, 0.1)], 70, 1)]
    verdict = await run(cascade)
    assert fast(verdict)["outcome"] == "failed"
    assert "neither yes nor no: their mass is 0.300, under 0.5" in verdict["missing"][0]["detail"]
    assert fast(verdict)["text"] == "maybe"


async def test_broken_json_is_repaired_once(cascade: Cascade, engine: TierEngine) -> None:
    def thinker(sampling: Any) -> list[Piece]:
        if sampling["max_tokens"] == 1:
            return [Piece("true", [entry("true", 1, 0.9, 0.1)], 100, 1)]
        return [Piece('{"thoughts": "I see', [entry("x", 9, 0, 0)], 70, 64)]

    engine.says["thinker"] = thinker
    verdict = await run(cascade, tiers=["reason"])
    (_, tier) = verdict["tiers"]
    assert (tier["outcome"], tier["repaired"], tier["raw"]) == ("answered", True, pytest.approx(0.9))
    assert tier["tokens"] == {"input": 170, "output": 65}
    first, second = engine.asked
    assert second["prompt"] == first["prompt"] + '{"thoughts": "I see' + '\n{"roadwork":'
    assert second["sampling"]["allowed_token_ids"] == [1, 2, 3, 4]
    assert "structured_outputs" not in second["sampling"]


async def test_a_repair_that_brings_nothing_is_a_failure(cascade: Cascade, engine: TierEngine) -> None:
    engine.says["thinker"] = lambda sampling: [Piece("well", [entry("well", 9, 0, 0)], 70, 3)]
    verdict = await run(cascade, tiers=["reason"])
    assert len(engine.asked) == 2
    assert verdict["tiers"][1]["outcome"] == "failed"
    assert "neither yes nor no" in verdict["missing"][0]["detail"]


async def test_a_repair_over_the_budget_is_left(cascade: Cascade, engine: TierEngine) -> None:
    engine.says["thinker"] = lambda sampling: [Piece("well", [entry("well", 9, 0, 0)], 70, 3)]
    verdict = await run(cascade, tiers=["reason"], max_tokens=100)
    assert len(engine.asked) == 1
    assert "has no JSON" in verdict["missing"][0]["detail"]


async def test_without_a_canvas_the_tier_gets_the_original(
    engine: TierEngine, data: dict[str, Any], clock: Any
) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (200, 100)).save(buffer, "PNG")
    engine.faults.update(dict.fromkeys(("glance", "decode", "perception"), "error"))
    cascade = Cascade(parse_policy(data), engine, clock=clock, prompts=prompts())
    verdict = await cascade.run(buffer.getvalue())
    assert verdict["decided_by"] in ("fast", "reason")
    with Image.open(io.BytesIO(engine.asked[0]["images"][0])) as sent:
        assert (sent.format, sent.size) == ("JPEG", (32, 16))
