"""What is planned for where nothing is named: the project's own networks, one of each family, and a tier for each rung
of the climb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roadwork_export.catalogue import OWN, Catalogue, Entry

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner import detector, tier
from roadwork_deploy.planner.hardware import GB, Gpu
from roadwork_deploy.planner.place import Wanted, place

LARGE = 40 * GB
"""Memory of all GPUs together from which every family is planned for, in its largest size."""
SMALL_NETWORK = 45e6
"""Parameters of the largest network where there is less."""


@dataclass(frozen=True)
class Rung:
    """One step of the climb: levels of the plan, kind of prompt, and most parameters in 1e9."""

    levels: tuple[str, ...]
    prompt: str
    most: float


RUNGS = (
    Rung(("3",), "scorer", 5.0),
    Rung(("4",), "scorer", 40.0),
    Rung(("5", "5.5"), "reasoner", 40.0),
    Rung(("5",), "scorer", 1000.0),
)


def free_to_use(entry: Entry) -> bool:
    """Neither rejected nor behind an agreement, and commercial use is plainly allowed."""
    return entry.status in ("runs here", "needs weights") and entry.commercial == "yes" and not entry.gated


def default_detectors(catalogue: Catalogue, gpus: Sequence[Gpu]) -> list[str]:
    """The project's own, and the largest network of each family: of all roles on large GPUs, of box detectors on small
    ones."""
    large = sum(gpu.bytes for gpu in gpus) >= LARGE
    roles = detector.PLACED if large else ("boxes",)
    most = float("inf") if large else SMALL_NETWORK
    own: list[str] = []
    best: dict[str, Entry] = {}
    for entry in catalogue:
        if entry.served != "onnx" or entry.role not in detector.PLACED or not free_to_use(entry):
            continue
        if entry.family == OWN:
            own.append(entry.name)
            continue
        size = entry.parameters or 0.0
        if entry.role not in roles or size > most or entry.family is None:
            continue
        if entry.family not in best or size > (best[entry.family].parameters or 0.0):
            best[entry.family] = entry
    return own + [entry.name for entry in best.values()]


def default_tiers(
    catalogue: Catalogue, gpus: Sequence[Gpu], wish: tier.Wish, before: Sequence[Wanted], make: Callable[[str], Wanted]
) -> list[str]:
    """For each rung the largest model with which everything still fits, in the order of `RUNGS`; a rung may stay empty.

    Args:
        before: what is placed already.
        make: the ways of serving a model of that name; raises PlanError where there are none.
    """
    chosen: list[Wanted] = []
    for rung in RUNGS:
        fitting = [entry for entry in catalogue if _on(entry, rung)]
        for entry in sorted(fitting, key=_order):
            if any(entry.name == other.name for other in chosen):
                continue
            try:
                wanted = make(entry.name)
            except PlanError:
                continue  # needs what was not allowed, such as remote code: another one of the rung does not
            if not place(gpus, [*before, *chosen, wanted]).left_out:
                chosen.append(wanted)
                break
    return [each.name for each in chosen]


def _order(entry: Entry) -> tuple[bool, float, float, str]:
    """Those that the plan names first, then by weight and size, largest first."""
    return not entry.plan, -(entry.weight or 0.0), -(entry.parameters or 0.0), entry.name


def _on(entry: Entry, rung: Rung) -> bool:
    return (
        entry.served == "vllm"
        and entry.family != OWN
        and free_to_use(entry)
        and entry.serving is not None
        and entry.serving.prompt == rung.prompt
        and entry.serving.params <= rung.most
        and any(level in rung.levels for level in entry.level)
    )
