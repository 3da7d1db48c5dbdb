"""All sides in turn, round after round, each round in an order of its own."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from roadwork_bench.errors import BenchError
from roadwork_bench.output import saying
from roadwork_bench.peering.sides import ServerSide, Side
from roadwork_bench.tiers.timing import Requests

IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """What a round holds.

    Attributes:
        in_flight: requests under way at saturation, for `saturated_seconds`.
        rates: label -> images a second for each side, for `rate_seconds`; sides that it does not name are left out.
        peers: the sides without which the others can still be compared.
    """

    in_flight: int
    saturated_seconds: float
    rates: Mapping[str, Mapping[str, float]]
    rate_seconds: float
    rounds: int
    peers: Sequence[str] = ()

    def seconds(self, sides: int) -> float:
        """About how long all rounds take."""
        rated = sum(len(rates) for rates in self.rates.values())
        return self.rounds * (sides * self.saturated_seconds + rated * self.rate_seconds)


@dataclass(frozen=True)
class Measured:
    """saturated: side -> blocks. rated: label -> side -> blocks. A block a round each."""

    saturated: dict[str, list[Requests]]
    rated: dict[str, dict[str, list[Requests]]]


def measure(sides: Mapping[str, Side], plan: Plan, failures: dict[str, str], seed: int = 0) -> Measured:
    """Every block of every round. In a round, all sides get the same arrivals.

    A peer that fails goes into `failures`, with its error, and out of all rounds; the others go on.

    Args:
        failures: of peers, to which those of the rounds are added. `plan.peers` says which sides are peers.

    Raises:
        BenchError: a side that is no peer fails.
    """
    rng = np.random.default_rng(seed)
    found = Measured({name: [] for name in sides}, {label: {n: [] for n in r} for label, r in plan.rates.items()})

    def block(into: dict[str, list[Requests]], name: str, ask: Callable[[], Requests]) -> None:
        if name in failures:
            return
        try:
            into[name].append(_watched(sides, name, ask))
        except BenchError as error:
            if name not in plan.peers:
                raise
            saying(f"{name} is left out from here on: {error}")
            failures[name] = str(error)[:1000]
            for blocks in (found.saturated, *found.rated.values()):
                blocks.pop(name, None)

    for number in range(plan.rounds):
        saying(f"round {number + 1} of {plan.rounds}")
        for name in shuffled(list(sides), rng):
            side = sides[name]
            ask = functools.partial(side.saturate, plan.in_flight, plan.saturated_seconds)
            block(found.saturated, name, ask)
        for kind, (label, rates) in enumerate(plan.rates.items()):
            arrivals = 1000 * (number + 1) + kind
            for name in shuffled(list(rates), rng):
                side = sides[name]
                assert isinstance(side, ServerSide), "only servers have arrivals"
                ask = functools.partial(side.rate, rates[name], plan.rate_seconds, arrivals)
                block(found.rated[label], name, ask)
    return found


def shuffled(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """In an order that was drawn."""
    return [names[index] for index in rng.permutation(len(names))]


def idle_shares(sides: Mapping[str, Side], seconds: float = IDLE_SECONDS) -> dict[str, float]:
    """Share of one core that each side takes while nobody asks anything."""
    before = {name: side.cpu_seconds() for name, side in sides.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return {name: round((side.cpu_seconds() - before[name]) / took, 4) for name, side in sides.items()}


def _watched(sides: Mapping[str, Side], name: str, ask: Callable[[], Requests]) -> Requests:
    """A block, with the share of one core that all other sides took meanwhile."""
    # Ours is two sides with one server, which is not idle when the other of them is loaded.
    loaded = name.partition(",")[0]
    others = [side for other, side in sides.items() if other.partition(",")[0] != loaded]
    before, began = [side.cpu_seconds() for side in others], time.monotonic()
    block = ask()
    spent = sum(side.cpu_seconds() - was for side, was in zip(others, before, strict=True))
    block.measured["others_share_of_a_core"] = round(spent / (time.monotonic() - began), 4)
    return block
