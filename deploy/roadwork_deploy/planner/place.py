"""Puts models on GPUs: the best precision at which the wanted set fits, and what does not fit with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner import measured
from roadwork_deploy.planner.hardware import GB, Gpu
from roadwork_deploy.planner.need import Need
from roadwork_deploy.planner.tier import PRECISIONS

RUNGS = (16.0, 8.0, 0.0)
"""Bits of a weight: what does not fit at all is tried with smaller weights."""


@dataclass(frozen=True)
class Wanted:
    """A model and the ways in which it can be served, best first; every way is on GPUs of one kind."""

    name: str
    ways: tuple[Need, ...]


@dataclass(frozen=True)
class Placed:
    """A way that was chosen, and the GPUs (by index) that it is on."""

    need: Need
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class LeftOut:
    """A wanted model that has no place. `lacking` is what its cheapest way misses on a GPU in bytes; 0: another
    reason."""

    name: str
    reason: str
    lacking: int = 0


@dataclass(frozen=True)
class Plan:
    """Which model is where."""

    gpus: tuple[Gpu, ...]
    placed: tuple[Placed, ...]
    left_out: tuple[LeftOut, ...] = ()
    free: tuple[int, ...] = field(default=())

    def on(self, gpu: int) -> list[Placed]:
        """What is on a GPU, largest first."""
        found = [each for each in self.placed if gpu in each.gpus]
        return sorted(found, key=lambda each: (-each.need.bytes, each.need.name))

    def get(self, name: str) -> Placed | None:
        return next((each for each in self.placed if each.need.name == name), None)


def headroom(gpu: Gpu) -> int:
    """Bytes that a plan leaves alone."""
    return max(measured.HEADROOM_LEAST, int(gpu.bytes * measured.HEADROOM_SHARE))


def room(gpu: Gpu) -> int:
    """Bytes that models may take: without the head room and what the server itself holds."""
    return gpu.bytes - headroom(gpu) - measured.SERVER_CONTEXT


def place(gpus: Sequence[Gpu], wanted: Sequence[Wanted], required: Iterable[str] = ()) -> Plan:
    """Place what is wanted, earlier ones before later ones where not all fit.

    First all in their best precision, then all in 8 bits, then all in the fewest there are, until everything fits;
    then each, in order, in the best precision in which everything still does. One packing is first-fit-decreasing for
    tiers; a detector goes to the GPU with most room, so that the GPUs share the work.

    Args:
        gpus: at least one.
        wanted: in order of importance, names unlike each other.
        required: names of those without which there is no plan.

    Raises:
        PlanError: a required one does not fit; the message says by how much.
    """
    needed = set(required)
    for bits in RUNGS:
        chosen = {each.name: _at(each, bits) for each in wanted}
        if _pack(gpus, list(chosen.values())) is not None:
            break
    accepted: dict[str, tuple[Need, ...]] = {}
    left: list[LeftOut] = []
    for name, ways in chosen.items():
        if _pack(gpus, [*accepted.values(), ways]) is not None:
            accepted[name] = ways
            continue
        out = _missing(gpus, list(accepted.values()), ways)
        if name in needed:
            raise PlanError(f"{name}: does not fit: {out.reason}")
        left.append(out)
    for each in wanted:
        if each.name not in accepted:
            continue
        for precision in dict.fromkeys(way.precision for way in each.ways):
            better = tuple(way for way in each.ways if way.precision == precision)
            if better == accepted[each.name]:
                break
            if _pack(gpus, list({**accepted, each.name: better}.values())) is not None:
                accepted[each.name] = better
                break
    packed = _pack(gpus, list(accepted.values()))
    if packed is None:
        raise AssertionError("what was accepted one by one fits together")
    placed, free = packed
    return Plan(tuple(gpus), tuple(placed), tuple(left), tuple(free))


def _at(wanted: Wanted, bits: float) -> tuple[Need, ...]:
    """The ways in the best precision of at most so many bits, else in the smallest that there is."""
    from roadwork_deploy.planner.memory import BITS

    names = sorted({way.precision for way in wanted.ways}, key=_rank)
    if names[0] not in BITS:  # of a detector, which has one
        return wanted.ways
    fitting = [name for name in names if BITS[name] <= bits]
    precision = fitting[0] if fitting else min(names, key=lambda name: (BITS[name], _rank(name)))
    return tuple(way for way in wanted.ways if way.precision == precision)


def _rank(precision: str) -> int:
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def _pack(gpus: Sequence[Gpu], chosen: list[tuple[Need, ...]]) -> tuple[list[Placed], list[int]] | None:
    """Where each goes in one of its ways, and what stays free; None where they do not all fit."""
    free = [room(gpu) for gpu in gpus]
    placed: list[Placed] = []
    for ways in sorted(chosen, key=lambda ways: (ways[0].kind != "tier", -ways[0].bytes * ways[0].gpus, ways[0].name)):
        found = _fit(gpus, free, ways)
        if found is None:
            return None
        for gpu in found.gpus:
            free[gpu] -= found.need.bytes
        placed.append(found)
    return placed, free


def _fit(gpus: Sequence[Gpu], free: Sequence[int], ways: tuple[Need, ...]) -> Placed | None:
    for way in ways:
        fits = [index for index, gpu in enumerate(gpus) if free[index] >= way.bytes and way.on in ("", gpu.name)]
        if len(fits) < way.gpus:
            continue
        if way.kind == "detector":
            return Placed(way, (max(fits, key=lambda index: (free[index], -index)),))
        return Placed(way, tuple(fits[: way.gpus]))
    return None


def _missing(gpus: Sequence[Gpu], accepted: list[tuple[Need, ...]], ways: tuple[Need, ...]) -> LeftOut:
    """By how much the way that is nearest to fitting does not, beside what has been accepted."""
    packed = _pack(gpus, accepted)
    free = packed[1] if packed else [room(gpu) for gpu in gpus]
    lacks = []
    for way in ways:
        same = sorted((free[index] for index, gpu in enumerate(gpus) if way.on in ("", gpu.name)), reverse=True)
        if len(same) >= way.gpus:
            lacks.append((way.bytes - same[way.gpus - 1], way.gpus, way))
    lacking, count, way = min(lacks, key=lambda each: each[:2])
    there = f"{count} GPUs" if count > 1 else "one GPU"
    most = (way.bytes - lacking) / GB
    reason = (
        f"in {way.precision} it takes {way.bytes / GB:.1f} GB on {'each of ' if count > 1 else ''}{there}, "
        f"{most:.1f} GB are left beside the others at their smallest: {lacking / GB:.1f} GB are missing"
    )
    return LeftOut(way.name, reason, lacking)
