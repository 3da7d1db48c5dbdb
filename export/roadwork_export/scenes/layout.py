"""Where things stand: traffic and street furniture, and work zones in plausible groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roadwork_export.scenes import furniture, people, vehicles
from roadwork_export.scenes.backdrop import Road
from roadwork_export.scenes.objects import OBJECTS, Painter
from roadwork_export.scenes.palette import chance, pick

Rng = np.random.Generator
CHANNELIZERS = (
    "cone",
    "cone",
    "cone",
    "drum",
    "drum",
    "drum",
    "vertical_panel",
    "tubular_marker",
    "tubular_marker",
    "barricade",
)


@dataclass(frozen=True)
class Item:
    """A painter at x metres to the right and z metres ahead; `name` is its class, None for ordinary things."""

    painter: Painter
    x: float
    z: float
    name: str | None = None
    stock: bool = True


def ordinary(road: Road, rng: Rng) -> list[Item]:
    """Traffic, trees, people, signs: everything that is in streets without roadwork."""
    items: list[Item] = []

    def put(painter: Painter, x: float, z: float) -> None:
        items.append(Item(painter, x, z))

    for s, edge in ((-1, road.left), (1, road.right)):
        walk = edge + s * road.walk
        if chance(rng, 0.5):
            z = float(rng.uniform(6, 20))
            while z < 70:
                if chance(rng, 0.75):
                    put(vehicles.car, edge - s * 1.15, z)
                z += float(rng.uniform(5.5, 9))
        for _ in range(int(rng.integers(0, 6))):
            put(furniture.tree, walk + s * float(rng.uniform(-0.6, 8)), float(rng.uniform(8, 70)))
        for painter, most in (
            (furniture.lamp_post, 3),
            (furniture.street_sign, 3),
            (furniture.bush, 3),
            (furniture.bin_or_box, 3),
            (furniture.billboard, 2),
            (furniture.hydrant, 2),
            (people.pedestrian, 3),
        ):
            for _ in range(int(rng.integers(0, most))):
                put(painter, edge + s * float(rng.uniform(0.4, road.walk + 0.5)), float(rng.uniform(6, 45)))
    lanes = np.arange(road.left + 1.6, road.right - 1.2, road.lane)
    for _ in range(int(rng.integers(0, 5))):
        put(
            vehicles.car if chance(rng, 0.8) else vehicles.box_truck,
            float(rng.choice(lanes)),
            float(rng.uniform(9, 80)),
        )
    if chance(rng, 0.4):
        for _ in range(int(rng.integers(1, 3))):
            put(
                furniture.traffic_light,
                road.right + float(rng.uniform(0, 1)) - 4 * chance(rng, 0.5),
                float(rng.uniform(14, 50)),
            )
    if chance(rng, 0.15):
        put(furniture.guide_sign, road.right + 3, float(rng.uniform(25, 60)))
    if chance(rng, 0.12):
        put(people.pedestrian, float(rng.uniform(road.left, road.right)), float(rng.uniform(10, 40)))
    return items


class Zone:
    """Gathers the items of one work zone on one side of the road."""

    def __init__(self, road: Road, rng: Rng) -> None:
        self.road, self.rng = road, rng
        self.items: list[Item] = []
        self.side = 1 if rng.random() < 0.65 or road.left > -3 else -1
        self.edge = road.right if self.side > 0 else road.left
        starts = ((3.5, 8), (4, 12), (8, 22), (20, 45))
        self.start = float(rng.uniform(*pick(rng, starts)))
        self.length = float(rng.uniform(8, 40))
        depth = abs(self.edge) - 1.4
        self.reach = float(np.clip(rng.choice([1.0, 2.2, 3.6, 5.0]), 0.5, max(depth, 0.5)))

    def put(self, name: str, x: float, z: float) -> None:
        if z > 2.5:
            self.items.append(Item(OBJECTS[name], x, z, name, stock=False))

    def inner(self) -> float:
        return self.edge - self.side * self.reach

    def taper(self) -> None:
        """Channelizers from the edge of the road inward, then along the works."""
        rng = self.rng
        name = pick(rng, CHANNELIZERS)
        second = name if chance(rng, 0.7) else pick(rng, CHANNELIZERS)
        gap = float(rng.uniform(1.6, 6))
        count = int(rng.integers(3, 8))
        run = float(rng.uniform(4, 18))
        for t in np.linspace(0, 1, count):
            self.put(
                name,
                self.edge + (self.inner() - self.edge) * float(t) + float(rng.normal(0, 0.12)),
                self.start + run * float(t),
            )
        z = self.start + run
        while z < self.start + run + self.length and len(self.items) < 26:
            z += gap * float(rng.uniform(0.85, 1.15))
            if chance(rng, 0.92):
                self.put(second, self.inner() + float(rng.normal(0, 0.12)), z)

    def line(self) -> None:
        name = pick(self.rng, CHANNELIZERS)
        gap = float(self.rng.uniform(1.2, 5))
        z = self.start
        while z < self.start + self.length and len(self.items) < 22:
            self.put(name, self.inner() + float(self.rng.normal(0, 0.15)), z)
            z += gap * float(self.rng.uniform(0.8, 1.2))

    def closure(self) -> None:
        """Barricades or barriers across."""
        rng = self.rng
        name = pick(rng, ("barricade", "barricade", "barrier", "drum", "cone", "vertical_panel"))
        step = {"barricade": 1.9, "barrier": 4.0}.get(name, 1.3)
        for x in np.arange(min(self.inner(), self.edge), max(self.inner(), self.edge) + 0.1, step):
            self.put(name, float(x), self.start + float(rng.normal(0, 0.3)))

    def wall(self) -> None:
        rng = self.rng
        name = pick(rng, ("barrier", "barrier", "fence", "fence"))
        x = self.inner() if name == "barrier" else self.edge + self.side * float(rng.uniform(-1, 2))
        z = self.start
        for _ in range(int(rng.integers(1, 4))):
            self.put(name, x, z)
            z += float(rng.uniform(5, 10))

    def signs(self) -> None:
        rng = self.rng
        for _ in range(int(rng.integers(1, 4))):
            x = self.edge + self.side * float(rng.uniform(-0.4, 1.6))
            if chance(rng, 0.2):
                x = -x
            self.put("ttc_sign", x, float(rng.uniform(5, self.start + self.length)))

    def works(self) -> None:
        """Vehicles, machines and people behind the channelizers."""
        rng = self.rng
        middle = self.edge - self.side * self.reach * 0.4
        for _ in range(int(rng.integers(0, 3))):
            self.put(
                "work_vehicle",
                middle + float(rng.normal(0, 0.5)) + self.side * 0.8,
                self.start + float(rng.uniform(4, self.length)),
            )
        for name, most in (("work_equipment", 2), ("other", 2), ("worker", 5), ("fence", 2)):
            for _ in range(int(rng.integers(0, most))):
                self.put(
                    name,
                    middle + self.side * float(rng.uniform(-1.0, 3.0)),
                    self.start + float(rng.uniform(2, self.length)),
                )

    def boards(self) -> None:
        rng = self.rng
        if chance(rng, 0.5):
            self.put("arrow_board", self.edge - self.side * self.reach * 0.5, self.start + float(rng.uniform(1, 10)))
        else:
            self.put(
                "ttc_message_board",
                self.edge + self.side * float(rng.uniform(0, 1.5)),
                max(7.0, self.start - float(rng.uniform(0, 8))),
            )

    def police(self) -> None:
        self.put("police_vehicle", self.inner() + self.side * 1.2, self.start + float(self.rng.uniform(0, 15)))
        if chance(self.rng, 0.5):
            self.put("police_officer", self.inner(), self.start + float(self.rng.uniform(0, 6)))


def work_zone(road: Road, rng: Rng) -> list[Item]:
    """One zone, from a lone sign or pair of cones to a full lane closure."""
    zone = Zone(road, rng)
    kind = str(rng.choice(["full", "light", "walk", "single"], p=[0.5, 0.22, 0.14, 0.14]))
    if kind == "single":
        name = pick(
            rng,
            (
                "ttc_sign",
                "ttc_sign",
                "cone",
                "drum",
                "barricade",
                "ttc_message_board",
                "arrow_board",
                "work_vehicle",
                "worker",
                "vertical_panel",
            ),
        )
        for _ in range(int(rng.integers(1, 4)) if name in ("cone", "drum", "ttc_sign", "worker") else 1):
            zone.put(name, zone.edge + zone.side * float(rng.uniform(-1.5, 1.5)), float(rng.uniform(5, 32)))
        return zone.items
    if kind == "walk":
        zone.reach = -float(rng.uniform(0, road.walk))
        chosen: list[Callable[[], None]] = [pick(rng, (zone.line, zone.closure, zone.wall))]
    else:
        chosen = [pick(rng, (zone.taper, zone.taper, zone.line, zone.closure))]
    odds = {"full": 1.0, "light": 0.35, "walk": 0.4}[kind]
    for part, share in (
        (zone.signs, 0.6),
        (zone.works, 0.85),
        (zone.wall, 0.25),
        (zone.boards, 0.22),
        (zone.closure, 0.2),
        (zone.police, 0.06),
    ):
        if chance(rng, share * odds):
            chosen.append(part)
    for part in chosen:
        part()
    return zone.items
