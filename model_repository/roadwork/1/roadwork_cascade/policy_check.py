"""What makes a policy wrong, said in one line that names the field."""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMA_PATH = Path(__file__).with_name("policy.schema.json")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TENSOR_OF_KIND = {"boxes": "canvas", "scene": "canvas", "text": "image"}


class PolicyError(ValueError):
    """The policy cannot be used: `field` is where (empty: the whole file), `problem` what."""

    def __init__(self, field: str, problem: str, *, path: str | Path | None = None) -> None:
        self.field = field
        self.problem = problem
        super().__init__(": ".join(part for part in (str(path) if path else "", field, problem) if part))


class _Loader(yaml.SafeLoader):
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
    try:
        _check_values(data, "")
    except RecursionError:
        raise PolicyError("policy", "refers to itself or is nested too deeply") from None
    errors = sorted(_validator().iter_errors(data), key=_urgency)
    if errors:
        raise _explain(errors[0])
    _check_meaning(data)


@functools.lru_cache(maxsize=1)
def _validator() -> Any:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))


def _check_values(data: Any, where: str) -> None:
    """Numbers that are none (NaN passes every comparison of the schema) and keys that are not text."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str) or not key.strip() or not key.isprintable():
                raise PolicyError(where or "policy", f"its keys must be text, got {_shown(key)}")
            _check_values(value, f"{where}.{key}" if where else key)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            _check_values(value, f"{where}[{index}]")
    elif isinstance(data, (int, float)):
        try:
            finite = math.isfinite(data)
        except OverflowError:
            finite = False
        if not finite:
            raise PolicyError(where or "policy", f"must be a finite number, got {_shown(data)}")


def _urgency(error: jsonschema.ValidationError) -> tuple[int, str]:
    # A misspelt key also leaves the right one missing: the first is the better news.
    order = {"additionalProperties": 0, "required": 2}.get(str(error.validator), 1)
    return order, _path(error.absolute_path)


def _explain(error: jsonschema.ValidationError) -> PolicyError:
    schema: Any = error.schema
    value: Any = error.instance
    where = _path(error.absolute_path)
    prefix = f"{where}." if where else ""
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        key = next(key for key in value if key not in known)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return PolicyError(prefix + key, f"unknown; {hint}")
    if error.validator == "required":
        key = next(key for key in schema["required"] if key not in value)
        must = dict(_resolve(schema["properties"][key])).get("x-must", "given")
        return PolicyError(prefix + key, f"is missing; must be {must}")
    problem = f"must be {schema['x-must']}, got {_shown(value)}"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value, re.IGNORECASE):
        problem += " (YAML reads 1e-5 as text, 1.0e-5 as a number)"
    return PolicyError(where or "policy", problem)


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return _validator().schema["$defs"][reference.rpartition("/")[2]] if reference else schema


def _check_meaning(data: dict[str, Any]) -> None:
    if data["breaker"]["minimum"] > data["breaker"]["window"]:
        raise PolicyError(
            "breaker.minimum", f"must be at most breaker.window, got {_shown(data['breaker']['minimum'])}"
        )
    stage_names: dict[str, str] = {}
    member_names: dict[str, str] = {}
    prepared = False
    for index, stage in enumerate(data["stages"]):
        where = f"stages[{index}]"
        _once(stage_names, stage["name"], f"{where}.name")
        prepared = prepared or stage.get("prepare") is not None
        _check_stage(stage, where, prepared)
        for name, member in stage["members"].items():
            here = f"{where}.members.{name}"
            if not _NAME.fullmatch(name):
                raise PolicyError(here, "must be a name of letters, digits, '.', '_' and '-'")
            _once(member_names, name, here)
            _check_member(member, stage, here)


def _check_stage(stage: dict[str, Any], where: str, prepared: bool) -> None:
    accept, reject = stage.get("accept"), stage.get("reject")
    if accept is not None and reject is not None and reject >= accept:
        raise PolicyError(f"{where}.reject", f"must be under accept ({accept}), got {reject}")
    when = stage.get("when") or {}
    low, high = when.get("min_probability", 0.0), when.get("max_probability", 1.0)
    if low > high:
        raise PolicyError(f"{where}.when.min_probability", f"must be at most max_probability ({high}), got {low}")
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
        raise PolicyError(f"{where}.nothing", f"must be null for a scene member, got {_shown(member['nothing'])}")


def _once(seen: dict[str, str], name: str, where: str) -> None:
    if name in seen:
        raise PolicyError(where, f"{name!r} is used twice, first at {seen[name]}")
    seen[name] = where


def _path(parts: Iterable[Any]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = "a huge number"
    return text if len(text) <= 60 else text[:59] + "…"
