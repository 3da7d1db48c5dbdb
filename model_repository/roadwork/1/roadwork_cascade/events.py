"""What a stream tells while the cascade works: one event a step, docs/contracts.md lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from roadwork_cascade.request import Request
from roadwork_cascade.verdict import TierRecord, significant, tier_entry, tokens

SCHEMA = 1
PERCEIVED, DELIBERATED = 0.5, 0.95
"""Progress after perception and after the last tier; the time that a tier takes is not known before."""

Tell = Callable[[dict[str, Any]], None]


class Narrator:
    """Makes the events of one request and hands each to `tell`; with None it does nothing."""

    def __init__(self, request: Request, tell: Tell | None, stages: int) -> None:
        self._request = request
        self._tell = tell
        self._stages = stages
        self._perceived = 0
        self._climb = 1
        self._sequence = 0
        self._progress = 0.0

    @property
    def listening(self) -> bool:
        """Whether anyone hears the events: else a tier need not stream."""
        return self._tell is not None

    def accepted(self) -> None:
        """The request was understood."""
        self._say("accepted", 0.0)

    def perceived(self, stage: str) -> None:
        """A perception stage has been asked; its record is the request's last."""
        self._perceived += 1
        record = self._request.records[-1]
        share = min(1.0, self._perceived / max(self._stages, 1))
        self._say(
            "perceived",
            PERCEIVED * share,
            stage=stage,
            outcome=record.outcome,
            probability=round(self._request.probability, 6),
        )

    def escalated(self, route: str | None, climb: list[str]) -> None:
        """A route was taken that asks tiers (None: all are asked)."""
        self._climb = max(len(climb), 1)
        self._say("escalated", PERCEIVED, route=route, climb=climb)

    def partial(self, tier: str, text: str, read: int, written: int, most: int) -> None:
        """A reasoner's new text; it has `read` and `written` tokens in this call, and may write `most`."""
        if self._tell is None:
            return
        done = len(self._request.tiers) + min(1.0, written / max(most, 1))
        self._say("partial", self._climbed(done), extra=(read, written), tier=tier, text=text)

    def tier(self, record: TierRecord) -> None:
        """A tier has ended, or was left out."""
        if self._tell is not None:
            self._say("tier", self._climbed(len(self._request.tiers)), tier=tier_entry(record))

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        """The last event."""
        self._say("verdict", 1.0, verdict=dict(verdict))

    def _climbed(self, tiers: float) -> float:
        return PERCEIVED + (DELIBERATED - PERCEIVED) * min(1.0, tiers / self._climb)

    def _say(self, event: str, progress: float, extra: tuple[int, int] = (0, 0), **said: Any) -> None:
        if self._tell is None:
            return
        self._progress = max(self._progress, round(progress, 4))
        spent = tokens(self._request.tiers)
        self._tell(
            {
                "schema": SCHEMA,
                "event": event,
                "sequence": self._sequence,
                "progress": self._progress,
                "milliseconds": round(self._request.deadline.elapsed() * 1000.0, 3),
                "tokens": {"input": spent["input"] + extra[0], "output": spent["output"] + extra[1]},
                "cost": significant(self._request.cost),
                **said,
            }
        )
        self._sequence += 1
