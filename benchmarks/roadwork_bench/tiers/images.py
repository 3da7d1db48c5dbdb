"""Distinct street pictures, as many as a block needs: an image that is sent twice only measures caches."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SCENES, SCENE_SEED = 12, 910_000
SCENE_SIZE = (1280, 720)
NOISE = 3  # standard deviation in grey levels, about a phone's at dusk


@lru_cache(maxsize=1)
def _scenes() -> list[NDArray[np.uint8]]:
    """uint8 [720, 1280, 3] BGR each, half of them with roadwork."""
    from roadwork_export.scenes.scene import render_scene

    made = []
    for number in range(SCENES):
        scene = render_scene(SCENE_SEED + number, roadwork=number % 2 == 0, width=SCENE_SIZE[0], height=SCENE_SIZE[1])
        made.append(np.asarray(cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR), np.uint8))
    return made


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.int16]:
    """int16 [2048, 2048, 3], drawn once: a picture takes a window of it."""
    return np.random.default_rng(SCENE_SEED).normal(0, NOISE, (2048, 2048, 3)).astype(np.int16)


def make_image(seed: int, number: int, side: int, quality: int) -> bytes:
    """JPEG bytes of a square picture of `side` pixels: a window of a scene, mirrored or not, relit, with noise.

    `seed` and `number` together decide everything; no two of them give the same pixels.
    """
    rng = np.random.default_rng([seed, number])
    scene = _scenes()[int(rng.integers(SCENES))]
    size = int(rng.integers(SCENE_SIZE[1] // 2, SCENE_SIZE[1] + 1))
    left = int(rng.integers(SCENE_SIZE[0] - size + 1))
    top = int(rng.integers(SCENE_SIZE[1] - size + 1))
    picture = cv2.resize(scene[top : top + size, left : left + size], (side, side), interpolation=cv2.INTER_AREA)
    if rng.integers(2):
        picture = cv2.flip(picture, 1)
    noise, gain = _noise(), float(rng.uniform(0.8, 1.2))
    y, x = (int(v) for v in rng.integers(0, len(noise) - side, 2))
    lit = cv2.addWeighted(picture, gain, noise[y : y + side, x : x + side], 1.0, 0.0, dtype=cv2.CV_8U)
    # As a tier gets it from the cascade: chroma is kept whole.
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111]
    return cv2.imencode(".jpg", lit, settings)[1].tobytes()


def make_images(path: Path, seed: int, count: int, side: int, quality: int) -> None:
    """Write `count` pictures to a file that `read_images` reads."""
    _scenes(), _noise()  # once, before threads ask for them
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        made = list(pool.map(lambda number: make_image(seed, number, side, quality), range(count)))
    path.write_bytes(pickle.dumps(made))


def read_images(path: str | Path) -> list[bytes]:
    """What `make_images` wrote (our own file: pickle is safe)."""
    return list(pickle.loads(Path(path).read_bytes()))


def images_needed(in_flight: int, seconds: float, least_latency: float, limit: int) -> int:
    """Enough for a block in which no answer takes less than `least_latency` seconds, and never more than `limit`."""
    return min(limit, round(in_flight * (seconds / least_latency + 6)))
