"""`Cascade.stream`: the order of events, and that leaving it stops the engine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import EngineError, InvalidImage, InvalidOptions
from roadwork_cascade.policy import parse_policy
from roadwork_cascade.verdict import schema_problems
from tier_double import TierEngine, prompts, tiers_policy


@pytest.fixture
def engine() -> TierEngine:
    engine = TierEngine()
    engine.scores.update(scene=0.3, yolox=0.3, centernet=0.3)  # low: to the reasoner
    return engine


@pytest.fixture
def cascade(engine: TierEngine) -> Cascade:
    return Cascade(parse_policy(tiers_policy()), engine, prompts=prompts())


async def test_events_come_in_order_and_progress_never_falls(cascade: Cascade, engine: TierEngine) -> None:
    events = [event async for event in cascade.stream(b"an image")]
    names = list(dict.fromkeys(event["event"] for event in events))
    assert names == ["accepted", "perceived", "escalated", "partial", "tier", "verdict"]
    assert [event["sequence"] for event in events] == list(range(len(events)))
    progress = [event["progress"] for event in events]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    assert {event["schema"] for event in events} == {1}
    for key in ("milliseconds", "cost"):
        assert [event[key] for event in events] == sorted(event[key] for event in events)
    perceived = [event for event in events if event["event"] == "perceived"]
    assert [event["stage"] for event in perceived] == ["glance", "perception", "signs"]
    escalated = next(event for event in events if event["event"] == "escalated")
    assert (escalated["route"], escalated["climb"]) == ("low", ["reason"])
    told = "".join(event["text"] for event in events if event["event"] == "partial")
    assert told == '{"thoughts": "cones", "roadwork": true}'
    assert engine.asked[0]["stream"] is True


async def test_the_last_event_is_the_verdict_that_run_gives(cascade: Cascade, engine: TierEngine) -> None:
    events = [event async for event in cascade.stream(b"an image")]
    verdict = events[-1]["verdict"]
    assert schema_problems(verdict) == []
    plain = await cascade.run(b"an image")
    assert engine.asked[-1]["stream"] is False
    for key in ("probability", "roadwork", "status", "decided_by", "route", "answers", "tokens", "boxes"):
        assert verdict[key] == plain[key]
    assert events[-1]["tokens"] == verdict["tokens"]
    tier = next(event["tier"] for event in events if event["event"] == "tier")
    assert tier == verdict["tiers"][0]


async def test_a_sure_image_has_no_escalation(cascade: Cascade, engine: TierEngine) -> None:
    engine.scores["scene"] = 0.999
    names = [event["event"] async for event in cascade.stream(b"an image")]
    assert names == ["accepted", "perceived", "verdict"]


async def test_closing_the_iterator_stops_the_engine(cascade: Cascade, engine: TierEngine) -> None:
    engine.piece_seconds = 0.01
    events = cascade.stream(b"an image")
    async for event in events:
        if event["event"] == "partial":
            break
    await events.aclose()
    await asyncio.sleep(0.01)
    assert engine.closed == ["thinker"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("how", ["stream", "run"])
async def test_cancelling_who_waits_stops_the_engine(cascade: Cascade, engine: TierEngine, how: str) -> None:
    engine.faults["thinker"] = "hang"

    async def stream() -> None:
        async for _ in cascade.stream(b"an image"):
            pass

    task = asyncio.ensure_future(stream() if how == "stream" else cascade.run(b"an image"))
    while not engine.asked:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.01)
    assert engine.closed == ["thinker"]
    assert len(asyncio.all_tasks()) == 1


async def test_cancelling_opens_no_breaker(cascade: Cascade, engine: TierEngine) -> None:
    engine.faults["thinker"] = "hang"
    for _ in range(8):
        task = asyncio.ensure_future(cascade.run(b"an image"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
    assert cascade.breakers["thinker"].state == "closed"


async def test_errors_come_out_of_the_iterator(cascade: Cascade, engine: TierEngine) -> None:
    engine.faults["decode"] = EngineError("INVALID_IMAGE: truncated")
    with pytest.raises(InvalidImage, match="truncated"):
        [event async for event in cascade.stream(b"an image")]
    with pytest.raises(InvalidOptions, match="max_tokens"):
        [event async for event in cascade.stream(b"an image", max_tokens=-1)]


async def test_streams_do_not_mix(cascade: Cascade, engine: TierEngine) -> None:
    engine.piece_seconds = 0.002

    async def told(image: bytes) -> list[dict[str, Any]]:
        return [event async for event in cascade.stream(image)]

    for events in await asyncio.gather(*(told(b"%d" % k) for k in range(20))):
        assert [event["sequence"] for event in events] == list(range(len(events)))
        assert "".join(e.get("text", "") for e in events) == '{"thoughts": "cones", "roadwork": true}'


async def test_a_crowd_is_perceived_in_turn_and_all_get_a_verdict(engine: TierEngine) -> None:
    cascade = Cascade(parse_policy(tiers_policy()), engine, prompts=prompts(), perceiving=2)
    engine.faults["glance"] = 0.02
    running = most = 0
    infer = engine.infer

    async def counted(*arguments: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await infer(*arguments)
        finally:
            running -= 1

    engine.infer = counted  # type: ignore[method-assign]
    verdicts = await asyncio.gather(*(cascade.run(b"an image", tiers=False) for _ in range(12)))
    assert most == 2
    assert {verdict["status"] for verdict in verdicts} == {"ok"}


async def test_whose_turn_never_comes_is_told_in_time(engine: TierEngine) -> None:
    cascade = Cascade(parse_policy(tiers_policy()), engine, prompts=prompts(), perceiving=1)
    engine.faults.update(dict.fromkeys(("glance", "perception", "decode", "scene", "sign_text"), "hang"))
    first = asyncio.ensure_future(cascade.run(b"an image"))
    await asyncio.sleep(0.01)
    verdict = await cascade.run(b"an image", deadline_ms=100)
    assert (verdict["status"], verdict["decided_by"]) == ("timed_out", None)
    first.cancel()
    await asyncio.wait({first})
    engine.faults.clear()
    assert (await cascade.run(b"an image"))["decided_by"] is not None
