"""Tiers that sleep: they are given the time to wake up, and left out where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.policy import PolicyError, parse_policy
from roadwork_cascade.policy_parts import Rare
from roadwork_cascade.policy_text import policy_text
from roadwork_cascade.verdict import schema_problems
from tier_double import TierEngine, prompts, tiers_policy, unsure_engine

RARE = {"sleep_after_seconds": 60, "wake_ms": 400, "level": 1}  # of tier fast, whose own deadline is 300 ms
Make = Callable[..., Cascade]


@pytest.fixture
def engine() -> TierEngine:
    return unsure_engine()


@pytest.fixture
def make(engine: TierEngine, clock: Any) -> Make:
    """A cascade whose tier `fast` is rare, and climbed alone."""

    def make(rare: dict[str, Any] | None = RARE) -> Cascade:
        data = tiers_policy()
        data["tiers"][0]["rare"] = rare
        data["routes"] = [{"name": "all", "when": None, "climb": ["fast"]}]
        return Cascade(parse_policy(data), engine, clock=clock, prompts=prompts())

    return make


async def ask(cascade: Cascade, **options: Any) -> dict[str, Any]:
    verdict = await cascade.run(b"an image", **options)
    assert schema_problems(verdict) == []
    return verdict


def outcome(verdict: dict[str, Any]) -> str:
    (tier,) = verdict["tiers"]
    return str(tier["reason"] or tier["outcome"])


async def test_the_first_request_gets_the_time_to_wake_it(make: Make, engine: TierEngine, clock: Any) -> None:
    cascade = make()
    engine.faults["vlm_s"] = 0.45  # over its own deadline, within what waking adds
    assert outcome(await ask(cascade)) == "answered"
    assert outcome(await ask(cascade)) == "timed_out"  # awake it has its own deadline alone
    clock.advance(61)
    assert outcome(await ask(cascade)) == "answered"


async def test_one_that_is_kept_awake_is_not_taken_for_asleep(make: Make, engine: TierEngine, clock: Any) -> None:
    cascade = make()
    assert outcome(await ask(cascade)) == "answered"
    for _ in range(5):
        clock.advance(50)
        assert outcome(await ask(cascade, deadline_ms=350)) == "answered"  # waking would not be within it


async def test_where_time_is_too_short_to_wake_it_it_is_left_out_and_that_is_told(
    make: Make, engine: TierEngine, clock: Any
) -> None:
    verdict = await ask(make(), deadline_ms=400)
    assert outcome(verdict) == "asleep"
    assert verdict["status"] == "timed_out"
    assert engine.asked == []
    assert verdict["probability"] == pytest.approx(0.6, abs=1e-3)
    verdict = await ask(make(None), deadline_ms=400)
    assert (outcome(verdict), verdict["status"]) == ("answered", "ok")


async def test_hardly_any_time_is_the_deadlines_fault_asleep_or_not(make: Make) -> None:
    cascade = make({**RARE, "wake_ms": 1})
    verdict = await ask(cascade, deadline_ms=25)
    assert outcome(verdict) in ("deadline", "asleep")
    assert verdict["status"] == "timed_out"


async def test_a_caller_in_a_hurry_does_not_open_the_breaker_of_one_that_sleeps(make: Make, engine: TierEngine) -> None:
    """Each has more than half of the tier's own deadline, but not of what it may take to wake up and answer."""
    cascade = make({**RARE, "wake_ms": 150})
    engine.faults["vlm_s"] = "hang"
    for _ in range(4):
        assert outcome(await ask(cascade, deadline_ms=240)) == "timed_out"
    cascade = make({**RARE, "wake_ms": 1})
    for _ in range(4):
        verdict = await ask(cascade)
    assert outcome(verdict) == "breaker_open"


@pytest.mark.parametrize(
    ("rare", "problem"),
    [
        (3, "tiers[0].rare must be a mapping, or null: it never sleeps, got 3"),
        ({}, "tiers[0].rare.sleep_after_seconds is missing"),
        ({**RARE, "level": 3}, "tiers[0].rare.level must be 1 or 2, got 3"),
        ({**RARE, "wake_ms": 0}, "tiers[0].rare.wake_ms must be a positive number"),
        ({**RARE, "sleep_after_seconds": -1}, "tiers[0].rare.sleep_after_seconds must be a positive number"),
        ({**RARE, "sleep_after": 1}, "tiers[0].rare.sleep_after"),
    ],
)
def test_a_rare_tier_that_is_wrong_is_named(make: Make, rare: Any, problem: str) -> None:
    with pytest.raises(PolicyError) as caught:
        make(rare)
    assert str(caught.value).replace(": must", " must").replace(": is missing", " is missing").startswith(problem)


def test_a_policy_with_a_rare_tier_is_written_and_read_the_same() -> None:
    import yaml

    data = tiers_policy()
    data["tiers"][0]["rare"] = {"sleep_after_seconds": 60, "wake_ms": 400}
    policy = parse_policy(data)
    assert policy.tiers[0].rare == Rare(60.0, 400.0, 1)
    again = parse_policy(yaml.safe_load(policy_text(policy.to_dict())))
    assert again.tiers == policy.tiers
    assert "rare" not in policy.to_dict()["tiers"][1]
