"""Scores of vision-language tiers that `roadwork-export evaluate-tier` wrote, taken into a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from roadwork_cascade.policy import MINIMUM_MASS
from roadwork_cascade.prompts import PromptError, load_prompt

from roadwork_bench.errors import BenchError
from roadwork_bench.table import Table


@dataclass(frozen=True)
class TierScores:
    """One tier's answers: a CSV file with `file`, `raw`, and, if known, `mass`, `milliseconds`, `input_tokens` and
    `output_tokens`."""

    member: str
    path: Path


def parse_tier(text: str) -> TierScores:
    """`MEMBER=FILE` of the command line. Raises BenchError."""
    member, _, path = text.partition("=")
    if not member or not path:
        raise BenchError(f"--tier takes MEMBER=FILE, got {text!r}")
    return TierScores(member, Path(path))


def take_in(table: Table, scores: TierScores, repository: Path) -> int:
    """Put a tier's answers into the rows of its images; how many rows got one. Raises BenchError naming the file.

    One with less than `MINIMUM_MASS` on yes and no is left out, as in a cascade whose policy names no other mass.
    """
    try:
        kind = load_prompt(repository / scores.member / "prompt.json").kind
    except PromptError as error:
        raise BenchError(f"--tier {scores.member}: {error}") from None
    rows = {row.file: row for row in table.rows}
    for row in table.rows:
        for kept in (row.scores, row.ms, row.tokens):
            kept.pop(scores.member, None)
    taken = 0
    try:
        with scores.path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                row_of = rows.get(line["file"])
                if row_of is None:
                    continue
                if line.get("milliseconds"):
                    row_of.ms[scores.member] = float(line["milliseconds"])
                if line.get("input_tokens"):
                    row_of.tokens[scores.member] = [int(line["input_tokens"]), int(line.get("output_tokens") or 0)]
                if not line.get("mass") or float(line["mass"]) >= MINIMUM_MASS:
                    row_of.scores[scores.member] = float(line["raw"])
                    taken += 1
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{scores.path}: no scores of a tier: {type(error).__name__}: {error}") from None
    if not taken:
        raise BenchError(f"{scores.path}: scores no image of the table")
    table.kinds[scores.member] = kind
    return taken
