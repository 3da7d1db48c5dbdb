from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from roadwork_bench.climb import WITH, WITHOUT, compare_tiers, parse_shares, share_curves, summary
from roadwork_bench.errors import BenchError
from roadwork_bench.fit import fit
from roadwork_bench.recorded import RecordedEngine, recorded_prompts
from roadwork_bench.replay import replay, steps, without_members
from roadwork_bench.settings import Settings
from roadwork_bench.shares import MOST
from roadwork_bench.spending import set_milliseconds
from roadwork_bench.table import Table
from roadwork_bench.tier_scores import TierScores, parse_tier, take_in
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.policy import Policy


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("all_stages", [False, True])
def test_replay_climbs_as_the_cascade_does(
    seed: int,
    all_stages: bool,
    make_policy: Callable[..., Policy],
    add_tiers: Callable[..., Policy],
    tier_table: Callable[..., Table],
) -> None:
    rng = np.random.default_rng(seed)
    policy = add_tiers(make_policy(), rng)
    table = tier_table(8, 6, seed, missing=0.15)
    rows = table.usable
    fast = replay(policy, table.sample(policy.fusion), all_stages=all_stages)

    async def slow() -> list[dict]:
        verdicts = []
        for row in rows:
            engine = RecordedEngine([row], table.kinds)
            cascade = Cascade(policy, engine, clock=engine.clock, prompts=recorded_prompts(policy))
            verdicts.append(await cascade.run(row.file.encode(), all_stages=all_stages))
        return verdicts

    names = steps(policy)
    some_climbed = False
    for k, verdict in enumerate(asyncio.run(slow())):
        outcomes = {stage["name"]: stage["outcome"] for stage in verdict["stages"]}
        asked = [outcomes.get(name, "skipped") != "skipped" for name in names]
        assert asked == fast.asked[k].tolist(), (rows[k], verdict)
        assert verdict["probability"] == pytest.approx(fast.probability[k], abs=2e-4)
        some_climbed |= any(asked[3:])
    assert some_climbed


def test_tiers_that_see_more_are_fitted_and_raise_the_figures(
    make_policy: Callable[..., Policy], add_tiers: Callable[..., Policy], tier_table: Callable[..., Table]
) -> None:
    table, policy = tier_table(24, 10), add_tiers(make_policy())
    settings = Settings(exit_groups=2, folds=3)
    report = compare_tiers(table, policy, settings)
    ways = report["ways"]
    assert ways[WITH]["mcc"] > ways[WITHOUT]["mcc"]
    assert ways["large alone"]["mcc"] > ways["small alone"]["mcc"]
    assert 0 < report["escalated"] <= 1
    assert ways[WITH]["cost_an_image"] > ways[WITHOUT]["cost_an_image"]
    report["curves"] = share_curves(table, policy, [0.0, 0.2, 1.0], settings)
    assert "large alone" in summary(report)
    json.dumps(report)
    large = next(one for one in report["curves"] if one["climb"] == ["precise"])
    none, few, always = large["points"]
    assert (none["asked"], always["asked"]) == (0, 1)
    assert 0.1 < few["asked"] < 0.3, "the share of other drives, nearly"
    assert none["cost_an_image"] < few["cost_an_image"] < always["cost_an_image"]
    assert none["mcc"] < few["mcc"], "perception knows little, the tier much, so the least sure are worth asking"
    if few["asked"] <= MOST:
        found = large["at_most_a_quarter"]
        assert found["saving"]["cost"] == pytest.approx(1 - few["cost_an_image"] / always["cost_an_image"], abs=0.01)
        if few["mcc"] >= always["mcc"]:
            assert found["verdict"] != "worse"

    fitted = fit(table, policy, settings, command="test")
    large = fitted.tier("precise")
    assert large.member.a != 1.0
    assert large.accept is None, "nothing comes after the last tier"
    assert large.reject is None


def test_without_its_members_a_tier_leaves_the_routes(
    make_policy: Callable[..., Policy], add_tiers: Callable[..., Policy]
) -> None:
    policy = without_members(add_tiers(make_policy()), ["small"])
    assert [tier.name for tier in policy.tiers] == ["precise"]
    assert [list(route.climb) for route in policy.routes] == [[], ["precise"], ["precise"], ["precise"]]


def test_conditions_on_boxes_need_boxes(
    make_policy: Callable[..., Policy], add_tiers: Callable[..., Policy], tier_table: Callable[..., Table]
) -> None:
    with pytest.raises(BenchError, match="boxes or words"):
        replay(add_tiers(make_policy()), tier_table(4, 3).sample())


def test_a_table_without_tiers_is_refused(
    make_policy: Callable[..., Policy], add_tiers: Callable[..., Policy], make_table: Callable[..., Table]
) -> None:
    with pytest.raises(BenchError, match="--tier"):
        compare_tiers(make_table(8, 6), add_tiers(make_policy()), Settings())


def test_times_are_given_where_there_are_none(tier_table: Callable[..., Table]) -> None:
    table = tier_table(2, 2)
    del table.rows[0].ms["small"]
    set_milliseconds(table, "small", 80.0)
    assert table.rows[0].ms["small"] == 80.0
    assert table.rows[1].ms["small"] == 50.0


PROMPT = {
    "schema": 1,
    "kind": "scorer",
    "model": "small/1/weights",
    "template_sha256": None,
    "prompt": "{findings}roadwork?",
    "findings": "Detectors report: {text}\n",
    "image": {"from": "canvas", "max_side": 32, "quality": 90},
    "sampling": {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": [1, 2]},
    "yes": {"yes": 1},
    "no": {"no": 2},
}


def test_scores_are_taken_in(tmp_path: Path, make_table: Callable[..., Table]) -> None:
    table = make_table(2, 2)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "prompt.json").write_text(json.dumps(PROMPT))
    path = tmp_path / "scores.csv"
    first, second = table.rows[0].file, table.rows[1].file
    path.write_text(
        "file,group,label,raw,mass,milliseconds,input_tokens,output_tokens\n"
        f"{first},g,1,0.9,0.99,42,70,1\n{second},g,1,0.8,0.1,,,\nnobody.jpg,g,1,0.9,0.9,,,\n"
    )
    assert take_in(table, TierScores("small", path), tmp_path) == 1
    assert table.rows[0].scores["small"] == 0.9
    assert table.rows[0].ms["small"] == 42.0
    assert table.rows[0].tokens["small"] == [70, 1]
    assert "small" not in table.rows[1].scores, "too little mass on yes and no"
    assert table.kinds["small"] == "scorer"


def test_a_time_of_a_tier_that_the_table_does_not_know_is_refused(make_table: Callable[..., Table]) -> None:
    with pytest.raises(BenchError, match="--milliseconds smal: the table has no scores of it"):
        set_milliseconds(make_table(1, 1), "smal", 80.0)


@pytest.mark.parametrize("text", ["", "a", "0.5,0.1", "0,2", "-0.1,1", "0,0"])
def test_bad_shares_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="--shares"):
        parse_shares(text)


def test_bad_tier_arguments_say_what_is_wrong(tmp_path: Path, make_table: Callable[..., Table]) -> None:
    with pytest.raises(BenchError, match="MEMBER=FILE"):
        parse_tier("small")
    with pytest.raises(BenchError, match=r"prompt\.json"):
        take_in(make_table(1, 1), TierScores("small", tmp_path / "none.csv"), tmp_path)
