"""Models that fail, hang or vanish: the verdict comes, says who was missing, and the breaker remembers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest


def gaps(verdict: dict[str, Any]) -> dict[str, str]:
    return {gap["member"]: gap["reason"] for gap in verdict["missing"]}


def outcomes(verdict: dict[str, Any]) -> list[str]:
    return [stage["outcome"] for stage in verdict["stages"]]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("error", "error"),
        ("unavailable", "unavailable"),
        ("bug", "error"),
        ("nan", "error"),
        ("empty", "error"),
        ("hang", "timed_out"),
        ("stubborn", "timed_out"),
    ],
)
async def test_a_member_that_fails_is_left_out_and_the_verdict_is_degraded(
    ask: Any, engine: Any, fault: str, reason: str
) -> None:
    engine.faults["yolox"] = fault
    engine.scores.update(scene=0.9, centernet=0.9)
    start = time.monotonic()
    verdict = await ask()
    assert time.monotonic() - start < 1.5
    assert verdict["status"] == "degraded"
    assert gaps(verdict) == {"yolox": reason}
    assert outcomes(verdict)[:2] == ["answered", "partial"]
    assert verdict["probability"] == pytest.approx(0.9, abs=1e-4)
    assert verdict["missing"][0]["detail"].startswith("yolox")


async def test_an_ensemble_that_fails_while_its_members_are_well_degrades_nothing(ask: Any, engine: Any) -> None:
    engine.faults.update(glance="error", perception="unavailable")
    verdict = await ask()
    assert verdict["status"] == "ok"
    assert engine.calls[:3] == ["glance", "decode", "scene"]
    for _ in range(5):
        assert (await ask())["status"] == "ok"
    engine.calls.clear()
    await ask()
    assert "glance" not in engine.calls  # its breaker is open: no time is lost on it
    assert "perception" not in engine.calls


async def test_the_breaker_opens_and_the_others_are_asked_one_by_one(ask: Any, engine: Any) -> None:
    engine.faults["yolox"] = "hang"
    for _ in range(3):
        assert gaps(await ask()) == {"yolox": "timed_out"}
    engine.calls.clear()
    verdict = await ask()
    assert gaps(verdict) == {"yolox": "breaker_open"}
    assert engine.calls == ["glance", "centernet", "sign_text"]


async def test_the_breaker_blames_the_one_that_hangs_and_not_its_neighbours(ask: Any, engine: Any) -> None:
    engine.faults["yolox"] = "hang"
    for _ in range(6):
        await ask()
    engine.faults.clear()
    assert [answer["member"] for answer in (await ask())["answers"]] == ["scene", "centernet", "sign_text"]


async def test_a_probe_is_sent_when_half_open_and_the_ensemble_is_back_after_it(
    ask: Any, engine: Any, clock: Any
) -> None:
    engine.faults["yolox"] = "error"
    for _ in range(4):
        await ask()
    clock.advance(10)
    engine.calls.clear()
    assert gaps(await ask()) == {"yolox": "error"}
    assert engine.calls.count("yolox") == 1  # the probe failed
    assert gaps(await ask()) == {"yolox": "breaker_open"}
    engine.faults.clear()
    clock.advance(10)
    assert (await ask())["status"] == "ok"
    engine.calls.clear()
    assert (await ask())["status"] == "ok"
    assert "perception" in engine.calls
    assert "yolox" not in engine.calls


async def test_only_one_of_many_requests_sends_the_probe(ask: Any, engine: Any, clock: Any) -> None:
    engine.faults["yolox"] = "error"
    for _ in range(4):
        await ask()
    clock.advance(10)
    engine.faults["yolox"] = 0.05
    engine.calls.clear()
    verdicts = await asyncio.gather(*(ask() for _ in range(10)))
    assert engine.calls.count("yolox") == 1
    assert [verdict["status"] for verdict in verdicts].count("ok") == 1


async def test_a_cancelled_request_is_no_failure(ask: Any, engine: Any) -> None:
    engine.faults["yolox"] = "hang"
    for _ in range(10):
        task = asyncio.ensure_future(ask())
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    engine.faults.clear()
    assert (await ask())["status"] == "ok"


async def test_a_cancelled_probe_does_not_keep_the_breaker_open(ask: Any, engine: Any, clock: Any) -> None:
    engine.faults["yolox"] = "error"
    for _ in range(4):
        await ask()
    clock.advance(10)
    engine.faults["yolox"] = "hang"
    task = asyncio.ensure_future(ask())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.faults.clear()
    assert (await ask())["status"] == "ok"


async def test_without_quorum_the_image_escalates_though_the_bound_is_passed(
    make_ask: Any, data: dict[str, Any], engine: Any
) -> None:
    data["quorum"] = 0.9
    engine.faults["yolox"] = "error"
    engine.scores.update(scene=0.97, centernet=0.99)
    verdict = await make_ask(data)()
    assert verdict["status"] == "degraded"
    assert verdict["decided_by"] == "signs"
    data["quorum"] = 0.5
    assert (await make_ask(data)())["decided_by"] == "perception"


async def test_without_quorum_a_condition_on_the_probability_is_no_reason_to_skip(ask: Any, engine: Any) -> None:
    engine.scores["scene"] = 0.025  # under the condition of the last stage
    engine.faults.update(yolox="error", centernet="error")
    verdict = await ask()
    assert outcomes(verdict) == ["answered", "failed", "answered"]


async def test_when_decode_fails_text_alone_answers(ask: Any, engine: Any) -> None:
    engine.faults["decode"] = "error"
    engine.scores["sign_text"] = 0.8
    verdict = await ask()
    assert gaps(verdict) == {"scene": "error", "yolox": "error", "centernet": "error"}
    assert "decode" in verdict["missing"][0]["detail"]
    assert verdict["decided_by"] == "signs"
    assert verdict["image"] is None
    assert verdict["boxes"] == []


async def test_decode_is_asked_again_by_the_stage_that_needs_the_canvas(
    make_ask: Any, data: dict[str, Any], engine: Any
) -> None:
    engine.faults["decode"] = 0.4  # too slow for the glance, fast enough for a stage with more time
    data["stages"][1]["deadline_ms"] = 1500
    verdict = await make_ask(data)()
    assert gaps(verdict) == {"scene": "timed_out"}
    assert [answer["member"] for answer in verdict["answers"]] == ["yolox", "centernet", "sign_text"]


async def test_when_nobody_answers_the_probability_is_neutral(ask: Any, engine: Any) -> None:
    engine.faults.update(decode="error", sign_text="error")
    verdict = await ask()
    assert verdict["status"] == "degraded"
    assert verdict["probability"] == 0.5
    assert verdict["decided_by"] is None
    assert outcomes(verdict) == ["failed", "failed", "failed"]


async def test_a_stage_that_was_too_slow_is_told_from_one_that_failed(ask: Any, engine: Any) -> None:
    engine.faults["scene"] = "hang"
    verdict = await ask()
    assert outcomes(verdict)[0] == "timed_out"
    assert verdict["status"] == "degraded"  # its own deadline, not the request's
