"""policy.yaml: what loads, what is refused and how the refusal names the field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roadwork_cascade.policy import Policy, PolicyError, load_policy, parse_policy, write_policy
from tier_double import tiers_policy

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"


def stage(index: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["stages"][index].update(changes)


def member(index: int, name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["stages"][index]["members"].setdefault(name, {}).update(changes)


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(key)


WRONG: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (member(1, "yolox", weight=-1), "stages[1].members.yolox.weight: must be a positive number, got -1"),
    (member(1, "yolox", weight=float("nan")), "stages[1].members.yolox.weight: must be a finite number, got nan"),
    (member(1, "yolox", weight=True), "stages[1].members.yolox.weight: must be a positive number, got True"),
    (member(1, "yolox", kind="box"), "stages[1].members.yolox.kind: must be boxes, scene, text or distance, got 'box'"),
    (member(1, "yolox", wieght=1), "stages[1].members.yolox.wieght: unknown; did you mean 'weight'?"),
    (member(1, "new", weight=1), "stages[1].members.new.kind: is missing; must be boxes, scene, text or distance"),
    (member(1, "a b", kind="boxes", weight=1), "stages[1].members.a b: must be a name"),
    (member(1, "scene", kind="boxes", weight=1), "stages[1].members.scene: 'scene' is used twice, first at stages[0]"),
    (member(0, "scene", nothing=0.1), "stages[0].members.scene.nothing: must be null for a scene member, got 0.1"),
    (member(1, "new", kind="boxes"), "stages[1].members.new.weight: is missing; must be a positive number"),
    (member(1, "new", kind="boxes", weight=None), "stages[1].members.new.weight: must be a positive number, got None"),
    (member(1, "new", kind="distanc"), "stages[1].members.new.kind: must be boxes, scene, text or distance, got"),
    *(
        (
            member(1, "depth", kind="distance", **{field: 0.5}),
            f"stages[1].members.depth.{field}: must be left out or null, as a distance member has no vote, got 0.5",
        )
        for field in ("weight", "a", "b", "nothing")
    ),
    (member(1, "depth", kind="distance", far=1), "stages[1].members.depth.far: unknown; known are kind, weight"),
    (member(2, "depth", kind="distance"), "stages[2].members.depth.kind: a distance member takes the canvas"),
    (stage(1, members={"depth": {"kind": "distance"}}), "stages[1].members: at least one must have a vote"),
    (member(1, "ocr", kind="text", weight=1), "stages[1].members.ocr.kind: a text member takes the image"),
    (member(2, "yolo", kind="boxes", weight=1), "stages[2].members.yolo.kind: a boxes member takes the canvas"),
    (stage(0, reject=0.99), "stages[0].reject: must be under accept (0.98), got 0.99"),
    (stage(0, accept=2), "stages[0].accept: must be a number in [0, 1], or null, got 2"),
    (stage(0, name="perception"), "stages[1].name: 'perception' is used twice, first at stages[0].name"),
    (stage(0, needs="canvas"), "stages[0].needs: must be image where prepare makes the canvas"),
    (stage(0, prepare=None), "stages[0].members.scene.kind: a scene member takes the canvas"),
    (stage(1, prepare=None, needs="sound"), "stages[1].needs: must be image or canvas, got 'sound'"),
    (stage(2, when={"disagrement": True}), "stages[2].when.disagrement: unknown; did you mean 'disagreement'?"),
    (
        stage(2, when={"min_probability": 0.9, "max_probability": 0.1}),
        "stages[2].when.min_probability: must be at most",
    ),
    (stage(2, price_per_second="2e-5"), "(YAML reads 1e-5 as text, 1.0e-5 as a number)"),
    (stage(2, members={}), "stages[2].members: must be a mapping of at least one member, got {}"),
    (drop("threshold"), "threshold: is missing; must be a number between 0 and 1"),
    (drop("stages"), "stages: is missing; must be a list of at least one stage"),
    (lambda data: data.update(stages=[]), "stages: must be a list of at least one stage, got []"),
    (lambda data: data.update(thresold=1), "thresold: unknown; did you mean 'threshold'?"),
    (lambda data: data.update(version=3), "version: must be 1 or 2, got 3"),
    (lambda data: data.update(quorum=10**400), "quorum: must be a finite number"),
    (lambda data: data.update(pool=3), "pool: must be a mapping, got 3"),
    (lambda data: data["breaker"].update(minimum=100), "breaker.minimum: must be at most breaker.window, got 100"),
    (lambda data: data.update(fitted={1: 2}), "fitted: its keys must be text, got 1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:60] for _, message in WRONG])
def test_a_wrong_policy_is_refused_by_the_name_of_the_field(
    data: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(data)
    with pytest.raises(PolicyError) as refusal:
        parse_policy(data)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("junk", [None, [], "text", 3, float("nan")])
def test_what_is_no_mapping_is_no_policy(junk: Any) -> None:
    with pytest.raises(PolicyError, match="policy: must be a"):
        parse_policy(junk)


def tier(index: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["tiers"][index].update(changes)


def route(index: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["routes"][index].update(changes)


def scorer(**changes: Any) -> dict[str, Any]:
    return {"vlm_s": {"kind": "scorer", "weight": 1, **changes}}


WRONG_TIERS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda data: data.update(version=1), "absent_tiers: needs version: 2, got version: 1"),
    (lambda data: data.update(absent_tiers="ignore"), "absent_tiers: must be degrade or refuse, got 'ignore'"),
    (
        lambda data: data.update(budget={"tokens": -1}),
        "budget.tokens: must be a whole number of tokens, or null, got -1",
    ),
    (lambda data: data.update(budget={"cost": -0.1}), "budget.cost: must be a number that is not negative, or null"),
    (route(1, climb=["slow"]), "routes[1].climb[0]: no tier has the name 'slow'; the policy's tiers: fast, precise"),
    (route(1, climb=["fast", "fast"]), "routes[1].climb[1]: 'fast' is climbed twice"),
    (route(1, name="sure"), "routes[1].name: 'sure' is used twice, first at routes[0].name"),
    (route(2, when=None), "routes[3]: can never be taken: routes[2] before it always holds"),
    (route(1, when={"min_boxes": 5, "max_boxes": 2}), "routes[1].when.min_boxes: must be at most max_boxes (2), got 5"),
    (route(1, when={"min_boxs": 5}), "routes[1].when.min_boxs: unknown; did you mean 'min_boxes'?"),
    (route(1, when={"min_boxes": 1.5}), "routes[1].when.min_boxes: must be a whole number of boxes, got 1.5"),
    (tier(1, name="glance"), "tiers[1].name: 'glance' is used twice, first at stages[0].name"),
    (tier(1, name="fast"), "tiers[1].name: 'fast' is used twice, first at tiers[0].name"),
    (tier(1, members=scorer()), "tiers[1].members.vlm_s: 'vlm_s' is used twice, first at tiers[0].members.vlm_s"),
    (tier(0, members={}), "tiers[0].members: must be a mapping of exactly one member"),
    (
        tier(0, members={**scorer(), "b": {"kind": "scorer", "weight": 1}}),
        "tiers[0].members: must be a mapping of exact",
    ),
    (tier(0, members=scorer(kind="scene")), "tiers[0].members.vlm_s.kind: must be scorer or reasoner, got 'scene'"),
    (tier(0, members=scorer(nothing=0.1)), "tiers[0].members.vlm_s.nothing: must be null"),
    (tier(0, members=scorer(minimum_mass=2)), "tiers[0].members.vlm_s.minimum_mass: must be a number in [0, 1], got 2"),
    (tier(0, accept=0.1, reject=0.2), "tiers[0].reject: must be under accept (0.1), got 0.2"),
    (tier(0, price_per_second=-1), "tiers[0].price_per_second: must be a number in [0, 1000000], got -1"),
    (tier(0, price_per_1000_tokens={"input": -1}), "tiers[0].price_per_1000_tokens.input: must be a number in [0, "),
    (tier(0, findings="yes"), "tiers[0].findings: must be true or false, got 'yes'"),
    (
        member(0, "vlm", kind="scorer", weight=1),
        "stages[0].members.vlm.kind: must be boxes, scene, text or distance, got 'scorer'",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_TIERS, ids=[message[:60] for _, message in WRONG_TIERS])
def test_wrong_tiers_and_routes_are_refused_by_the_name_of_the_field(
    change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    data = tiers_policy()
    change(data)
    with pytest.raises(PolicyError) as refusal:
        parse_policy(data)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_conditions_on_boxes_are_of_version_2(data: dict[str, Any]) -> None:
    data["stages"][2]["when"] = {"min_boxes": 1}
    with pytest.raises(PolicyError, match=r"stages\[2\]\.when\.min_boxes: needs version: 2, got version: 1"):
        parse_policy(data)
    data["version"] = 2
    assert parse_policy(data).stages[2].when


def test_a_tier_that_nobody_climbs_is_allowed() -> None:
    data = tiers_policy()
    data["routes"] = []
    assert len(parse_policy(data).tiers) == 3


def test_a_policy_with_tiers_written_and_read_again_is_the_same(tmp_path: Path) -> None:
    data = tiers_policy()
    policy = parse_policy(data)
    write_policy(policy, tmp_path / "policy.yaml")
    assert load_policy(tmp_path / "policy.yaml").to_dict() == policy.to_dict() == data
    assert "climb: [precise, reason]" in (tmp_path / "policy.yaml").read_text()


def test_optional_fields_of_tiers_have_defaults() -> None:
    data = tiers_policy()
    del data["budget"], data["absent_tiers"]
    data["tiers"][0] = {"name": "fast", "deadline_ms": 100, "members": scorer()}
    tier = parse_policy(data).tiers[0]
    assert (tier.accept, tier.findings, tier.required, tier.member.minimum_mass) == (None, False, False, 0.5)
    assert parse_policy(data).absent_tiers == "degrade"


def test_a_stage_on_the_canvas_needs_a_stage_before_it_that_prepares_one(data: dict[str, Any]) -> None:
    data["stages"] = data["stages"][1:]
    with pytest.raises(PolicyError, match=r"stages\[0\].needs: no stage up to this one has a prepare model"):
        parse_policy(data)


def test_a_policy_written_and_read_again_is_the_same(data: dict[str, Any], tmp_path: Path) -> None:
    data["fitted"] = {"command": "fit: 'all'", "images": 730, "groups": 24, "date": "2026-11-22"}
    data["stages"][0]["price_per_second"] = 2e-5
    policy = parse_policy(data)
    write_policy(policy, tmp_path / "policy.yaml")
    again = load_policy(tmp_path / "policy.yaml")
    assert again.to_dict() == policy.to_dict() == data
    write_policy(again, tmp_path / "second.yaml")
    assert (tmp_path / "second.yaml").read_text() == (tmp_path / "policy.yaml").read_text()
    assert load_policy(tmp_path / "second.yaml").identity == again.identity


def test_optional_fields_have_the_values_of_an_uncalibrated_member(data: dict[str, Any]) -> None:
    data["stages"][1]["members"]["yolox"] = {"kind": "boxes", "weight": 1}
    del data["all_stages"], data["fitted"], data["stages"][1]["prepare"], data["stages"][1]["when"]
    policy = parse_policy(data)
    added = policy.stages[1].members[0]
    assert (added.a, added.b, added.nothing) == (1.0, 0.0, None)
    assert policy.all_stages is False


def test_a_distance_member_has_no_numbers(data: dict[str, Any], tmp_path: Path) -> None:
    nulls = dict.fromkeys(("weight", "a", "b", "nothing"))
    data["stages"][1]["members"].update(depth={"kind": "distance"}, depth_too={"kind": "distance", **nulls})
    policy = parse_policy(data)
    added = policy.stages[1].members[2:]
    assert [(member.kind, member.votes, member.weight) for member in added] == [("distance", False, 0.0)] * 2
    write_policy(policy, tmp_path / "policy.yaml")
    assert load_policy(tmp_path / "policy.yaml").to_dict() == policy.to_dict()
    assert "depth_too: {kind: distance}\n" in (tmp_path / "policy.yaml").read_text()


def test_the_canvas_of_a_later_stage_comes_from_the_stage_before(data: dict[str, Any]) -> None:
    policy = parse_policy(data)
    assert [policy.preparer(stage) for stage in policy.stages] == ["decode", "decode", "decode"]


def test_the_committed_policy_loads() -> None:
    policy = load_policy(REPOSITORY / "roadwork" / "policy.yaml")
    assert {member.name for _, member in policy.members()} >= {"scene"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\nversion: 1\n", "version: is given twice (line 2)"),
        ("version: [1\n", "is not YAML: line"),
        ("a: !!python/object:os.system {}\n", "is not YAML"),
        ("&a [*a]\n", "refers to itself"),
        ("a: 2026-13-45\n", "is not YAML"),
        ("\x00", "is not YAML"),
        ("", "policy: must be a mapping, got None"),
    ],
)
def test_a_file_that_is_no_policy_is_refused_by_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError) as refusal:
        load_policy(path)
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(str(path))


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_policy(tmp_path / "nowhere.yaml")


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}), st.just([{}])
)
junk = st.one_of(scalars, st.dictionaries(st.text(max_size=8), scalars, max_size=3), st.lists(scalars, max_size=3))


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [place for key, value in entries for place in places(value, (*path, key))]


def parsed(data: Any) -> Policy | PolicyError:
    try:
        return parse_policy(data)
    except PolicyError as refusal:
        return refusal


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data(), tiers=st.booleans())
def test_any_mutated_policy_loads_or_is_refused_by_the_name_of_a_field(
    data: dict[str, Any], draw: st.DataObject, tiers: bool
) -> None:
    mutated = tiers_policy() if tiers else copy.deepcopy(data)
    for _ in range(draw.draw(st.integers(1, 3), label="mutations")):
        path = draw.draw(st.sampled_from(places(mutated)), label="where")
        parent = mutated
        for key in path[:-1]:
            parent = parent[key]
        action = draw.draw(st.sampled_from(["set", "drop", "add"]), label="action")
        if action == "set":
            parent[path[-1]] = draw.draw(junk, label="value")
        elif action == "drop":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            added: Any = draw.draw(st.one_of(st.text(max_size=8), st.integers()), label="key")
            parent[added] = draw.draw(junk)
        if not places(mutated):
            break
    result = parsed(mutated)
    if isinstance(result, PolicyError):
        assert result.field
        assert result.problem
        assert "\n" not in str(result)
    else:
        assert parse_policy(result.to_dict()).to_dict() == result.to_dict()
