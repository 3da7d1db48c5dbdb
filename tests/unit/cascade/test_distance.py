"""Distance members: evidence for boxes that nothing is decided by."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from engine_double import SIDE
from hypothesis import given, settings
from hypothesis import strategies as st
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import EngineError
from roadwork_cascade.members import CELLS, Answer, Geometry, read_answer
from roadwork_cascade.nearness import box_nearness
from roadwork_cascade.policy import parse_policy
from roadwork_cascade.taxonomy import load_taxonomy
from roadwork_cascade.verdict import schema_problems
from tier_double import TierEngine, prompts, tiers_policy

# 1280 x 720 on a canvas of 640: half the size, bars of 140 above and below
WIDE = Geometry(width=1280, height=720, scale=0.5, pad_x=0, pad_y=140)
CANVAS = (640, 640)
# Row k of 80 says k / 79: the lower, the nearer.
SLOPE = np.repeat(np.linspace(0, 1, CELLS)[:, None], CELLS, axis=1)


def add_depth(data: dict[str, Any], engine: Any, *names: str) -> None:
    """Distance members in the policy's perception stage and in its ensemble."""
    data["stages"][1]["members"].update({name: {"kind": "distance"} for name in names})
    engine.ensembles = {**engine.ensembles, "perception": ("yolox", "centernet", *names)}


def gaps(verdict: dict[str, Any]) -> dict[str, str]:
    return {gap["member"]: gap["reason"] for gap in verdict["missing"]}


def test_a_box_is_as_near_as_the_middle_of_its_cells() -> None:
    # Canvas rows 240 to 320 are cells 30 to 39.
    assert box_nearness([200, 200, 400, 360], [SLOPE], CANVAS, WIDE) == pytest.approx(34.5 / 79, abs=1e-4)
    # A quarter of the box shows the far road beside the thing.
    cells = np.full((CELLS, CELLS), 0.9)
    cells[30:35, 13:18] = 0.1
    assert box_nearness([200, 200, 400, 360], [cells], CANVAS, WIDE) == 0.9


