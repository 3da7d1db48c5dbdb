"""What a JSON schema finds wrong with a file, said in one line that names the field.

Schemas say under `x-must` what a field must be; the line is made of that and of what the file has.
"""

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


class FileError(ValueError):
    """A file cannot be used: `field` is where (empty: the whole file), `problem` what."""

    def __init__(self, field: str, problem: str, *, path: str | Path | None = None) -> None:
        self.field = field
        self.problem = problem
        super().__init__(": ".join(part for part in (str(path) if path else "", field, problem) if part))


class _Wrong(Exception):
    """Field and problem."""


def first_problem(data: Any, schema: Path, name: str) -> tuple[str, str] | None:
    """Field and problem of the first thing that is wrong; `name` is the field's where it is the whole file."""
    validator = _validator(schema)
    try:
        _check_values(data, "")
    except RecursionError:
        return name, "refers to itself or is nested too deeply"
    except _Wrong as wrong:
        field, problem = wrong.args
        return field or name, problem
    errors = sorted(validator.iter_errors(data), key=_urgency)
    if not errors:
        return None
    field, problem = _explain(errors[0], validator.schema)
    return field or name, problem


@functools.cache
def _validator(schema: Path) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))


def shown(value: Any) -> str:
    """A value as text of at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = "a huge number"
    return text if len(text) <= 60 else text[:59] + "…"


def _check_values(data: Any, where: str) -> None:
    """Numbers that are none (NaN passes every comparison of the schema) and keys that are not text."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str) or not key.strip() or not key.isprintable():
                raise _Wrong(where, f"its keys must be text, got {shown(key)}")
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
            raise _Wrong(where, f"must be a finite number, got {shown(data)}")


def _urgency(error: jsonschema.ValidationError) -> tuple[int, str]:
    # A misspelt key also leaves the right one missing: the first is the better news.
    order = {"additionalProperties": 0, "required": 2}.get(str(error.validator), 1)
    return order, _path(error.absolute_path)


def _explain(error: jsonschema.ValidationError, root: Any) -> tuple[str, str]:
    schema: Any = error.schema
    value: Any = error.instance
    where = _path(error.absolute_path)
    prefix = f"{where}." if where else ""
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        key = next(key for key in value if key not in known)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return prefix + key, f"unknown; {hint}"
    if error.validator == "required":
        key = next(key for key in schema["required"] if key not in value)
        must = _resolve(schema.get("properties", {}).get(key, {}), root).get("x-must", "given")
        return prefix + key, f"is missing; must be {must}"
    problem = f"must be {schema.get('x-must', 'as its schema says')}, got {shown(value)}"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value, re.IGNORECASE):
        problem += " (YAML reads 1e-5 as text, 1.0e-5 as a number)"
    return where, problem


def _resolve(schema: dict[str, Any], root: Any) -> dict[str, Any]:
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema


def _path(parts: Iterable[Any]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
