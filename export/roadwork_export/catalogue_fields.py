"""Takes the catalogue's mappings apart: every error names the entry and the field."""

from __future__ import annotations

import difflib
from typing import Any

from roadwork_cascade.schema_check import shown

from .errors import ExportError


class CatalogueError(ExportError):
    """The catalogue cannot be used (the message names the entry and the field), or has no such model."""


class Fields:
    """Takes the fields of one mapping apart; its errors start with `where` and name the field."""

    def __init__(self, where: str, data: dict[str, Any]) -> None:
        self.where = where
        self.data = data

    def wrong(self, name: str, problem: str) -> CatalogueError:
        return CatalogueError(f"{self.where}: {name} {problem}")

    def take(self, name: str, required: bool = True) -> Any:
        if required and name not in self.data:
            raise self.wrong(name, "is missing")
        return self.data.get(name)

    def text(self, name: str) -> str:
        return self._text(name, self.take(name))

    def text_or_none(self, name: str, required: bool = False) -> str | None:
        value = self.take(name, required)
        return None if value is None else self._text(name, value)

    def texts(self, name: str, required: bool = False) -> tuple[str, ...]:
        value = self.take(name, required)
        value = [] if value is None and not required else value
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.wrong(name, f"must be a list of texts, got {shown(value)}")
        if len(set(value)) < len(value):
            raise self.wrong(name, f"has an item twice: {shown(value)}")
        return tuple(value)

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.take(name)
        if value not in choices:
            raise self.wrong(name, f"must be one of {', '.join(choices)}, got {shown(value)}")
        return str(value)

    def flag(self, name: str, required: bool = False) -> bool:
        value = self.take(name, required)
        if name in self.data and not isinstance(value, bool):
            raise self.wrong(name, f"must be true or false, got {shown(value)}")
        return bool(value)

    def number(self, name: str, value: Any, *, zero: bool = False) -> float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
        if not good or (value == 0 and not zero):
            hint = " (in YAML: 2.6e+6, with a point and a sign)" if _is_number(value) else ""
            raise self.wrong(name, f"must be a number {'of at least' if zero else 'over'} 0, got {shown(value)}{hint}")
        return float(value)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.take(name, required=False)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise self.wrong(name, f"must be a mapping from texts, got {shown(value)}")
        return value

    def _text(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, f"must be text, got {shown(value)}")
        return value


def known_fields(where: str, data: dict[Any, Any], known: tuple[str, ...]) -> None:
    for key in data:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f": did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
            raise CatalogueError(f"{where}: no field {shown(key)}{hint}")


def _is_number(value: Any) -> bool:
    """Whether it is text that Python takes for a number and YAML does not."""
    try:
        return isinstance(value, str) and float(value) > 0
    except ValueError:
        return False
