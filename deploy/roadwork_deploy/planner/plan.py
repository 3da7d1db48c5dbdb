"""From options to a plan: reads the catalogue, finds the ways of serving each model, places them, looks for cheaper
hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from roadwork_export.catalogue import Catalogue, Entry, load_catalogue
from roadwork_export.errors import ExportError

from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner import choose, detector, tier
from roadwork_deploy.planner.hardware import COMMON, GPUS, Gpu
from roadwork_deploy.planner.place import Plan, Wanted, place

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Request:
    """What is asked of the planner.

    Attributes:
        gpus: that there are.
        detectors, tiers: names of the catalogue; None: a choice that fits (`choose`).
        required: of those; without one of them there is no plan.
        detector_precision: fp32 or fp16.
        wish: what is wanted of every tier.
    """

    gpus: tuple[Gpu, ...]
    detectors: tuple[str, ...] | None = None
    tiers: tuple[str, ...] | None = None
    required: tuple[str, ...] = ()
    detector_precision: str = "fp32"
    wish: tier.Wish = field(default_factory=tier.Wish)


@dataclass(frozen=True)
class Cheapest:
    """The cheapest hardware on which everything that was wanted would fit; `dollars` an hour, a guess."""

    count: int
    gpu: Gpu

    @property
    def dollars(self) -> float:
        return self.count * self.gpu.dollars


def make_plan(request: Request, catalogue: Catalogue | None = None) -> tuple[Plan, Cheapest | None]:
    """Place the wanted models; and the cheapest hardware for all of them, None where no common one is large enough.

    Raises:
        PlanError: a model that is not in the catalogue or cannot be served as asked, or a required one does not fit.
    """
    catalogue = catalogue or load_catalogue()
    names = (*(request.detectors or ()), *(request.tiers or ()))
    for name in names:
        if names.count(name) > 1:
            raise PlanError(f"{name}: is named twice")
    detectors = request.detectors
    if detectors is None:
        detectors = tuple(choose.default_detectors(catalogue, request.gpus))
    before = [_detector(name, request, catalogue, request.gpus) for name in detectors]
    tiers = request.tiers
    if tiers is None:
        tiers = tuple(
            choose.default_tiers(
                catalogue,
                request.gpus,
                request.wish,
                before,
                lambda name: _tier(name, request, catalogue, request.gpus),
            )
        )
    for name in request.required:
        if name not in (*detectors, *tiers):
            raise PlanError(f"--required: {name} is not among the models: {', '.join((*detectors, *tiers))}")
    for name in request.wish.parallel:
        if name not in tiers:
            raise PlanError(f"--parallel: {name} is not among the tiers: {', '.join(tiers)}")
    wanted = [*before, *(_tier(name, request, catalogue, request.gpus) for name in tiers)]
    plan = place(request.gpus, wanted, request.required)
    return plan, cheapest(request, catalogue, detectors, tiers)


def cheapest(request: Request, catalogue: Catalogue, detectors: Sequence[str], tiers: Sequence[str]) -> Cheapest | None:
    """Cheapest of one to eight GPUs of one common kind on which all of these fit."""
    offers = [Cheapest(count, GPUS[name]) for name in COMMON for count in COUNTS]
    for offer in sorted(offers, key=lambda each: (each.dollars, each.count)):
        gpus = (offer.gpu,) * offer.count
        try:
            wanted = [_detector(name, request, catalogue, gpus) for name in detectors]
            wanted += [_tier(name, request, catalogue, gpus) for name in tiers]
        except PlanError:
            continue  # a precision or a technique that this GPU does not have
        if not place(gpus, wanted).left_out:
            return offer
    return None


def _detector(name: str, request: Request, catalogue: Catalogue, gpus: Sequence[Gpu]) -> Wanted:
    smallest = min(gpus, key=lambda gpu: gpu.bytes)
    return Wanted(name, (detector.need(_entry(catalogue, name), request.detector_precision, smallest),))


def _tier(name: str, request: Request, catalogue: Catalogue, gpus: Sequence[Gpu]) -> Wanted:
    return Wanted(name, tuple(tier.ways(_entry(catalogue, name), gpus, request.wish)))


def _entry(catalogue: Catalogue, name: str) -> Entry:
    try:
        return catalogue.get(name)
    except ExportError as error:
        raise PlanError(str(error)) from None
