"""The events of a streamed verdict, as one frozen dataclass; docs/contracts.md lists them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from roadwork_client.errors import ProtocolError
from roadwork_client.verdict import Tier, Tokens, Verdict, read_tier, read_tokens

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One step of the cascade.

    event: `accepted`, `perceived`, `escalated`, `partial`, `tier` or `verdict`, which is the last one.
    progress: in [0, 1], never falls. milliseconds: since the request began, in the server. tokens, cost: so far.

    `perceived` has stage and probability so far; `escalated` route and climb (names of tiers); `partial` tier_name and
    a reasoner's new text; `tier` tier_name and tier; `verdict` the verdict and its probability.
    """

    event: str
    sequence: int
    progress: float
    milliseconds: float
    tokens: Tokens
    cost: float
    probability: float | None = None
    stage: str | None = None
    route: str | None = None
    climb: tuple[str, ...] = ()
    tier_name: str | None = None
    tier: Tier | None = None
    text: str | None = None
    verdict: Verdict | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Event:
        """Read the JSON of an event. Raise ProtocolError where it is not one."""
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise ProtocolError(
                    f"the event has schema {data['schema']!r}, this client reads {SCHEMA}: update the older side"
                )
            verdict = Verdict.from_dict(data["verdict"]) if data["event"] == "verdict" else None
            tier = read_tier(data["tier"], "event.tier") if data["event"] == "tier" else None
            return cls(
                event=str(data["event"]),
                sequence=int(data["sequence"]),
                progress=float(data["progress"]),
                milliseconds=float(data["milliseconds"]),
                tokens=read_tokens(data["tokens"], "event.tokens"),
                cost=float(data["cost"]),
                probability=data.get("probability") if verdict is None else verdict.probability,
                stage=data.get("stage"),
                route=data.get("route"),
                climb=tuple(data.get("climb", ())),
                tier_name=tier.name if tier else data.get("tier"),
                tier=tier,
                text=data.get("text"),
                verdict=verdict,
                data=data,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ProtocolError(
                f"no event ({type(error).__name__}: {error}); client and server differ in version"
            ) from error