@pytest.mark.parametrize("box", [[100, 100, 100.5, 100.5], [99, 99, 99, 99], [97, 97, 102, 102]])
def test_a_box_smaller_than_a_cell_has_that_of_its_centre(box: list[float]) -> None:
    cells = np.zeros((CELLS, CELLS))
    cells[(50 + 140) // 8, 50 // 8] = 0.7
    assert box_nearness(box, [cells], CANVAS, WIDE) == 0.7


def test_a_pole_has_its_own_column() -> None:
    cells = np.zeros((CELLS, CELLS))
    cells[:, 6] = 0.6  # original pixels 96 to 112
    assert box_nearness([98, 100, 101, 500], [cells], CANVAS, WIDE) == 0.6


def test_the_whole_image_does_not_count_the_letterbox() -> None:
    cells = np.zeros((CELLS, CELLS))
    cells[18:62] = 0.8  # canvas rows 144 to 496; the picture is 140 to 500
    assert box_nearness([0, 0, 1280, 720], [cells], CANVAS, WIDE) == 0.8


def test_several_maps_give_the_median_of_theirs() -> None:
    maps = [np.full((CELLS, CELLS), value) for value in (0.1, 0.4, 0.9)]
    assert box_nearness([1, 1, 50, 50], maps, CANVAS, WIDE) == 0.4
    assert box_nearness([1, 1, 50, 50], maps[:2], CANVAS, WIDE) == 0.25
    assert box_nearness([1, 1, 50, 50], [], CANVAS, WIDE) is None


side = st.floats(-10, 1300)


@pytest.mark.filterwarnings("error")
@given(st.tuples(side, side), st.tuples(side, side), st.integers(0, 2**32 - 1))
def test_any_box_is_as_near_as_something_of_the_map(x: tuple[float, float], y: tuple[float, float], seed: int) -> None:
    cells = np.random.default_rng(seed).random((CELLS, CELLS))
    (x1, x2), (y1, y2) = sorted(x), sorted(y)
    near = box_nearness([x1, y1, x2, y2], [cells], CANVAS, WIDE)
    assert near is not None
    assert cells.min() - 1e-4 <= near <= cells.max() + 1e-4


def read(data: dict[str, Any], nearness: Any, prefix: str = "") -> Answer:
    data["stages"][1]["members"]["depth"] = {"kind": "distance"}
    stage = parse_policy(data).stages[1]
    return read_answer(stage.members[-1], stage, {f"{prefix}nearness": nearness}, load_taxonomy(), prefix)


def test_a_map_is_read_and_says_nothing_of_roadwork(data: dict[str, Any]) -> None:
    answer = read(data, SLOPE[None].astype(np.float32), prefix="depth_")
    assert answer.probability is None
    assert answer.reading.raw is None
    assert answer.reading.nearness == pytest.approx(SLOPE)
    half = read(data, np.full((1, CELLS, CELLS), 1.0005, np.float16))  # rounding just outside is put back
    assert half.reading.nearness is not None
    assert half.reading.nearness.max() == 1.0


@pytest.mark.parametrize(
    ("nearness", "message"),
    [
        (np.zeros((1, 6400)), "depth: nearness: must be [80, 80], got [1, 6400]"),
        (np.zeros((1, 1, 80, 80)), "depth: nearness: must be [80, 80], got [1, 1, 80, 80]"),
        (np.zeros((2, 80, 80)), "depth: nearness: must be [80, 80], got [2, 80, 80]"),
        (np.zeros((1, 64, 100)), "depth: nearness: must be [80, 80], got [1, 64, 100]"),
        (np.full((1, 80, 80), 12.5), "depth: nearness: must be in [0, 1], got 12.5 to 12.5"),
        (-SLOPE[None], "depth: nearness: must be in [0, 1], got -1 to"),
        (np.where(SLOPE == 0, np.nan, SLOPE)[None], "depth: nearness: has a value that is not finite"),
        (np.where(SLOPE == 0, np.inf, SLOPE)[None], "depth: nearness: has a value that is not finite"),
    ],
)
def test_what_is_no_map_is_an_error_naming_model_and_tensor(
    data: dict[str, Any], nearness: np.ndarray, message: str
) -> None:
    with pytest.raises(EngineError) as refusal:
        read(data, nearness)
    assert message in str(refusal.value)


async def test_boxes_are_told_how_near_they_are(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    (box,) = (await make_ask(data)())["boxes"]
    assert box["nearness"] is None  # no such member
    add_depth(data, engine, "depth", "depth_too")
    engine.scores.update(depth=0.81234567, depth_too=0.4)
    verdict = await make_ask(data)()
    (box,) = verdict["boxes"]
    assert box["nearness"] == pytest.approx(0.6062, abs=1e-9)
    assert verdict["status"] == "ok"
    assert verdict["missing"] == []
    assert {answer["member"] for answer in verdict["answers"]} == {"scene", "yolox", "centernet", "sign_text"}
    assert engine.calls[-2:] == ["perception", "sign_text"]  # in the one call to the ensemble


async def test_a_box_has_the_nearness_of_its_own_place(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    add_depth(data, engine, "depth")
    # The double's box is [10, 20, 30, 40] of 64 pixels: rows 25 to 49 of 80.
    engine._outputs = lambda kind, score: (
        {"nearness": SLOPE[None].astype(np.float32)} if kind == "distance" else type(engine)._outputs(kind, score)
    )
    (box,) = (await make_ask(data)())["boxes"]
    assert SIDE == 64
    assert box["nearness"] == pytest.approx(37 / 79, abs=1e-4)


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
async def test_one_that_fails_is_told_and_degrades_nothing(
    make_ask: Any, data: dict[str, Any], engine: Any, fault: str, reason: str
) -> None:
    add_depth(data, engine, "depth")
    engine.faults["depth"] = fault
    verdict = await make_ask(data)()
    assert gaps(verdict) == {"depth": reason}
    assert verdict["missing"][0]["detail"].startswith("depth")
    assert verdict["status"] == "ok"
    assert [stage["outcome"] for stage in verdict["stages"]] == ["answered"] * 3
    assert [box["nearness"] for box in verdict["boxes"]] == [None]


async def test_one_of_two_that_fails_leaves_the_other(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    add_depth(data, engine, "depth", "depth_too")
    engine.faults["depth"] = "error"
    engine.scores["depth_too"] = 0.3
    verdict = await make_ask(data)()
    assert gaps(verdict) == {"depth": "error"}
    assert verdict["boxes"][0]["nearness"] == pytest.approx(0.3)


async def test_its_breaker_opens_and_still_nothing_is_degraded(
    make_ask: Any, data: dict[str, Any], engine: Any
) -> None:
    add_depth(data, engine, "depth")
    engine.faults["depth"] = "unavailable"
    ask = make_ask(data)
    verdicts = [await ask() for _ in range(5)]
    assert gaps(verdicts[0]) == {"depth": "unavailable"}
    assert gaps(verdicts[-1]) == {"depth": "breaker_open"}
    assert {verdict["status"] for verdict in verdicts} == {"ok"}


async def test_a_map_alone_is_no_answer_to_the_question(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    add_depth(data, engine, "depth")
    engine.faults.update(yolox="error", centernet="error")
    verdict = await make_ask(data)()
    assert verdict["stages"][1]["outcome"] == "failed"
    assert verdict["status"] == "degraded"
    assert verdict["decided_by"] == "signs"
    engine.faults.update(scene="error", sign_text="error")
    verdict = await make_ask(data)()
    assert (verdict["probability"], verdict["decided_by"], verdict["answers"]) == (0.5, None, [])


@pytest.mark.parametrize("fault", [None, "error"])
async def test_it_counts_for_no_quorum(make_ask: Any, data: dict[str, Any], engine: Any, fault: str | None) -> None:
    # Of scene, yolox and centernet two thirds answer: with a fourth in the sum it would be 0.5 or 0.75.
    add_depth(data, engine, "depth")
    data["stages"][1].update(accept=0.6)
    engine.faults.update(yolox="error")
    if fault:
        engine.faults["depth"] = fault
    engine.scores.update(scene=0.9, centernet=0.9)
    for quorum, decided_by in ((0.66, "perception"), (0.67, "signs")):
        data["quorum"] = quorum
        assert (await make_ask(data)())["decided_by"] == decided_by


async def test_one_that_is_slow_makes_no_verdict_timed_out(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    add_depth(data, engine, "depth")
    data["stages"][1].update(deadline_ms=3000, accept=0.6)
    engine.scores.update(scene=0.9, yolox=0.9, centernet=0.9)
    engine.faults["depth"] = "hang"
    verdict = await make_ask(data)(deadline_ms=600)  # less than the stage's own
    assert gaps(verdict) == {"depth": "timed_out"}
    assert (verdict["status"], verdict["decided_by"]) == ("ok", "perception")


async def test_a_stage_that_was_not_asked_in_time_is_still_told(
    make_ask: Any, data: dict[str, Any], engine: Any
) -> None:
    add_depth(data, engine, "depth")
    engine.faults["scene"] = 0.25
    verdict = await make_ask(data)(deadline_ms=100)
    assert verdict["status"] == "timed_out"
    assert {"yolox", "centernet", "depth"} <= set(gaps(verdict))


score = st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.6, 0.9, 0.99])
fault = st.sampled_from([None, None, None, "error", "unavailable", "bug", "empty"])
VOTERS = ("scene", "yolox", "centernet", "sign_text")


@settings(max_examples=80, deadline=None)
@given(
    says=st.fixed_dictionaries(dict.fromkeys((*VOTERS, "vlm_s", "vlm_m", "thinker"), score)),
    faults=st.fixed_dictionaries(dict.fromkeys(VOTERS, fault)),
    near=st.floats(0, 1, width=32),
    broken=st.one_of(fault, st.just("nan")),
    quorum=st.sampled_from([0.0, 0.4, 0.5, 0.6, 0.75, 1.0]),
    share=st.sampled_from([0.0, 0.5, 0.667, 1.0]),
    all_stages=st.booleans(),
)
def test_with_or_without_it_the_same_is_decided_in_the_same_way(
    says: dict[str, float],
    faults: dict[str, str | None],
    near: float,
    broken: str | None,
    quorum: float,
    share: float,
    all_stages: bool,
) -> None:
    def verdict(*depth: str) -> dict[str, Any]:
        engine, data = TierEngine(), tiers_policy()
        add_depth(data, engine, *depth)
        data.update(quorum=quorum, deadline_ms=60_000, agreement={"share": share})
        for step in data["stages"] + data["tiers"]:
            step["deadline_ms"] = 10_000  # a slow machine decides the same
        engine.scores.update({name: says[name] for name in VOTERS}, depth=near)
        engine.says.update({name: says[name] for name in engine.says})
        engine.faults.update({name: fault for name, fault in {**faults, "depth": broken}.items() if fault})
        cascade = Cascade(parse_policy(data), engine, prompts=prompts())
        said = asyncio.run(cascade.run(b"an image", all_stages=all_stages))
        assert schema_problems(said) == []
        return said

    plain, grown = verdict(), verdict("depth")
    asked = plain["stages"][1]["outcome"] != "skipped"
    unmade = grown["image"] is None
    assert ("depth" in gaps(grown)) == (asked and (broken is not None or unmade))
    expected = None if broken or unmade else round(near, 4)
    assert [box["nearness"] for box in grown["boxes"]] == [pytest.approx(expected, abs=1e-4)] * len(grown["boxes"])
    assert _decided(grown) == _decided(plain)


def _decided(verdict: dict[str, Any]) -> dict[str, Any]:
    """A verdict less what a distance member may change and what time changes."""
    told: dict[str, Any] = {key: verdict[key] for key in ("probability", "roadwork", "status", "decided_by", "route")}
    told["boxes"] = [{key: value for key, value in box.items() if key != "nearness"} for box in verdict["boxes"]]
    told["missing"] = [gap for gap in verdict["missing"] if gap["member"] != "depth"]
    told["answers"], told["words"], told["tokens"] = verdict["answers"], verdict["words"], verdict["tokens"]
    timed = ("milliseconds", "cost")
    for steps in ("stages", "tiers"):
        told[steps] = [{key: value for key, value in step.items() if key not in timed} for step in verdict[steps]]
    return told
