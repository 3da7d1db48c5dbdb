"""What makes a policy wrong, said in one line that names the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from roadwork_cascade.policy_parts import VOTELESS
from roadwork_cascade.schema_check import FileError, first_problem, shown

SCHEMA_PATH = Path(__file__).with_name("policy.schema.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SINCE_2 = ("absent_tiers", "budget", "routes", "tiers", "together")
_TENSOR_OF_KIND = {"boxes": "canvas", "scene": "canvas", "text": "image", "distance": "canvas"}


class PolicyError(FileError):
    """The policy cannot be used."""


# The parser in C, where PyYAML has it, is ten times as fast: the catalogue of models takes 0.8 s without.
_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SAFE):
    """Refuses a mapping that has a key twice, where YAML would silently keep the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise PolicyError(name, f"is given twice (line {key.start_mark.line + 1})")
        seen.add(name)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> tuple[Any, bytes]:
    """Content and bytes of a YAML file. Raises `PolicyError` naming the file and, for bad YAML, the line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PolicyError("", f"cannot be read: {error.strerror or error}", path=path) from None
    try:
        return yaml.load(raw, Loader=_Loader), raw
    except PolicyError as error:
        raise PolicyError(error.field, error.problem, path=path) from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise PolicyError("", f"is not YAML: {line}{error.problem}", path=path) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise PolicyError("", f"is not YAML: {' '.join(str(error).split())}", path=path) from None


def check_policy(data: Any) -> None:
    """Raise `PolicyError` for the first thing that is wrong with a policy given as plain dicts and lists."""
    problem = first_problem(data, SCHEMA_PATH, "policy")
    if problem is not None:
        raise PolicyError(*problem)
    _check_meaning(data)


def _check_meaning(data: dict[str, Any]) -> None:
    if data["breaker"]["minimum"] > data["breaker"]["window"]:
        raise PolicyError("breaker.minimum", f"must be at most breaker.window, got {shown(data['breaker']['minimum'])}")
    for key in _SINCE_2:
        if data["version"] < 2 and key in data:
            raise PolicyError(key, f"needs version: 2, got version: {data['version']}")
    stage_names: dict[str, str] = {}
    member_names: dict[str, str] = {}
    prepared = False
    for index, stage in enumerate(data["stages"]):
        where = f"stages[{index}]"
        _once(stage_names, stage["name"], f"{where}.name")
        prepared = prepared or stage.get("prepare") is not None
        _check_bounds(stage, where)
        _check_when(stage.get("when"), f"{where}.when", data["version"])
        _check_needs(stage, where, prepared)
        for name, member in stage["members"].items():
            _check_name(member_names, name, f"{where}.members.{name}")
            _check_member(member, stage, f"{where}.members.{name}")
        # Else its bounds could end the cascade on the word of nobody, and its outcome would be nobody's.
        if all(member["kind"] in VOTELESS for member in stage["members"].values()):
            raise PolicyError(f"{where}.members", f"at least one must have a vote: not of kind {', '.join(VOTELESS)}")
    for index, tier in enumerate(data.get("tiers", ())):
        where = f"tiers[{index}]"
        _once(stage_names, tier["name"], f"{where}.name")
        _check_bounds(tier, where)
        _check_when(tier.get("when"), f"{where}.when", data["version"])
        for name in tier["members"]:
            _check_name(member_names, name, f"{where}.members.{name}")
    _check_routes(data)


def _check_routes(data: dict[str, Any]) -> None:
    """A tier that nobody climbs is allowed: a caller may ask for all of them."""
    tiers = [tier["name"] for tier in data.get("tiers", ())]
    names: dict[str, str] = {}
    always: str | None = None
    for index, route in enumerate(data.get("routes", ())):
        where = f"routes[{index}]"
        _once(names, route["name"], f"{where}.name")
        _check_when(route.get("when"), f"{where}.when", data["version"])
        if always is not None:
            raise PolicyError(where, f"can never be taken: {always} before it always holds")
        always = where if route.get("when") is None else None
        for step, name in enumerate(route["climb"]):
            here = f"{where}.climb[{step}]"
            if name not in tiers:
                known = ", ".join(tiers) or "none"
                raise PolicyError(here, f"no tier has the name {name!r}; the policy's tiers: {known}")
            if name in route["climb"][:step]:
                raise PolicyError(here, f"{name!r} is climbed twice")


def _check_bounds(stage: dict[str, Any], where: str) -> None:
    accept, reject = stage.get("accept"), stage.get("reject")
    if accept is not None and reject is not None and reject >= accept:
        raise PolicyError(f"{where}.reject", f"must be under accept ({accept}), got {reject}")


def _check_when(when: dict[str, Any] | None, where: str, version: int) -> None:
    for key in when or {}:
        if version < 2 and key not in ("min_probability", "max_probability", "disagreement"):
            raise PolicyError(f"{where}.{key}", f"needs version: 2, got version: {version}")
    for what in ("probability", "boxes", "box_share"):
        low, high = (when or {}).get(f"min_{what}"), (when or {}).get(f"max_{what}")
        if low is not None and high is not None and low > high:
            raise PolicyError(f"{where}.min_{what}", f"must be at most max_{what} ({high}), got {low}")


def _check_needs(stage: dict[str, Any], where: str, prepared: bool) -> None:
    if stage["needs"] == "canvas" and not prepared:
        raise PolicyError(f"{where}.needs", "no stage up to this one has a prepare model that makes the canvas")
    if stage["needs"] == "canvas" and stage.get("prepare") is not None:
        raise PolicyError(f"{where}.needs", "must be image where prepare makes the canvas, got 'canvas'")


def _check_member(member: dict[str, Any], stage: dict[str, Any], where: str) -> None:
    kind, tensor = member["kind"], _TENSOR_OF_KIND[member["kind"]]
    if tensor == "canvas" and stage["needs"] == "image" and stage.get("prepare") is None:
        raise PolicyError(f"{where}.kind", f"a {kind} member takes the canvas; the stage needs image and prepares none")
    if tensor == "image" and stage["needs"] == "canvas":
        raise PolicyError(f"{where}.kind", f"a {kind} member takes the image; the stage needs canvas")
    if kind == "scene" and member.get("nothing") is not None:
        raise PolicyError(f"{where}.nothing", f"must be null for a scene member, got {shown(member['nothing'])}")


def _check_name(seen: dict[str, str], name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise PolicyError(where, "must be a name of letters, digits, '.', '_' and '-'")
    _once(seen, name, where)


def _once(seen: dict[str, str], name: str, where: str) -> None:
    if name in seen:
        raise PolicyError(where, f"{name!r} is used twice, first at {seen[name]}")
    seen[name] = where
