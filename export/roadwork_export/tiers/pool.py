"""A pool of composed training pictures on disk, shared by all training runs of one machine.

Drawing and pasting are the slow part of training a tiny model, and every run wants the same rendered scenes. Pictures
that hold anything of a photograph carry the fold of the photographs that they are made of, and each is made of one
fold's photographs alone: a run that holds a fold out leaves that fold's pictures aside and has seen nothing of it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from roadwork_export.scenes import render_scene
from roadwork_export.train.compose import Composer, Picture
from roadwork_export.train.photos import Photos, assign_folds, load_photos, read_rows

SIDE = 416
MAX_BOXES = 32
SHARD = 64
RENDERED = "rendered"
PHOTO_KINDS = {"frame": 0.40, "window": 0.08, "street": 0.20, "pasted": 0.32}
"""Shares among the pictures made of photographs, as `train.compose` names them."""
TRAINING_SEEDS = 1_000_000
"""Scenes that judge the tiers are drawn from seeds under this one."""


@dataclass
class Record:
    """image uint8 [416, 416, 3] RGB, the picture at its top left; size [2], the picture's width and height.

    boxes float32 [32, 4] x1 y1 x2 y2 in pixels; classes int16 [32], -1 where there is no box; known: False where there
    is roadwork without boxes.
    """

    image: np.ndarray
    size: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    known: bool


def worn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image after the losses that images suffer on their way: fewer pixels, JPEG."""
    if rng.random() < 0.2:
        small = int(rng.integers(140, 360)) / max(image.shape[:2])
        if small < 1:
            image = np.asarray(cv2.resize(image, None, fx=small, fy=small, interpolation=cv2.INTER_AREA))
    if rng.random() < 0.5:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 92))]
        image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR))
    return image


