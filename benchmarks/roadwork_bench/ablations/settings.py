"""What every ablation is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roadwork_bench.about import CHECKOUT
from roadwork_bench.errors import BenchError

SCHEMA = "roadwork-bench ablation 1"
NAMES = ("ensemble", "canvas", "instances", "cache", "detectors", "findings", "breaker")


@dataclass(frozen=True)
class Settings:
    """seconds: of measuring for each comparison, all its sides together. block: seconds before the sides change places.
    in_flight: requests on their way; the first gives latency, the last saturates. network: what `detectors` copies.
    most: its largest number of copies. table, findings_table: recorded scores of the tiers without and with findings.
    """

    seconds: float = 60.0
    block: float = 2.0
    in_flight: tuple[int, ...] = (1, 4)
    repository: Path = CHECKOUT / "model_repository"
    network: str = "scene"
    most: int = 10
    table: Path = CHECKOUT / "table.json"
    findings_table: Path = CHECKOUT / "build" / "table_findings.json"

    def rounds(self, sides: int) -> int:
        """How often each of `sides` sides has its turn; at least three times, else there is no interval."""
        return max(3, round(self.seconds / (sides * self.block)))

    def check(self) -> None:
        """Raise BenchError for numbers that cannot be measured with."""
        if not 0 < self.block <= self.seconds:
            raise BenchError(f"--block-seconds is {self.block:g}; it must be over 0 and at most --seconds")
        if not self.in_flight or min(self.in_flight) < 1:
            raise BenchError("--in-flight takes whole numbers from 1, such as 1,4")
        if self.most < 2:
            raise BenchError(f"--most is {self.most}; growth needs at least 2 copies")
