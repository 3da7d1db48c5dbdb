"""Finds, in tritonserver's log, the line that says why it did not start."""

from __future__ import annotations

import re
from pathlib import Path

LOAD = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<error>.*?)\"?$")
INVALID = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<error>.*?)\"?$")
PREFIX = re.compile(r"^[EF]\d{4} [\d:.]+ +\d+ [^\]]*\] *\"?(?P<text>.*?)\"?$")
CODES = re.compile(r"^(Internal|Invalid argument|Unavailable|Not found|Unsupported|Already exists): ")


def reasons(log: Path) -> list[str]:
    """One line for each model that failed, "model: why"; else the last error lines; else nothing."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, str] = {}
    for number, line in enumerate(lines):
        match = LOAD.search(line) or INVALID.search(line)
        if match:
            text = CODES.sub("", _joined(match["error"], lines[number + 1 :]))
            found.setdefault(match["model"], f"{match['model']}: {text}")
    if found:
        return list(found.values())
    errors = [match["text"] for line in lines if (match := PREFIX.match(line))]
    return errors[-2:]


def _joined(text: str, following: list[str]) -> str:
    """A Python error goes on over lines without a log prefix; its last line of text is the message's end."""
    rest = []
    for line in following[:40]:
        if not line.strip() or re.match(r"^[IWEFV]\d{4} ", line) or line.startswith("+--"):
            break
        rest.append(line.strip())
    # A traceback names places, not causes: keep what stands before it.
    cut = next((i for i, line in enumerate(rest) if line.startswith(("At:", "Traceback"))), len(rest))
    return " ".join([text.strip(), *rest[:cut]]).strip().strip('"')