def record(picture: Picture, rng: np.random.Generator) -> Record:
    """A composed picture as the pool keeps it; with more boxes than places the largest stay."""
    height, width = picture.image.shape[:2]
    image = worn(picture.image, rng)
    scale = SIDE / max(image.shape[:2])
    w, h = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    canvas[:h, :w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    scaled = picture.boxes * np.array([w / width, h / height] * 2, np.float32)
    order = np.argsort(-(scaled[:, 2] - scaled[:, 0]) * (scaled[:, 3] - scaled[:, 1]))[:MAX_BOXES]
    boxes, classes = np.zeros((MAX_BOXES, 4), np.float32), np.full(MAX_BOXES, -1, np.int16)
    boxes[: len(order)], classes[: len(order)] = scaled[order], picture.classes[order]
    known = not picture.roadwork or len(picture.boxes) > 0
    return Record(canvas, np.array([w, h], np.int16), boxes, classes, known)


def drawn(rng: np.random.Generator) -> Picture:
    """A rendered scene at about the pool's size; one in five is upright or square."""
    share = rng.uniform(0.52, 0.8) if rng.random() < 0.8 else rng.uniform(0.8, 1.3)
    width = SIDE if share <= 1 else int(SIDE / share)
    scene = render_scene(rng, roadwork=bool(rng.random() < 0.55), width=width, height=int(width * share))
    return Picture(scene.image, scene.boxes.astype(np.float32), scene.classes.astype(np.int64), scene.roadwork)


def write_shard(folder: Path, name: str, records: list[Record]) -> None:
    """Write `<name>.npy` with the images, then `<name>.npz` with the rest: the second makes a shard whole."""
    half = folder / f".{name}.half"
    with half.open("wb") as handle:
        np.save(handle, np.stack([r.image for r in records]))
    half.rename(folder / f"{name}.npy")
    with half.open("wb") as handle:
        np.savez(
            handle, size=np.stack([r.size for r in records]), boxes=np.stack([r.boxes for r in records]),
            classes=np.stack([r.classes for r in records]), known=np.array([r.known for r in records]),
        )  # fmt: skip
    half.rename(folder / f"{name}.npz")


def read_shard(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard by their names, from the path of its `.npz`."""
    with np.load(path) as rest:
        arrays = {name: rest[name] for name in rest.files}
    return arrays | {"image": np.load(path.with_suffix(".npy"))}


def shards(folder: Path, hold_out: int | None) -> list[Path]:
    """Finished shards, by name, without those of the fold `hold_out`."""
    found = sorted(folder.glob("*.npz"))
    return [p for p in found if hold_out is None or not p.name.startswith(f"fold{hold_out}_")]


def _work(folder: Path, tag: str, seed: int, limit: int, draw: Callable[[np.random.Generator], Picture]) -> None:
    """Write shards until `limit` of this worker are there or the parent is gone."""
    cv2.setNumThreads(0)
    os.nice(10)  # training runs go first
    parent = os.getppid()
    for n in range(limit):
        records = []
        for i in range(SHARD):
            rng = np.random.default_rng([TRAINING_SEEDS + seed, n, i])
            records.append(record(draw(rng), rng))
        if os.getppid() != parent:
            return
        write_shard(folder, f"{tag}_{n:05d}_{seed}", records)


def _photo_work(folder: Path, by_fold: dict[int, Photos], seed: int, limit: int) -> None:
    """As `_work`, for pictures made of photographs: the folds in turn."""
    cv2.setNumThreads(0)
    os.nice(10)
    parent = os.getppid()
    composers = {fold: Composer(photos) for fold, photos in by_fold.items()}
    kinds, shares = list(PHOTO_KINDS), list(PHOTO_KINDS.values())
    for n in range(limit):
        for fold, composer in composers.items():
            records = []
            for i in range(SHARD):
                rng = np.random.default_rng([TRAINING_SEEDS + seed, fold, n, i])
                kind = str(rng.choice(kinds, p=shares))
                records.append(record(composer.picture(kind, rng), rng))
            if os.getppid() != parent:
                return
            write_shard(folder, f"fold{fold}_{n:05d}_{seed}", records)


def compose(data: Path, folder: Path, *, workers: int, rendered: int, photographed: int, folds: int, seed: int) -> None:
    """Fill `folder` with about `rendered` scenes and `photographed` pictures a fold; returns when all are there.

    Runs may read it meanwhile. A quarter of the workers compose photographs, which is faster than drawing.
    """
    if workers < 2:
        raise ValueError(f"workers is {workers}, must be at least 2: one draws, one composes photographs")
    folder.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(0)  # workers are forked
    context = multiprocessing.get_context("fork")
    composing = max(1, workers // 4)
    drawing = workers - composing
    running = []
    for w in range(drawing):
        limit = max(1, round(rendered / drawing / SHARD))
        running.append(context.Process(target=_work, args=(folder, RENDERED, seed * 1000 + w, limit, drawn)))
        running[-1].start()
    groups = assign_folds(read_rows(data), folds)
    by_fold = {k: load_photos(data, {g for g, fold in groups.items() if fold != k}) for k in range(folds)}
    for w in range(composing):
        limit = max(1, round(photographed / composing / SHARD))
        running.append(context.Process(target=_photo_work, args=(folder, by_fold, seed * 1000 + 500 + w, limit)))
        running[-1].start()
    for process in running:
        process.join()
        if process.exitcode:
            raise ValueError(f"a worker of the pool ended with status {process.exitcode}; its error is above")


def wait_for(folder: Path, hold_out: int | None, least: int, seconds: float = 180) -> list[Path]:
    """Wait until `least` shards of drawn and of photographed pictures each are there, else raise ValueError."""
    end = time.monotonic() + seconds
    while True:
        found = shards(folder, hold_out)
        drawn_count = sum(p.name.startswith(RENDERED) for p in found)
        if min(drawn_count, len(found) - drawn_count) >= least:
            return found
        if time.monotonic() > end:
            raise ValueError(
                f"{folder}: {len(found)} shards after {seconds:.0f} s; is roadwork-export tier-pool running?"
            )
        time.sleep(0.5)
