"""Finds, in tritonserver's log, the line that says why it did not start."""

from __future__ import annotations

import re
from pathlib import Path

LOAD = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<error>.*?)\"?$")
INVALID = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<error>.*?)\"?$")
PREFIX = re.compile(r"^[EF]\d{4} [\d:.]+ +\d+ [^\]]*\] *\"?(?P<text>.*?)\"?$")
LOGGED = re.compile(r"^[IWEFV]\d{4} ")
CODES = re.compile(r"^(Internal|Invalid argument|Unavailable|Not found|Unsupported|Already exists): (\w+Exception: )?")
CRASH = re.compile(r"^(Signal \(\d+\) received|terminate called after)")
STATE = re.compile(r"is at UNAVAILABLE state: (?P<error>.*)", re.DOTALL)
PORT = re.compile(r"failed to start (?P<name>GRPC|HTTP|Metrics) service: .*Socket '[^']*:(?P<port>\d+)' already in use")


def port_taken(log: Path) -> str | None:
    """What to say if tritonserver found a port taken, else None."""
    match = PORT.search(log.read_text(errors="replace"))
    if match is None:
        return None
    return f"port {match['port']} ({match['name']}) was just taken; choose another with --{match['name'].lower()}-port"


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
    crash = [line.strip() for line in lines if CRASH.match(line)]
    if crash:
        # Seen where the machine is so busy that a model's process gets no turn for a second: 2.51 takes it for dead.
        return [
            f"tritonserver crashed ({'; '.join(crash[:2])}); if the machine is overloaded, start it with less beside"
        ]
    errors = [match["text"] for line in lines if (match := PREFIX.match(line))]
    return errors[-2:]


def load_error(message: str) -> str:
    """The cause in what tritonserver answers a load with ("load failed for model ..."), on one line."""
    match = STATE.search(message)
    first, *more = (match["error"] if match else message).splitlines() or [""]
    return CODES.sub("", _joined(first, more)).rstrip("; ")


def _joined(text: str, following: list[str]) -> str:
    """One line of an error: its own lines (escaped, or without a log prefix) up to where a traceback begins."""
    lines = text.replace("\\n", "\n").replace('\\"', '"').splitlines()
    for line in following[:40]:
        if not line.strip() or LOGGED.match(line) or line.startswith("+--"):
            break
        lines.append(line)
    # A traceback names places, not causes: keep what stands before it.
    cut = next((i for i, line in enumerate(lines) if line.startswith(("At:", "Traceback"))), len(lines))
    return " ".join(line.strip() for line in lines[:cut] if line.strip()).strip('" ')
