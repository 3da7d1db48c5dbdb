from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from roadwork_bench.recorded import RecordedEngine
from roadwork_bench.replay import replay, unbounded, without_members
from roadwork_bench.table import Table
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.policy import Policy, parse_policy


def _random_policy(make_policy: Callable[..., Policy], rng: np.random.Generator) -> Policy:
    data = make_policy().to_dict()
    data["pool"] = {"alpha": float(rng.uniform(0.5, 2)), "beta": float(rng.normal(0, 0.5))}
    data["agreement"]["share"] = float(rng.choice([0.0, 0.5, 0.667, 1.0]))
    data["quorum"] = float(rng.choice([0.0, 0.5, 0.8]))
    for stage in data["stages"]:
        stage["accept"] = float(rng.uniform(0.6, 0.99)) if rng.random() < 0.8 else None
        stage["reject"] = float(rng.uniform(0.01, 0.4)) if rng.random() < 0.8 else None
        for member in stage["members"].values():
            member |= {"a": float(rng.uniform(0.5, 2)), "b": float(rng.normal()), "weight": float(rng.uniform(0.3, 2))}
    data["stages"][2]["when"] = [None, {"min_probability": 0.2, "max_probability": 0.8}, {"disagreement": True}][
        rng.integers(3)
    ]
    data["stages"][2]["members"]["sign"]["nothing"] = [None, 0.4][rng.integers(2)]
    return parse_policy(data)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("all_stages", [False, True])
def test_replay_decides_as_the_cascade_does(
    seed: int, all_stages: bool, make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    rng = np.random.default_rng(seed)
    policy, table = _random_policy(make_policy, rng), make_table(8, 6, seed, information=0.5, missing=0.15)
    rows = table.usable
    fast = replay(policy, table.sample(), all_stages=all_stages)

    async def slow() -> list[dict]:
        verdicts = []
        for row in rows:
            engine = RecordedEngine([row], table.kinds)
            cascade = Cascade(policy, engine, clock=engine.clock)  # fresh breakers: those are not replayed
            verdicts.append(await cascade.run(row.file.encode(), all_stages=all_stages))
        return verdicts

    verdicts = asyncio.run(slow())
    for k, verdict in enumerate(verdicts):
        asked = [stage["outcome"] != "skipped" for stage in verdict["stages"]]
        assert asked == fast.asked[k].tolist(), rows[k]
        # Verdicts are rounded, and a table keeps six digits.
        assert verdict["probability"] == pytest.approx(fast.probability[k], abs=2e-4)


def test_recorded_times_make_the_clock(make_policy: Callable[..., Policy], make_table: Callable[..., Table]) -> None:
    table = make_table(1, 1)
    engine = RecordedEngine(table.rows, table.kinds)
    verdict = asyncio.run(
        Cascade(unbounded(make_policy()), engine, clock=engine.clock).run(table.rows[0].file.encode(), all_stages=True)
    )
    times = {stage["name"]: stage["milliseconds"] for stage in verdict["stages"]}
    assert times == pytest.approx({"glance": 15.0, "perception": 30.0, "sign_text": 400.0})


def test_a_left_out_member_takes_its_empty_stage_along(make_policy: Callable[..., Policy]) -> None:
    policy = without_members(make_policy(), ["sign", "other"])
    assert [stage.name for stage in policy.stages] == ["glance", "perception"]
    assert [member.name for _, member in policy.members()] == ["scene", "eye"]


def _with_depth(policy: Policy) -> Policy:
    data = policy.to_dict()
    data["stages"][1]["members"]["depth"] = {"kind": "distance"}
    return parse_policy(data)


@pytest.mark.parametrize("all_stages", [False, True])
def test_a_distance_member_changes_nothing(
    all_stages: bool, make_policy: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    sample = make_table(8, 6, information=0.5, missing=0.3).sample()
    policy = _random_policy(make_policy, np.random.default_rng(3))
    plain, grown = (replay(p, sample, all_stages=all_stages) for p in (policy, _with_depth(policy)))
    for name, values in vars(plain).items():
        np.testing.assert_array_equal(values, getattr(grown, name))


def test_a_distance_member_alone_is_no_stage(make_policy: Callable[..., Policy]) -> None:
    policy = without_members(_with_depth(make_policy()), ["eye", "other"])
    assert [stage.name for stage in policy.stages] == ["glance", "sign_text"]


def test_a_left_out_first_stage_hands_its_canvas_on(make_policy: Callable[..., Policy]) -> None:
    first = without_members(make_policy(), ["scene"]).stages[0]
    assert (first.name, first.prepare, first.needs, first.model) == ("perception", "decode", "image", None)
