"""What every command does with what it found: say how far it is, write the result file, put figures into words."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def saying(text: str) -> None:
    """A line on standard error, as standard output is the report's."""
    print(text, file=sys.stderr, flush=True)


def save_report(report: dict[str, Any], path: Path) -> None:
    """As JSON; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def said(reached: bool) -> str:
    """Whether a limit is kept."""
    return "reached" if reached else "NOT reached"
