"""Triton's response cache: what a repeated frame saves, and what a new one pays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from roadwork_deploy.embedded import assemble

from roadwork_bench.ablations.measuring import (
    Asker,
    Side,
    Timed,
    found,
    image_requests,
    in_turn,
    outcome,
    ratios,
    row,
    same_answers,
)
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.ablations.workshop import outputs_of, workshop
from roadwork_bench.output import saying
from roadwork_bench.overhead import rendered_scenes

QUESTION = "What does Triton's response cache save on repeated frames, and cost on new ones?"
REPEATED = 4
"""Frames that come again and again."""
CACHE_BYTES = 256 << 20
"""Room for two hundred canvases: the repeated frames stay in it while new ones pass through."""
NEW_A_SECOND = 40
"""More new frames than any CPU looks at: none of them is seen twice."""


def measure(settings: Settings) -> dict[str, Any]:
    """Hits and misses, each against no cache on the same frames, one request in flight.

    `available` is false where the server has no cache.
    """
    if not (assemble().caches / "local" / "libtritoncache_local.so").is_file():
        return outcome("This build of Triton has no response cache.", [], [], available=False)
    frames = rendered_scenes(REPEATED)
    with workshop(settings.repository) as shop:
        members = shop.of_kind("boxes", "scene")
        for name, cached in (("plain", False), ("cached", True)):
            parts = [shop.member(member, f"{member}_{name}", cached=cached) for member in members]
            shop.ensemble(name, parts, decode=shop.decode(f"decode_{name}", cached=cached))
        arguments = [f"--cache-config=local,size={CACHE_BYTES}"]
        with shop.server(["plain", "cached"], arguments) as server, Asker(server.grpc_url, [server.pid]) as asker:
            outputs = {
                name: [output for member in members for output in outputs_of(shop.kinds[member], f"{member}_{name}")]
                for name in ("plain", "cached")
            }
            return _measure(settings, asker, frames, outputs)


def _measure(settings: Settings, asker: Asker, frames: list[bytes], outputs: dict[str, list[str]]) -> dict[str, Any]:
    repeated, never_seen = image_requests(frames), new_frames(frames[0])
    same_answers(asker, repeated, outputs)  # and now they are in the cache
    same_answers(asker, repeated[:2], outputs)

    def on_new(model: str) -> Side:
        def block(seconds: float) -> Timed:
            images = [next(never_seen) for _ in range(round(seconds * NEW_A_SECOND) + 1)]
            return asker.block(model, image_requests(images), seconds, 1)

        return block

    sides: dict[str, Side] = {
        "no cache": lambda seconds: asker.block("plain", repeated, seconds, 1),
        "hit": lambda seconds: asker.block("cached", repeated, seconds, 1),
        "no cache, new frames": on_new("plain"),
        "miss": on_new("cached"),
    }
    rounds = settings.rounds(len(sides))
    saying(f"cache: {rounds} rounds of {len(sides)} blocks")
    blocks = in_turn(sides, rounds, settings.block)
    more = {"in_flight": 1}
    hit = ratios(blocks, "hit", "no cache", **more)
    miss = ratios(blocks, "miss", "no cache, new frames", **more)
    answer = (
        f"A repeated frame takes {found(hit, 'latency', 1)} times as long as without a cache, a new one "
        f"{found(miss, 'latency', 1)} times."
    )
    rows = [row(name, timed, **more) for name, timed in blocks.items()]
    return outcome(answer, rows, hit + miss, available=True, cache_bytes=CACHE_BYTES, repeated_frames=REPEATED)


def new_frames(scene: bytes) -> Iterator[bytes]:
    """The scene with another patch of noise each time, as JPEG."""
    pixels = cv2.imdecode(np.frombuffer(scene, np.uint8), cv2.IMREAD_COLOR)
    random = np.random.default_rng(0)
    while True:
        pixels[:32, :32] = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        yield cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
