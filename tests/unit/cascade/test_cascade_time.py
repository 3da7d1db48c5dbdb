"""One deadline for the request: nothing outlives it, and the best verdict so far is what the caller gets."""

from __future__ import annotations

import time
from typing import Any

import pytest

EVERYONE = ("glance", "perception", "decode", "scene", "yolox", "centernet", "sign_text")


async def timed(ask: Any, **options: Any) -> tuple[dict[str, Any], float]:
    start = time.monotonic()
    verdict = await ask(**options)
    return verdict, time.monotonic() - start


@pytest.mark.parametrize(
    ("fault", "deadline_ms"), [("hang", 1), ("hang", 30), ("hang", 150), ("hang", 700), ("stubborn", 50)]
)
async def test_when_everything_hangs_the_verdict_comes_within_the_deadline(
    ask: Any, engine: Any, fault: str, deadline_ms: float
) -> None:
    engine.faults = dict.fromkeys(EVERYONE, fault)
    verdict, seconds = await timed(ask, deadline_ms=deadline_ms)
    assert seconds < deadline_ms / 1000 + 0.5
    assert verdict["status"] == "timed_out"
    assert verdict["probability"] == 0.5


async def test_the_best_verdict_so_far_is_returned(ask: Any, engine: Any) -> None:
    engine.scores["scene"] = 0.8
    engine.faults.update(perception="hang", yolox="hang", centernet="hang")
    verdict, seconds = await timed(ask, deadline_ms=120)
    assert seconds < 0.6
    assert verdict["status"] == "timed_out"
    assert verdict["decided_by"] == "glance"
    assert verdict["probability"] == pytest.approx(0.8)
    assert [stage["outcome"] for stage in verdict["stages"]] == ["answered", "timed_out", "timed_out"]


async def test_a_deadline_that_was_no_hindrance_leaves_the_verdict_ok(ask: Any) -> None:
    assert (await ask(deadline_ms=1500))["status"] == "ok"


async def test_a_caller_in_a_hurry_opens_no_breaker_for_others(ask: Any, engine: Any) -> None:
    engine.faults["scene"] = 0.03
    for _ in range(10):
        assert (await ask(deadline_ms=20))["status"] == "timed_out"
    assert (await ask())["status"] == "ok"


async def test_the_policys_deadline_holds_where_the_caller_names_none(
    make_ask: Any, data: dict[str, Any], engine: Any
) -> None:
    data["deadline_ms"] = 50
    engine.faults = dict.fromkeys(EVERYONE, "hang")
    verdict, seconds = await timed(make_ask(data))
    assert seconds < 0.55
    assert verdict["status"] == "timed_out"


async def test_members_that_are_slow_together_are_waited_for_once(
    make_ask: Any, data: dict[str, Any], engine: Any
) -> None:
    data["stages"][1]["model"] = None
    data["stages"][1]["deadline_ms"] = 1500
    engine.faults.update(yolox=0.4, centernet=0.4)
    verdict, seconds = await timed(make_ask(data))
    assert verdict["status"] == "ok"
    assert seconds < 0.75
