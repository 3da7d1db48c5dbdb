"""All stages in one call, where a request wants all of them: the same verdict, and the same care for what fails."""

from __future__ import annotations

import time
from typing import Any

import pytest
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import InvalidImage
from roadwork_cascade.policy import PolicyError, parse_policy

ONCE = ["everything", "sign_text"]


@pytest.fixture
def data(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "version": 2, "together": "everything"}


@pytest.fixture(autouse=True)
def _ensemble(engine: Any) -> None:
    engine.ensembles = {**engine.ensembles, "everything": ("decode", "scene", "yolox", "centernet")}


def told(verdict: dict[str, Any]) -> dict[str, Any]:
    """What a verdict says, without how long it took."""
    stages = [(stage["name"], stage["outcome"], stage["probability"]) for stage in verdict["stages"]]
    timeless = {k: v for k, v in verdict.items() if k not in ("stages", "milliseconds", "cost", "versions")}
    return {**timeless, "stages": stages}


async def test_one_call_brings_the_verdict_of_all_stages_in_turn(
    ask: Any, make_ask: Any, engine: Any, data: dict[str, Any]
) -> None:
    engine.scores.update(scene=0.3, yolox=0.8, centernet=0.7, sign_text=0.9)
    together = await ask(all_stages=True)
    assert engine.calls == ONCE
    assert together["boxes"]
    in_turn = await make_ask({**data, "together": None})(all_stages=True)
    assert engine.calls == [*ONCE, "glance", "perception", "sign_text"]
    assert told(together) == told(in_turn)
    assert {answer["member"]: answer["stage"] for answer in together["answers"]} == {
        "scene": "glance", "yolox": "perception", "centernet": "perception", "sign_text": "signs",
    }  # fmt: skip


async def test_stages_that_may_end_early_are_asked_in_turn(ask: Any, engine: Any) -> None:
    engine.scores["scene"] = 0.999
    assert (await ask())["decided_by"] == "glance"
    assert engine.calls == ["glance"]


async def test_a_policy_that_always_asks_all_stages_asks_them_together(make_ask: Any, engine: Any, data: Any) -> None:
    await make_ask({**data, "all_stages": True})()
    assert engine.calls == ONCE


async def test_who_listens_hears_of_each_stage_as_it_answers(policy: Any, engine: Any) -> None:
    events = [event async for event in Cascade(policy, engine).stream(b"an image", all_stages=True)]
    perceived = [event["stage"] for event in events if event["event"] == "perceived"]
    assert perceived == ["glance", "perception", "signs"]
    assert engine.calls == ["glance", "perception", "sign_text"]


async def test_the_time_and_its_price_stand_with_the_last_stage(ask: Any, engine: Any) -> None:
    engine.faults["everything"] = 0.02
    glance, perception, _ = (await ask(all_stages=True))["stages"]
    assert (glance["milliseconds"], glance["cost"]) == (0, 0)
    assert perception["milliseconds"] >= 20
    assert perception["cost"] == pytest.approx(perception["milliseconds"] / 1000 * 0.02, rel=1e-3)


@pytest.mark.parametrize(
    ("fault", "reason"), [("error", "error"), ("unavailable", "unavailable"), ("hang", "timed_out"), ("nan", "error")]
)
async def test_a_member_that_fails_is_left_out_by_itself(ask: Any, engine: Any, fault: str, reason: str) -> None:
    engine.faults["yolox"] = fault
    start = time.monotonic()
    verdict = await ask(all_stages=True)
    assert time.monotonic() - start < 1.5
    assert [(gap["member"], gap["stage"], gap["reason"]) for gap in verdict["missing"]] == [
        ("yolox", "perception", reason)
    ]
    assert [stage["outcome"] for stage in verdict["stages"]] == ["answered", "partial", "answered"]
    assert verdict["status"] == "degraded"
    engine.calls.clear()
    engine.faults.clear()
    assert (await ask(all_stages=True))["status"] == "ok"
    # Asked one by one until it answers again.
    assert sorted(engine.calls) == sorted(["decode", "scene", "yolox", "centernet", "sign_text"])
    engine.calls.clear()
    await ask(all_stages=True)
    assert engine.calls == ONCE


async def test_an_ensemble_that_fails_alone_degrades_nothing_and_is_left_alone(ask: Any, engine: Any) -> None:
    engine.faults["everything"] = "error"
    for _ in range(3):
        assert (await ask(all_stages=True))["status"] == "ok"
    engine.calls.clear()
    assert (await ask(all_stages=True))["status"] == "ok"
    assert "everything" not in engine.calls
    engine.calls.clear()
    assert (await ask())["status"] == "ok"
    assert "glance" in engine.calls  # nobody else is blamed for it


async def test_an_open_breaker_of_a_member_is_told_with_its_stage(ask: Any, engine: Any) -> None:
    engine.faults["scene"] = "error"
    for _ in range(4):
        verdict = await ask(all_stages=True)
    assert [(gap["member"], gap["stage"], gap["reason"]) for gap in verdict["missing"]] == [
        ("scene", "glance", "breaker_open")
    ]


async def test_a_caller_in_a_hurry_gets_what_there_is_and_blames_nobody(ask: Any, engine: Any) -> None:
    engine.faults["centernet"] = 0.2
    for _ in range(4):
        verdict = await ask(all_stages=True, deadline_ms=60)
        assert verdict["status"] == "timed_out"
        assert {answer["member"] for answer in verdict["answers"]} == {"scene", "yolox"}
    engine.faults.clear()
    engine.calls.clear()
    assert (await ask(all_stages=True))["status"] == "ok"
    assert engine.calls == ONCE


async def test_an_image_that_cannot_be_used_is_refused(ask: Any, engine: Any) -> None:
    from roadwork_cascade.engine import EngineError

    engine.faults["decode"] = EngineError("in ensemble 'everything', x: INVALID_IMAGE: truncated")
    with pytest.raises(InvalidImage, match="truncated"):
        await ask(all_stages=True)


async def test_it_is_no_matter_where_there_are_not_two_stages_to_put_together(
    make_ask: Any, engine: Any, data: dict[str, Any]
) -> None:
    data["stages"] = [data["stages"][0], data["stages"][2]]
    assert (await make_ask(data)(all_stages=True))["status"] == "ok"
    assert engine.calls == ["glance", "sign_text"]


def test_the_policy_keeps_it_and_says_what_it_may_be(data: dict[str, Any]) -> None:
    assert parse_policy(data).to_dict()["together"] == "everything"
    assert "together" not in parse_policy({**data, "together": None}).to_dict()
    with pytest.raises(PolicyError, match="together: "):
        parse_policy({**data, "together": "no name"})
    with pytest.raises(PolicyError, match="together: needs version: 2"):
        parse_policy({**data, "version": 1})
