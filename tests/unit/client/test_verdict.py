"""The dataclass and its JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
from importlib import resources
from typing import Any

import pytest
from roadwork_client import ProtocolError, Verdict
from triton_double import VERDICT


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(VERDICT)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = data
    for part in parents:
        target = target[part]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return data


def test_round_trip_keeps_everything() -> None:
    verdict = Verdict.from_json(json.dumps(VERDICT))
    assert verdict.to_dict() == VERDICT
    assert json.loads(verdict.to_json()) == VERDICT
    assert list(verdict.to_dict()) == list(VERDICT)
    assert Verdict.from_dict(verdict.to_dict()) == verdict
    assert verdict.boxes[0].class_name == "cone"
    assert verdict.boxes[1].seen_by == ("yolox_nano", "centernet")
    assert [box.nearness for box in verdict.boxes] == [0.8125, None]


def test_is_frozen() -> None:
    verdict = Verdict.from_dict(VERDICT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        verdict.probability = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("probability", KeyError, "verdict.probability is missing"),
        ("probability", 1.2, r"verdict.probability: expected a number in \[0, 1\]"),
        ("probability", float("nan"), "verdict.probability: expected a finite number"),
        ("probability", True, "verdict.probability"),
        ("roadwork", 1, "verdict.roadwork: expected true or false"),
        ("boxes.1.box", [1, 2, 3], r"verdict.boxes\[1\].box: expected four numbers"),
        ("boxes.0.nearness", 1.5, r"verdict.boxes\[0\].nearness: expected a number in \[0, 1\]"),
        ("boxes.0.nearness", "near", r"verdict.boxes\[0\].nearness: expected a finite number"),
        ("boxes.0.seen_by", KeyError, r"verdict.boxes\[0\].seen_by is missing"),
        ("boxes.0.class", 3, r"verdict.boxes\[0\].class: expected a text"),
        ("image.width", 1.5, "verdict.image.width: expected a whole number"),
        ("tiers", {}, "verdict.tiers: expected a list"),
        ("versions.models", {"a": 1}, "verdict.versions.models.a: expected a text"),
        ("tiers.0.raw", 2, r"verdict.tiers\[0\].raw: expected a number in"),
        ("tiers.1.tokens", {}, r"verdict.tiers\[1\].tokens.input is missing"),
        ("route", 3, "verdict.route: expected a text"),
        ("schema", 3, "schema 3"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        Verdict.from_dict(changed(path, value))


def test_tiers_are_read() -> None:
    fast, precise = Verdict.from_dict(VERDICT).tiers
    assert (fast.name, fast.outcome, fast.probability, fast.tokens.input) == ("fast", "answered", 0.8, 70)
    assert (precise.outcome, precise.reason, precise.probability) == ("skipped", "decided", None)


def test_the_verdict_of_an_older_server_is_one_without_tiers() -> None:
    old = {key: value for key, value in VERDICT.items() if key != "route"} | {"schema": 1, "tiers": []}
    verdict = Verdict.from_dict(old)
    assert (verdict.tiers, verdict.route, verdict.schema) == ((), None, 2)
    assert Verdict.from_dict(verdict.to_dict()) == verdict


def test_boxes_of_a_server_that_knows_no_nearness_have_none() -> None:
    verdict = Verdict.from_dict(changed("boxes.0.nearness", KeyError))
    assert verdict.boxes[0].nearness is None
    assert verdict.to_dict() == changed("boxes.0.nearness", None)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", b"\xff"])
def test_what_is_no_verdict_is_refused(text: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        Verdict.from_json(text)


def test_fields_of_a_newer_server_are_passed_over() -> None:
    assert Verdict.from_dict({**VERDICT, "novelty": 1}) == Verdict.from_dict(VERDICT)


def test_agrees_with_the_schema_of_the_cascade() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((resources.files("roadwork_cascade") / "verdict.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(Verdict.from_dict(VERDICT).to_dict())
    # What the schema demands, the dataclass reads, and the other way round.
    names = {"class" if f.name == "class_name" else f.name for f in dataclasses.fields(Verdict)}
    assert names == set(schema["properties"])
    for name in schema["required"]:
        with pytest.raises(ProtocolError):
            Verdict.from_dict(changed(name, KeyError))
