"""Which tier an image climbs to, when it is left out, and what the verdict says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from roadwork_cascade import pool
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.deadline import Deadline
from roadwork_cascade.engine import InvalidOptions
from roadwork_cascade.members import Answer, Missing, Reading
from roadwork_cascade.options import Options
from roadwork_cascade.policy import Member, parse_policy
from roadwork_cascade.request import Request
from roadwork_cascade.routes import can_change
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_cascade.verdict import is_roadwork, schema_problems
from tier_double import TierEngine, prompts, tiers_policy

Ask = Callable[..., Any]


@pytest.fixture
def data() -> dict[str, Any]:
    return tiers_policy()


@pytest.fixture
def engine() -> TierEngine:
    return TierEngine()


@pytest.fixture
def ask(engine: TierEngine, data: dict[str, Any], clock: Any) -> Ask:
    cascades: list[Cascade] = []

    async def ask(**options: Any) -> dict[str, Any]:
        if not cascades:
            cascades.append(Cascade(parse_policy(data), engine, clock=clock, prompts=prompts()))
        verdict = await cascades[0].run(b"an image", **options)
        assert schema_problems(verdict) == []
        return verdict

    return ask


def sees(engine: TierEngine, scene: float, yolox: float, centernet: float) -> None:
    engine.scores.update(scene=scene, yolox=yolox, centernet=centernet)


def reasons(verdict: dict[str, Any]) -> dict[str, str]:
    return {tier["name"]: tier["reason"] or tier["outcome"] for tier in verdict["tiers"]}


async def test_an_image_that_perception_is_sure_of_meets_no_tier(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.999, 0.99, 0.99)
    verdict = await ask()
    assert (verdict["route"], verdict["tiers"], engine.asked) == (None, [], [])
    assert verdict["schema"] == 2


async def test_a_sure_image_that_no_bound_ended_takes_the_route_that_climbs_nowhere(
    ask: Ask, engine: TierEngine, data: dict[str, Any]
) -> None:
    for stage in data["stages"]:
        stage["accept"] = None
    sees(engine, 0.99, 0.99, 0.99)
    verdict = await ask()
    assert (verdict["route"], verdict["tiers"], engine.asked) == ("sure", [], [])


async def test_a_medium_image_meets_the_fast_tier(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.6, 0.6, 0.6)
    engine.says["vlm_s"] = 0.97
    verdict = await ask()
    assert verdict["route"] == "medium"
    assert engine.tiers == ["vlm_s"]
    assert verdict["decided_by"] == "fast"
    assert reasons(verdict) == {"fast": "answered", "reason": "decided"}
    fast = verdict["tiers"][0]
    assert (fast["raw"], fast["mass"], fast["text"]) == (pytest.approx(0.97), pytest.approx(1.0), "yes")
    assert fast["tokens"] == verdict["tokens"] == {"input": 70, "output": 1}
    assert fast["cost"] == pytest.approx(70 * 1e-5 + 3e-5)
    said = [0.6, 0.6, 0.6, 0.97]
    assert verdict["probability"] == pytest.approx(float(pool.pool(said, [1, 1, 1, 3])), abs=1e-5)
    assert verdict["answers"][-1]["kind"] == "scorer"
    assert verdict["stages"][-1]["name"] == "fast"


async def test_the_reasoner_breaks_the_tie_that_the_fast_tier_leaves(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.55, 0.55, 0.55)
    engine.says.update(vlm_s=0.5, thinker=0.02)
    verdict = await ask()
    assert engine.tiers == ["vlm_s", "thinker"]
    assert verdict["decided_by"] == "reason"
    assert verdict["roadwork"] is False
    assert verdict["tiers"][1]["thoughts"] == "cones"


async def test_contradictory_members_call_for_reasoning(ask: Ask, engine: TierEngine, data: dict[str, Any]) -> None:
    data["agreement"]["share"] = 0.7
    sees(engine, 0.8, 0.9, 0.2)
    assert (await ask())["route"] == "contradictory"
    assert engine.tiers == ["thinker"]


async def test_a_low_image_calls_for_reasoning(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.3, 0.3, 0.3)
    assert (await ask())["route"] == "low"
    assert engine.tiers == ["thinker"]


async def test_a_complex_scene_calls_for_precision(ask: Ask, engine: TierEngine) -> None:
    engine.boxes = 6
    sees(engine, 0.6, 0.6, 0.6)
    assert (await ask())["route"] == "complex"
    assert engine.tiers[0] == "vlm_m"


@pytest.mark.parametrize(
    ("when", "boxes", "word", "taken"),
    [
        ({"max_boxes": 2}, 1, 0.0, True),
        ({"max_boxes": 2}, 3, 0.0, False),
        ({"min_box_share": 0.19}, 1, 0.0, True),
        ({"min_box_share": 0.2}, 1, 0.0, False),
        ({"max_box_share": 0.19}, 1, 0.0, False),
        ({"words": True}, 1, 0.9, True),
        ({"words": True}, 1, 0.0, False),
        ({"words": False}, 1, 0.0, True),
    ],
)
async def test_conditions_on_what_was_seen(
    ask: Ask, engine: TierEngine, data: dict[str, Any], when: dict[str, Any], boxes: int, word: float, taken: bool
) -> None:
    data["routes"] = [{"name": "special", "when": when, "climb": ["fast"]}]
    engine.boxes = boxes
    sees(engine, 0.6, 0.6, 0.6)
    engine.scores["sign_text"] = word
    assert (await ask())["route"] == ("special" if taken else None)


async def test_where_too_few_answered_a_route_that_climbs_nowhere_is_passed_over(ask: Ask, engine: TierEngine) -> None:
    engine.faults.update(dict.fromkeys(("perception", "yolox", "centernet"), "error"))
    engine.scores["scene"] = 0.975
    verdict = await ask()
    assert verdict["route"] == "medium"
    assert "vlm_s" in engine.tiers


async def test_a_tier_that_cannot_change_the_verdict_is_not_asked(
    ask: Ask, engine: TierEngine, data: dict[str, Any]
) -> None:
    for tier in data["tiers"]:
        tier["members"][next(iter(tier["members"]))]["weight"] = 0.05
    sees(engine, 0.8, 0.8, 0.8)
    assert reasons(await ask()) == {"fast": "cannot_change", "reason": "cannot_change"}
    assert engine.asked == []


async def test_a_missing_quorum_makes_any_tier_worth_asking(ask: Ask, engine: TierEngine, data: dict[str, Any]) -> None:
    for tier in data["tiers"]:
        tier["members"][next(iter(tier["members"]))]["weight"] = 0.05
    engine.faults.update(dict.fromkeys(("perception", "yolox", "centernet"), "error"))
    engine.scores["scene"] = 0.8
    await ask()
    assert engine.tiers == ["vlm_s", "thinker"]


async def test_a_tiers_own_condition_leaves_it_out(ask: Ask, engine: TierEngine, data: dict[str, Any]) -> None:
    data["tiers"][0]["when"] = {"min_probability": 0.99}
    sees(engine, 0.6, 0.6, 0.6)
    assert reasons(await ask())["fast"] == "condition"


async def test_the_caller_names_the_tiers_that_may_be_asked(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.6, 0.6, 0.6)
    assert reasons(await ask(tiers=False)) == {"fast": "not_wanted", "reason": "not_wanted"}
    assert engine.asked == []
    await ask(tiers=["reason"])
    assert engine.tiers == ["thinker"]
    with pytest.raises(InvalidOptions, match=r"tiers: no tier 'slow'; the policy's tiers: fast, precise, reason"):
        await ask(tiers=["slow"])


async def test_all_stages_asks_every_tier(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.999, 0.99, 0.99)
    verdict = await ask(all_stages=True)
    assert engine.tiers == ["vlm_s", "vlm_m", "thinker"]
    assert verdict["route"] is None
    engine.asked.clear()
    assert set(reasons(await ask(all_stages=True, tiers=False)).values()) == {"not_wanted"}
    assert engine.asked == []


async def test_findings_go_into_the_prompt_of_the_tier_that_wants_them(ask: Ask, engine: TierEngine) -> None:
    sees(engine, 0.6, 0.6, 0.6)
    await ask(all_stages=True)
    fast, _, reason = engine.asked
    assert fast["prompt"] == "<image>Is there roadwork?"
    assert "Detectors report: 1 cone; words read: none; probability of roadwork 0." in reason["prompt"]
    assert fast["images"][0][:3] == b"\xff\xd8\xff"


share = st.floats(0.0, 1.0)


@given(
    said=st.lists(st.tuples(st.one_of(st.none(), share), st.floats(0.05, 5.0), st.booleans()), max_size=5),
    weight=st.floats(0.05, 5.0),
    a=st.floats(0.0, 3.0),
    b=st.floats(-3.0, 3.0),
    alpha=st.floats(0.0, 3.0),
    beta=st.floats(-2.0, 2.0),
    threshold=st.floats(0.05, 0.95),
    raw=share,
)
def test_no_answer_of_a_tier_that_is_left_out_could_have_changed_the_verdict(
    said: list[tuple[float | None, float, bool]],
    weight: float,
    a: float,
    b: float,
    alpha: float,
    beta: float,
    threshold: float,
    raw: float,
) -> None:
    data = tiers_policy()
    data.update(pool={"alpha": alpha, "beta": beta}, threshold=threshold)
    policy = parse_policy(data)
    request = Request(policy, load_taxonomy(), b"", Deadline(1.0), Options())
    for index, (p, w, answered) in enumerate(said):
        member = Member(f"m{index}", "scene", w)
        if answered:
            request.answers.append(Answer(member, "s", Reading(0.5), p))
        else:
            request.missing.append(Missing(member, "s", "error", ""))
    request._pool()
    tier = Member("tier", "scorer", weight, a, b, None, 0.5)
    assume(not can_change(policy, request, tier))
    now = is_roadwork(request.probability, threshold)
    p = float(pool.member_probability(raw, "scorer", a, b, None))
    request.answers.append(Answer(tier, "t", Reading(raw), p))
    request._pool()
    assert is_roadwork(request.probability, threshold) == now
