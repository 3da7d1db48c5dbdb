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
    (member(1, "yolox", kind="box"), "stages[1].members.yolox.kind: must be boxes, scene or text, got 'box'"),
    (member(1, "yolox", wieght=1), "stages[1].members.yolox.wieght: unknown; did you mean 'weight'?"),
    (member(1, "new", weight=1), "stages[1].members.new.kind: is missing; must be boxes, scene or text"),
    (member(1, "a b", kind="boxes", weight=1), "stages[1].members.a b: must be a name"),
    (member(1, "scene", kind="boxes", weight=1), "stages[1].members.scene: 'scene' is used twice, first at stages[0]"),
    (member(0, "scene", nothing=0.1), "stages[0].members.scene.nothing: must be null for a scene member, got 0.1"),
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
    (lambda data: data.update(version=2), "version: must be 1, got 2"),
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
@given(draw=st.data())
def test_any_mutated_policy_loads_or_is_refused_by_the_name_of_a_field(
    data: dict[str, Any], draw: st.DataObject
) -> None:
    mutated = copy.deepcopy(data)
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
