"""What asking each step of a policy about each image takes: milliseconds and money, from a table's recorded times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.policy import Policy
from roadwork_cascade.policy_parts import Stage, Tier

from roadwork_bench.errors import BenchError
from roadwork_bench.table import Row, Table


@dataclass(frozen=True)
class Spending:
    """n images, k steps of a policy: its stages in their order, then its tiers, as in `Replay`.

    milliseconds [n, k]: a stage takes as long as its slowest member. cost [n, k]: that time at the step's price, and a
    tier's tokens at theirs, in the policy's currency. decode [n]: milliseconds of decoding, which has no price.
    """

    milliseconds: NDArray[np.float64]
    cost: NDArray[np.float64]
    decode: NDArray[np.float64]

    def take(self, index: NDArray) -> Spending:
        return Spending(self.milliseconds[index], self.cost[index], self.decode[index])

    def milliseconds_of(self, asked: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[n]: one after another, of the steps asked [n, k]."""
        return (self.milliseconds * asked).sum(axis=1) + self.decode

    def cost_of(self, asked: NDArray[np.bool_]) -> NDArray[np.float64]:
        """[n]: of the steps asked [n, k]."""
        return (self.cost * asked).sum(axis=1)


def spending_of(rows: Sequence[Row], policy: Policy) -> Spending:
    """Of every step for every row.

    Where one image lacks a member's time (it failed there), the member's median over the others stands in.

    Raises:
        BenchError: a member has no time at all; a cost would silently leave it out.
    """
    steps: list[Stage | Tier] = [*policy.stages, *policy.tiers]
    named = [name for step in steps for name in _members(step)]
    lacking = [name for name in named if all(row.ms.get(name) is None for row in rows)]
    if lacking:
        raise BenchError(
            f"the table has no milliseconds of {', '.join(lacking)}: give "
            + " ".join(f"--milliseconds {name}=MS" for name in lacking)
        )
    milliseconds = np.zeros((len(rows), len(steps)))
    cost = np.zeros_like(milliseconds)
    for k, step in enumerate(steps):
        times = np.array([[row.ms.get(name, np.nan) for name in _members(step)] for row in rows], float)
        times = np.where(np.isnan(times), np.nanmedian(times, axis=0), times)
        milliseconds[:, k] = times.max(axis=1)
        cost[:, k] = milliseconds[:, k] / 1000.0 * step.price_per_second
        if isinstance(step, Tier):
            prices, name = step.price_per_1000_tokens, step.member.name
            cost[:, k] += [prices.of(*row.tokens.get(name, [0, 0])) for row in rows]
    decode = np.array([row.ms.get("decode", 0.0) for row in rows], float)
    return Spending(milliseconds, cost, decode)


def give_milliseconds(table: Table, given: Sequence[str]) -> None:
    """Take in `MEMBER=MS` of the command line. Raises BenchError naming the option."""
    for text in given:
        member, _, value = text.partition("=")
        try:
            milliseconds = float(value)
        except ValueError:
            raise BenchError(f"--milliseconds takes MEMBER=MS, got {text!r}") from None
        if not 0 < milliseconds < float("inf"):
            raise BenchError(f"--milliseconds {member}: must be over 0, got {value}")
        set_milliseconds(table, member, milliseconds)


def set_milliseconds(table: Table, member: str, milliseconds: float) -> None:
    """Give a tier a time where the table has none. Raises BenchError where the table does not know it."""
    rows = [row for row in table.usable if member in row.scores]
    if not rows:
        raise BenchError(f"--milliseconds {member}: the table has no scores of it")
    for row in rows:
        row.ms.setdefault(member, milliseconds)


def _members(step: Stage | Tier) -> list[str]:
    if isinstance(step, Tier):
        return [step.member.name]
    return [member.name for member in step.members if member.votes]
