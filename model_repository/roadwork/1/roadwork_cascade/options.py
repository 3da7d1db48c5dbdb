"""What a caller may ask for with one request."""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass

from roadwork_cascade.engine import INVALID_OPTIONS, InvalidOptions

KEYS = ("deadline_ms", "all_stages")


@dataclass(frozen=True)
class Options:
    """None leaves the policy's value."""

    deadline_ms: float | None = None
    all_stages: bool | None = None


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
    return Options(deadline_ms=check_deadline(data.get("deadline_ms")), all_stages=_check_all(data.get("all_stages")))


def check_deadline(value: object) -> float | None:
    """Milliseconds as a positive finite number, or None. Raises `InvalidOptions`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidOptions(f"{INVALID_OPTIONS}deadline_ms: must be a positive number, got {str(value)[:60]}")
    return float(min(value, 1e9))


def _check_all(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise InvalidOptions(f"{INVALID_OPTIONS}all_stages: must be true or false, got {str(value)[:60]}")
