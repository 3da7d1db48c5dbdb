"""The cascade with real vision-language tiers: how they join, what they say, and what keeps them from being asked."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from roadwork_cascade.members import PREPARED, read_prepared
from roadwork_cascade.prompts import parse_prompt
from roadwork_cascade.tier_image import tier_image
from roadwork_client import RoadworkClient
from roadwork_deploy.cli import main
from roadwork_deploy.probe import probe_tier
from tritonclient.utils import InferenceServerException

pytest.importorskip("vllm", reason="vLLM is not installed (python -m roadwork_deploy.install_vllm)")
sys.path.append(str(Path(__file__).parent))
from tier_policy import (
    DEADLINE,
    FAST,
    MEDIUM,
    MOST_PIXELS,
    PRECISE,
    REASON,
    REASONER,
    SMALL,
    START,
    check,
    outcomes,
    policy,
    prompt,
    street,
    talkative,
    tier,
)
from watching import gone

if TYPE_CHECKING:
    from tier_policy import TierServer

pytestmark = pytest.mark.timeout(400)
NOWHERE = tier("nowhere", "tiny_nowhere")


@pytest.fixture
def client(tiers: TierServer, wait_until: Callable) -> Iterator[RoadworkClient]:
    """A client of `roadwork`, which asks `fast` and then `precise`; it has found out that both are there."""
    with tiers.client() as made:
        wait_until(lambda: outcomes(made.predict(tiers.image)) == BOTH, 60, "both tiers are asked")
        yield made


BOTH = {"fast": "answered", "precise": "answered"}


# Joining --------------------------------------------------------------------------------------------------------------
def test_perception_answers_while_tiers_are_still_loading(tier_server: TierServer) -> None:
    assert set(tier_server.early_states.values()) & {"waiting", "loading"}
    early = tier_server.early
    check(early)
    assert early.status == "ok"
    assert early.route == "all"
    assert outcomes(early) == {"fast": "unavailable", "precise": "unavailable"}
    assert {answer.member for answer in early.answers} == {"scene", "yolox_nano", "centernet_nano"}


def test_an_image_climbs_through_both_tiers(client: RoadworkClient, tiers: TierServer) -> None:
    verdict = client.predict(tiers.image)
    check(verdict)
    assert (verdict.status, verdict.route, verdict.decided_by) == ("ok", "all", "precise")
    assert [entry.name for entry in verdict.tiers] == ["fast", "precise"]
    for entry, rules in zip(verdict.tiers, (FAST, PRECISE), strict=True):
        data = prompt(entry.member)
        assert entry.text in {*data["yes"], *data["no"]}
        assert entry.mass is not None
        assert entry.mass > 0.5  # it was trained to answer yes or no
        assert entry.raw == entry.probability  # a = 1, b = 0
        assert entry.tokens.output == 1
        prices = rules["price_per_1000_tokens"]
        cost = (entry.tokens.input * prices["input"] + prices["output"]) / 1000
        cost += entry.milliseconds / 1000 * rules["price_per_second"]
        assert entry.cost == pytest.approx(cost, rel=1e-3)
    assert verdict.tiers[1].tokens.input > verdict.tiers[0].tokens.input  # it gets the larger picture
    assert [stage.name for stage in verdict.stages][-2:] == ["fast", "precise"]
    assert 0 < sum(entry.cost for entry in verdict.tiers) < verdict.cost
    assert verdict.versions.models.keys() >= {SMALL, MEDIUM}


@pytest.mark.parametrize("name", ["fast", "precise"])
def test_a_tier_says_the_same_when_it_is_asked_directly(
    client: RoadworkClient, tiers: TierServer, infer: Callable, name: str
) -> None:
    entry = next(entry for entry in client.predict(tiers.image).tiers if entry.name == name)
    data = prompt(entry.member)
    image = picture(tiers, infer, data)
    answer = tiers.ask_tier(entry.member, data["prompt"].replace("{findings}", ""), image, data["sampling"])
    (token,) = json.loads(answer["logprobs"])
    mass = {
        side: math.fsum(math.exp(token[str(i)]["logprob"]) for i in data[side].values() if str(i) in token)
        for side in ("yes", "no")
    }
    assert entry.raw == pytest.approx(mass["yes"] / (mass["yes"] + mass["no"]), abs=0.01)
    assert entry.mass == pytest.approx(mass["yes"] + mass["no"], abs=0.01)
    assert answer["text_output"].decode() == entry.text
    assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (entry.tokens.input, 1)


def picture(tiers: TierServer, infer: Callable, data: Mapping[str, Any]) -> bytes:
    """The picture that a tier gets."""
    import asyncio

    image = np.array([[tiers.image]], dtype=object)
    canvas, geometry = read_prepared("decode", infer(tiers.server, "decode", list(PREPARED), image=image))
    return asyncio.run(tier_image(parse_prompt(data).image, tiers.image, canvas, geometry))


def test_a_tier_that_is_unloaded_gives_its_memory_back_is_left_out_and_joins_again(
    client: RoadworkClient, tiers: TierServer, wait_until: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, there = tiers.engine(SMALL), ["--grpc-url", tiers.server.grpc_url, "--timeout", str(START)]
    assert engine is not None
    with tiers.triton() as triton:
        for _ in range(20):  # each over a stream of its own; one that the server kept would keep the tier too
            probe_tier(triton, SMALL, DEADLINE, Path("nowhere"))
    assert main(["tier", "unload", SMALL, *there]) == 0
    assert gone(engine)
    for _ in range(5):
        verdict = client.predict(tiers.image)
        check(verdict)
        assert verdict.status == "ok"
        assert outcomes(verdict) == {"fast": "unavailable", "precise": "answered"}
    assert main(["tier", "load", SMALL, *there, "--model-repository", str(tiers.server.repository)]) == 0
    wait_until(lambda: outcomes(client.predict(tiers.image)) == BOTH, 15, "the tier is asked again")
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"tier {SMALL} is gone after \d+ s; roadwork-deploy tier load {SMALL} brings it back", said[0])
    assert re.fullmatch(rf"tier {SMALL} has joined after \d+ s", said[1])


def test_a_tier_that_cannot_come_or_go_is_told_in_one_line(
    tiers: TierServer, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--grpc-url", tiers.server.grpc_url]
    assert main(["tier", "unload", "tiny_nowhere", *there]) == 2
    assert main(["tier", "load", "tiny_nowhere", *there]) == 2
    assert main(["tier", "load", SMALL, "--grpc-url", "localhost:1"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "roadwork-deploy: tiny_nowhere is not in the server's repository"
    assert said[1].startswith("roadwork-deploy: tiny_nowhere: failed to load 'tiny_nowhere'")
    assert said[2] == "roadwork-deploy: no server answers at localhost:1; name it with --grpc-url HOST:PORT"
    assert len(said) == 3


# A tier that is not there ---------------------------------------------------------------------------------------------
def test_a_missing_tier_does_not_matter_where_it_may_be_missing(tiers: TierServer) -> None:
    with tiers.cascade("lacking", NOWHERE, FAST) as cascade:
        verdict = cascade.ask(tiers.image)
        assert verdict.status == "ok"
        assert outcomes(verdict) == {"nowhere": "unavailable", "fast": "answered"}
    with tiers.cascade("lacking", {**NOWHERE, "required": True}, FAST) as cascade:
        verdict = cascade.ask(tiers.image)
        assert verdict.status == "degraded"
        assert outcomes(verdict) == {"nowhere": "unavailable", "fast": "answered"}
        assert [(gap.member, gap.reason) for gap in verdict.missing] == [("tiny_nowhere", "unavailable")]


def test_a_policy_may_refuse_to_go_without_a_tier(tiers: TierServer) -> None:
    with pytest.raises(InferenceServerException) as caught:
        tiers.load("strict", policy(FAST, NOWHERE, absent_tiers="refuse"))
    assert "tiers[1].members.tiny_nowhere: the model repository has no tiny_nowhere/prompt.json" in str(caught.value)
    with tiers.triton() as triton:
        assert not triton.is_model_ready("strict")


def test_a_prompt_that_does_not_fit_its_tier_stops_the_load(tiers: TierServer) -> None:
    with pytest.raises(InferenceServerException, match=f"{SMALL}/prompt.json: sampling.max_tokens: must be 1"):
        tiers.load("unfit", policy(FAST), {SMALL: prompt(SMALL, sampling={"max_tokens": 2})})


# Budgets and wishes ---------------------------------------------------------------------------------------------------
def test_wishes_keep_tiers_from_being_asked(client: RoadworkClient, tiers: TierServer) -> None:
    left_out = {name: dict.fromkeys(BOTH, name) for name in ("budget", "not_wanted")}
    for wishes, expected in (
        ({"max_tokens": 1}, left_out["budget"]),  # what they read is known from the last request
        ({"max_cost": 0}, left_out["budget"]),
        ({"tiers": False}, left_out["not_wanted"]),
        ({"tiers": []}, left_out["not_wanted"]),
        ({"tiers": ["precise"]}, {"fast": "not_wanted", "precise": "answered"}),
        ({"tiers": True, "max_tokens": 10_000, "max_cost": 1.0}, BOTH),
    ):
        verdict = client.predict(tiers.image, **wishes)  # type: ignore[arg-type]
        check(verdict)
        assert outcomes(verdict) == expected, wishes
        assert verdict.status == "ok"


def test_a_budget_that_is_used_up_ends_the_climb(client: RoadworkClient, tiers: TierServer) -> None:
    first = client.predict(tiers.image).tiers[0].tokens
    verdict = client.predict(tiers.image, max_tokens=first.input + first.output + 1)
    assert outcomes(verdict) == {"fast": "answered", "precise": "budget"}
    assert (verdict.status, verdict.decided_by) == ("ok", "fast")


def test_a_short_deadline_brings_the_best_verdict_so_far(tiers: TierServer) -> None:
    with tiers.cascade("late", FAST, {**REASON, "deadline_ms": 10_000.0}, prompts={REASONER: talkative()}) as cascade:
        best = cascade.ask(tiers.image, tiers=["fast"])
        verdict = cascade.ask(tiers.image, deadline=4.0)
        assert verdict.status == "timed_out"
        assert outcomes(verdict) == {"fast": "answered", "reason": "timed_out"}
        (gap,) = verdict.missing
        assert (gap.member, gap.reason) == (REASONER, "timed_out")
        assert (verdict.decided_by, verdict.probability) == ("fast", pytest.approx(best.probability, abs=1e-3))
    with tiers.cascade("late", FAST, {**REASON, "deadline_ms": 100_000.0}) as cascade:
        verdict = cascade.ask(tiers.image, deadline=4.0)  # a tenth of the tier's own is never left
        assert verdict.status == "timed_out"
        assert outcomes(verdict) == {"fast": "answered", "reason": "deadline"}
        assert verdict.missing == ()


# Answers --------------------------------------------------------------------------------------------------------------
def test_a_reasoner_thinks_aloud_and_its_boolean_is_read(tiers: TierServer, infer: Callable) -> None:
    with tiers.cascade("thinking", REASON) as cascade:
        events = list(cascade.events(tiers.image))
    verdict = events[-1].verdict
    assert verdict is not None
    check(verdict)
    assert verdict.status == "ok"
    (entry,) = verdict.tiers
    assert (entry.kind, entry.outcome, entry.repaired) == ("reasoner", "answered", False)
    assert entry.text is not None
    partial = [event for event in events if event.event == "partial"]
    assert len(partial) > 3
    assert "".join(event.text or "" for event in partial) == entry.text
    assert {event.tier_name for event in partial} == {"reason"}
    said = json.loads(entry.text)
    assert set(said) == {"thoughts", "roadwork"}
    assert said["thoughts"] == entry.thoughts
    data = prompt(REASONER)
    assert entry.tokens.output <= data["sampling"]["max_tokens"]
    assert [event.tokens.output for event in partial] == sorted(event.tokens.output for event in partial)
    assert partial[-1].tokens.output <= entry.tokens.output
    # Asked directly: raw is the share of yes at the one token that begins the boolean.
    text, image = data["prompt"].replace("{findings}", ""), picture(tiers, infer, data)
    answer = tiers.ask_tier(REASONER, text, image, data["sampling"])
    assert json.loads(answer["text_output"]) == said
    tokens = json.loads(answer["logprobs"])
    spoken = [next(iter(token.values()))["decoded_token"] for token in tokens]
    ends = np.cumsum([len(part) for part in spoken])
    value = "".join(spoken).rindex("true" if said["roadwork"] else "false")
    token = tokens[int(np.searchsorted(ends, value, side="right"))]
    mass = {s: sum(math.exp(token[str(i)]["logprob"]) for i in data[s].values() if str(i) in token) for s in YES_NO}
    assert entry.raw == pytest.approx(mass["yes"] / sum(mass.values()), abs=0.02)
    assert (entry.raw >= 0.5) == said["roadwork"]


YES_NO = ("yes", "no")


def test_a_broken_answer_is_repaired_once(tiers: TierServer) -> None:
    short = prompt(REASONER, sampling={"max_tokens": 6})
    with tiers.cascade("repairing", REASON, prompts={REASONER: short}) as cascade:
        verdict = cascade.ask(tiers.image)
        (entry,) = verdict.tiers
        assert (verdict.status, entry.outcome, entry.repaired) == ("ok", "answered", True)
        assert entry.tokens.output == 7
        # A second asking that the budget does not allow.
        most = entry.tokens.input // 2 + 6
        (entry,) = cascade.ask(tiers.image, max_tokens=most).tiers
        assert (entry.outcome, entry.repaired) == ("failed", False)


def test_a_broken_answer_without_repair_is_missing(tiers: TierServer) -> None:
    short = prompt(REASONER, sampling={"max_tokens": 6}, repair=None)
    with tiers.cascade("broken", REASON, prompts={REASONER: short}) as cascade:
        verdict = cascade.ask(tiers.image)
    assert verdict.status == "degraded"
    (entry,) = verdict.tiers
    assert (entry.outcome, entry.repaired, entry.tokens.output) == ("failed", False, 6)
    (gap,) = verdict.missing
    assert (gap.member, gap.stage, gap.reason) == (REASONER, "reason", "error")
    assert gap.detail.startswith(f"{REASONER}: its answer is broken JSON")
    assert verdict.decided_by == "perception"


@pytest.mark.parametrize("allowed", [True, False], ids=["little mass", "no mass"])
def test_an_answer_that_is_neither_yes_nor_no(tiers: TierServer, allowed: bool) -> None:
    unlikely = {"yes": {"a": 64}, "no": {"b": 65}}
    sampling = {"allowed_token_ids": [64, 65] if allowed else None, "logprobs": 20 if allowed else 2}
    odd = prompt(SMALL, **unlikely, sampling=sampling)
    asked = tier("odd", SMALL, minimum_mass=0.9)
    with tiers.cascade("odd_tier", asked, PRECISE, prompts={SMALL: odd}) as cascade:
        verdict = cascade.ask(tiers.image)
    assert verdict.status == "degraded"
    assert outcomes(verdict) == {"odd": "failed", "precise": "answered"}
    (gap,) = verdict.missing
    assert (gap.member, gap.reason) == (SMALL, "error")
    words = "their mass is 0.0" if allowed else "none of their tokens is among 2; the likeliest is "
    assert gap.detail.startswith(f"{SMALL}: it answered neither yes nor no: {words}")
    assert verdict.decided_by == "precise"


def test_what_does_not_fit_into_a_tier_is_said_clearly(tiers: TierServer) -> None:
    data = prompt(SMALL)
    long = {**data, "prompt": data["prompt"].replace("Is there", "Is there " + "really " * 600)}
    original = prompt(MEDIUM, image={"from": "original"})
    large = street(2400, 1800)
    assert MOST_PIXELS < 2400 * 1800
    with tiers.cascade("unfitting", FAST, PRECISE, prompts={SMALL: long, MEDIUM: original}) as cascade:
        verdict = cascade.ask(large)
    assert verdict.status == "degraded"
    assert outcomes(verdict) == {"fast": "failed", "precise": "failed"}
    assert verdict.decided_by == "perception"
    gaps = {gap.stage: gap for gap in verdict.missing}
    assert {gap.reason for gap in gaps.values()} == {"error"}
    assert gaps["fast"].detail.startswith(f"{SMALL}: text_input: has ")
    assert gaps["fast"].detail.endswith("prompt and answer may have 512 (max_model_len in model.json)")
    assert (
        "image[0]: has 2400 x 1800 = 4320000 pixels, the limit is 4000000 (max_image_pixels" in gaps["precise"].detail
    )


def test_findings_go_into_the_prompt(tiers: TierServer) -> None:
    told = {**FAST, "findings": True}
    with tiers.cascade("telling", told) as cascade:
        verdict = cascade.ask(tiers.image)
    with tiers.cascade("silent", FAST) as cascade:
        bare = cascade.ask(tiers.image)
    assert outcomes(verdict) == outcomes(bare) == {"fast": "answered"}
    assert verdict.tokens.input > bare.tokens.input


def test_all_stages_ask_every_tier(tiers: TierServer) -> None:
    with tiers.cascade("every", FAST, PRECISE, REASON, climb=["fast"]) as cascade:
        assert outcomes(cascade.ask(tiers.image)) == {"fast": "answered"}
        verdict = cascade.ask(tiers.image, all_stages=True)
    assert verdict.route is None
    assert outcomes(verdict) == {"fast": "answered", "precise": "answered", "reason": "answered"}


def test_a_bound_ends_the_climb(tiers: TierServer) -> None:
    sure = {**FAST, "accept": 0.5001, "reject": 0.5}
    with tiers.cascade("sure", sure, PRECISE) as cascade:
        verdict = cascade.ask(tiers.image)
    assert outcomes(verdict) == {"fast": "answered", "precise": "decided"}
    assert (verdict.status, verdict.decided_by) == ("ok", "fast")
    assert verdict.versions.policy.startswith("climbing@")
    assert verdict.milliseconds < DEADLINE * 1000
