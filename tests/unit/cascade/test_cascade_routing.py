"""Which stages are asked, and when the cascade ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from roadwork_cascade.engine import EngineError, InvalidImage, InvalidOptions
from roadwork_cascade.pool import pool


def outcomes(verdict: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["outcome"] for stage in verdict["stages"]}


@pytest.mark.parametrize(("score", "roadwork"), [(0.99, True), (0.01, False)])
async def test_a_sure_glance_ends_it_on_either_side(ask: Any, engine: Any, score: float, roadwork: bool) -> None:
    engine.scores["scene"] = score
    verdict = await ask()
    assert (verdict["status"], verdict["decided_by"], verdict["roadwork"]) == ("ok", "glance", roadwork)
    assert outcomes(verdict) == {"glance": "answered", "perception": "skipped", "signs": "skipped"}
    assert engine.calls == ["glance"]
    assert verdict["probability"] == pytest.approx(score)
    assert verdict["image"] == {"width": 128, "height": 64}
    assert verdict["versions"] == {"policy": verdict["versions"]["policy"], "models": {"scene": "3"}}


async def test_an_unsure_glance_climbs_to_perception(ask: Any, engine: Any) -> None:
    engine.scores.update(scene=0.9, yolox=0.97, centernet=0.97)
    verdict = await ask()
    assert verdict["decided_by"] == "perception"
    assert engine.calls == ["glance", "perception"]
    assert verdict["probability"] == pytest.approx(float(pool([0.9, 0.97, 0.97], [1, 1, 1])), abs=1e-5)
    (box,) = verdict["boxes"]
    assert box["seen_by"] == ["yolox", "centernet"]
    assert box["box"] == [20.0, 8.0, 60.0, 48.0]


async def test_each_stage_costs_its_time_at_its_price(ask: Any, engine: Any) -> None:
    verdict = await ask()
    for stage, price in zip(verdict["stages"], (0.01, 0.02, 0.03), strict=True):
        assert stage["cost"] == pytest.approx(stage["milliseconds"] / 1000 * price, rel=0.02, abs=1e-8)
    assert verdict["cost"] == pytest.approx(sum(stage["cost"] for stage in verdict["stages"]), rel=1e-4)


async def test_disagreement_escalates_though_the_pool_is_sure(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    data["stages"][1]["accept"] = 0.6
    data["stages"][2]["when"] = None
    data["agreement"]["share"] = 0.7
    engine.scores.update(scene=0.95, yolox=0.95, centernet=0.4)  # pooled over 0.6, but two of three is too few
    assert (await make_ask(data)())["decided_by"] == "signs"
    data["agreement"]["share"] = 0.667
    assert (await make_ask(data)())["decided_by"] == "perception"


async def test_agreement_alone_does_not_end_the_cascade(ask: Any, engine: Any) -> None:
    engine.scores.update(scene=0.7, yolox=0.7, centernet=0.7)
    assert (await ask())["decided_by"] == "signs"


async def test_a_vote_never_becomes_probability_0(ask: Any, engine: Any) -> None:
    engine.scores.update(scene=0.45, yolox=0.45, centernet=0.45)
    assert (await ask())["probability"] == pytest.approx(0.45, abs=1e-5)


async def test_a_stage_is_left_out_where_its_condition_does_not_hold(ask: Any, engine: Any) -> None:
    engine.scores.update(scene=0.97, yolox=0.97, centernet=0.96)
    verdict = await ask(all_stages=False)
    assert outcomes(verdict)["signs"] == "skipped"


async def test_a_stage_on_disagreement_is_asked_only_then(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    data["stages"][2]["when"] = {"disagreement": True}
    data["stages"][1].update(accept=None, reject=None)
    engine.scores.update(scene=0.9, yolox=0.9, centernet=0.9)
    assert outcomes(await make_ask(data)())["signs"] == "skipped"
    engine.scores.update(scene=0.5, yolox=0.9, centernet=0.1)
    assert outcomes(await make_ask(data)())["signs"] == "answered"


@pytest.mark.parametrize("how", ["option", "policy"])
async def test_all_stages_ignores_bounds_and_conditions(
    make_ask: Any, data: dict[str, Any], engine: Any, how: str
) -> None:
    engine.scores.update(scene=0.999, yolox=0.999, centernet=0.999)
    data["all_stages"] = how == "policy"
    verdict = await make_ask(data)(all_stages=True if how == "option" else None)
    assert set(outcomes(verdict).values()) == {"answered"}
    assert engine.calls == ["glance", "perception", "sign_text"]


async def test_the_option_overrules_the_policys_all_stages(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    engine.scores["scene"] = 0.999
    data["all_stages"] = True
    await make_ask(data)(all_stages=False)
    assert engine.calls == ["glance"]


async def test_null_bounds_never_end(make_ask: Any, data: dict[str, Any], engine: Any) -> None:
    data["stages"][0].update(accept=None, reject=None)
    engine.scores["scene"] = 0.9999
    assert "perception" in (await make_ask(data)() and engine.calls)


async def test_a_detector_that_saw_nothing_speaks_against(ask: Any, engine: Any) -> None:
    engine.scores.update(scene=0.5, yolox=0.0, centernet=0.0)
    verdict = await ask()
    assert verdict["status"] == "ok"
    assert verdict["missing"] == []
    assert verdict["probability"] < 0.2


async def test_text_that_was_not_there_changes_nothing_and_its_words_are_told_otherwise(ask: Any, engine: Any) -> None:
    silent = await ask(all_stages=True)
    assert silent["probability"] == pytest.approx(0.5)
    assert silent["answers"][-1]["probability"] is None
    assert silent["status"] == "ok"
    engine.scores["sign_text"] = 0.9
    spoken = await ask(all_stages=True)
    assert spoken["probability"] > 0.5
    assert spoken["words"][0]["text"] == "ROAD WORK"


async def test_tensors_have_the_shapes_of_the_contract(ask: Any, engine: Any) -> None:
    await ask(b"bytes", all_stages=True)
    glance, perception, signs = engine.inputs
    assert glance["image"].shape == (1, 1)
    assert glance["image"][0, 0] == b"bytes"
    assert perception["canvas"].shape == (1, 64, 64, 3)
    assert perception["canvas"].dtype == np.uint8
    assert signs["image"].shape == (1,)


@pytest.mark.parametrize("where", ["glance", "decode"])
async def test_an_image_that_cannot_be_decoded_is_refused_and_blames_nobody(ask: Any, engine: Any, where: str) -> None:
    engine.faults["decode"] = EngineError("in ensemble 'glance', x: INVALID_IMAGE: truncated\n\nAt:\n  a.py")
    if where == "decode":
        engine.faults["glance"] = "error"
    for _ in range(10):
        with pytest.raises(InvalidImage, match=r"^INVALID_IMAGE: truncated$"):
            await ask()
    engine.faults.clear()
    assert (await ask())["status"] == "ok"
    assert engine.calls[-3:] == ["glance", "perception", "sign_text"]


async def test_text_that_alone_knows_the_image_is_bad_says_so(ask: Any, engine: Any) -> None:
    engine.faults.update(decode="error", sign_text=EngineError("INVALID_IMAGE: truncated"))
    with pytest.raises(InvalidImage):
        await ask()


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf"), "soon"])
async def test_a_deadline_that_is_none_is_refused(ask: Callable[..., Any], deadline: Any) -> None:
    with pytest.raises(InvalidOptions, match="deadline_ms"):
        await ask(deadline_ms=deadline)
