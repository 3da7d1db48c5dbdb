"""What a caller may ask for with one request."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roadwork_cascade.engine import INVALID_OPTIONS, InvalidOptions

KEYS = ("deadline_ms", "all_stages", "tiers", "max_tokens", "max_cost")


@dataclass(frozen=True)
class Options:
    """None leaves the policy's value.

    `tiers`: names of those that may be asked; empty for none, None for all. `max_tokens` (read and written) and
    `max_cost` bound what tiers may take.
    """

    deadline_ms: float | None = None
    all_stages: bool | None = None
    tiers: tuple[str, ...] | None = None
    max_tokens: int | None = None
    max_cost: float | None = None


def parse_options(text: str | bytes) -> Options:
    """Read the JSON of the `options` tensor; empty means none. Raises `InvalidOptions` naming the key."""
    if not text.strip():
        return Options()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidOptions(f"{INVALID_OPTIONS}must be JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidOptions(f"{INVALID_OPTIONS}must be a JSON object, got {type(data).__name__}")
    for key in data:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
            raise InvalidOptions(f"{INVALID_OPTIONS}{key[:60]}: unknown; {hint}")
    return check_options(data)


def check_options(data: Mapping[str, Any]) -> Options:
    """Options from values of any type, under their keys. Raises `InvalidOptions` naming the key."""
    return Options(
        deadline_ms=_check_deadline(data.get("deadline_ms")),
        all_stages=_check_all(data.get("all_stages")),
        tiers=_check_tiers(data.get("tiers")),
        max_tokens=_check_tokens(data.get("max_tokens")),
        max_cost=_check_cost(data.get("max_cost")),
    )


def _check_deadline(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise _wrong("deadline_ms", "a positive number", value)
    return float(min(value, 1e9))


def _check_all(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise _wrong("all_stages", "true or false", value)


def _check_tiers(value: object) -> tuple[str, ...] | None:
    if value is None or value is True:
        return None
    if value is False:
        return ()
    if isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise _wrong("tiers", "true, false or a list of names", value)


def _check_tokens(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong("max_tokens", "a whole number that is not negative", value)
    return value


def _check_cost(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise _wrong("max_cost", "a number that is not negative", value)
    return float(min(value, 1e18))


def _wrong(key: str, must: str, value: object) -> InvalidOptions:
    return InvalidOptions(f"{INVALID_OPTIONS}{key}: must be {must}, got {str(value)[:60]}")
