"""What a section of the page is made of, and figures as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from roadwork_bench.medians import of_few

Row: TypeAlias = Sequence[str]
NONE = "–"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells are text already; every row has as many as the header. The first column is to the left, figures right."""

    header: Row
    rows: Sequence[Row]
    title: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.title or 'table'}: a row has {len(row)} cells, the header {len(self.header)}")


@dataclass(frozen=True)
class Plot:
    """`draw` gets the axes, side by side, `panels` of them. Every figure in it is in a table too, for Markdown.

    inches: width and height of the whole.
    """

    name: str
    title: str
    draw: Callable[[Sequence[Any]], None]
    inches: tuple[float, float] = (7.0, 3.4)
    panels: int = 1


Block: TypeAlias = Text | Table | Plot


@dataclass(frozen=True)
class Goal:
    """What was wanted of a figure. reached: None where nothing was wanted of it in advance."""

    what: str
    found: str
    wanted: str = ""
    reached: bool | None = None


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without an exponent where a person can read that."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}g}"
    decimals = max(0, digits - len(str(int(abs(value)))) if abs(value) >= 1 else digits)
    return f"{value:,.{decimals}f}"


def share(value: float | None) -> str:
    """As a percentage."""
    return NONE if value is None else f"{100 * value:.1f}%"


def span(interval: Sequence[float] | None, digits: int = 3) -> str:
    """Both ends of an interval."""
    return NONE if interval is None else f"{number(interval[0], digits)} to {number(interval[1], digits)}"


def spanned(found: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A median with its interval, which for few pairs is their range."""
    if found is None:
        return NONE
    return f"{number(found['median'], digits)} ({span(found['interval_95'], digits)}{of_few(found)})"


def with_span(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    """A figure with an interval that may be missing."""
    return number(value, digits) if interval is None else f"{number(value, digits)} ({span(interval, digits)})"


def words(name: str) -> str:
    """A key of a result file as a heading."""
    return name.replace("_", " ").strip()
