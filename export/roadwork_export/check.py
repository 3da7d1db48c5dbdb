"""Does the file compute what its source computes? Both look at the same canvases, their answers are matched.

Boxes are matched one to one within a class so that the sum of their distances is smallest (Hungarian method); the
distance of two boxes is the largest difference of a side, in pixels of the canvas.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from scipy.optimize import linear_sum_assignment

from .classes import ClassMap
from .errors import CheckError
from .family import SIDE, Found, Kind, Source
from .folder import output_names
from .graph.boxes import TOP

APART = 16.0
"""Pixels: boxes further from each other are not the same one."""
CLOSE = 0.02
"""Scores this near to the lowest that is compared may be on either side of it."""
FAINT = 0.05
"""Boxes with less are not compared: networks answer thousands of them, and nobody uses them."""


@dataclass
class Agreement:
    """How far a file is from its source over some canvases.

    `box_px` and `mean_box_px` in pixels, `score` the largest difference in [0, 1] (presence and nearness too),
    `unmatched` the share of boxes on either side without a counterpart on the other.
    """

    canvases: int = 0
    boxes: int = 0
    box_px: float = 0.0
    mean_box_px: float = 0.0
    score: float = 0.0
    unmatched: float = 0.0
    over: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.over

    def judge(self, limits: dict[str, float]) -> Agreement:
        """The same with what is over its limit listed in `over`."""
        over = [f"{k} {getattr(self, k):.4g} over {v:g}" for k, v in limits.items() if getattr(self, k) > v]
        return Agreement(**{**asdict(self), "over": over})

    def __str__(self) -> str:
        boxes = (
            f"{self.boxes} boxes, off by at most {self.box_px:.3f} px (mean {self.mean_box_px:.4f}), "
            f"unmatched {self.unmatched:.1%}, " if self.boxes else ""
        )  # fmt: skip
        told = f"{boxes}score off by at most {self.score:.5f} on {self.canvases} images"
        return told if self.passed else f"{told}: FAILED, {'; '.join(self.over)}"


class Session:
    """The file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, kind: Kind) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base for what it raises
            raise CheckError(f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error
        self.names = list(output_names(kind))

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, canvases: np.ndarray) -> list[np.ndarray]:
        """Outputs for canvases uint8 [B, 640, 640, 3]."""
        return list(self.session.run(self.names, {"canvas": canvases}))


def compare(
    session: Session, source: Source, kind: Kind, classes: ClassMap, canvases: Sequence[np.ndarray]
) -> Agreement:
    """Both on each canvas, the file also on all of them as one batch.

    Raises:
        CheckError: there is nothing to compare, or a batch answers something else than its images one by one.
    """
    if not canvases:
        raise CheckError("no images to compare on")
    alone = [[o[0] for o in session(canvas[None])] for canvas in canvases]
    _same_in_a_batch(session, canvases, alone)
    said = [source.look(canvas) for canvas in canvases]
    if kind != "boxes":
        differences = [
            float(np.abs(np.asarray(a[0], np.float64) - np.asarray(b, np.float64)).max())
            for a, b in zip(alone, said, strict=True)
        ]
        return Agreement(canvases=len(canvases), score=max(differences))
    pairs = []
    for answer, found in zip(alone, said, strict=True):
        assert isinstance(found, Found)
        inside = Found(found.boxes.clip(0, SIDE), found.scores, found.labels)
        pairs.append((_from_file(answer), once(classes.apply(inside))))
    return agreement(pairs)


def _from_file(answer: Sequence[np.ndarray]) -> Found:
    boxes, scores, labels = answer
    there = labels >= 0
    return Found(boxes[there], scores[there], labels[there])


def agreement(pairs: Iterable[tuple[Found, Found]]) -> Agreement:
    """Over pairs of what the file and what its source found on a canvas.

    Raises:
        CheckError: neither found anything.
    """
    pixels: list[float] = []
    scores: list[float] = []
    canvases = total = lost = 0
    for file, source in pairs:
        canvases += 1
        # The file stops at the best hundred, its source does not.
        low = max(FAINT, float(file.scores.min())) if len(file.scores) >= TOP else FAINT
        rows, columns = match(file, source)
        clear = np.minimum(file.scores[rows], source.scores[columns]) >= low
        pixels += np.abs(file.boxes[rows] - source.boxes[columns]).max(-1)[clear].tolist()
        scores += np.abs(file.scores[rows] - source.scores[columns])[clear].tolist()
        for found, matched in ((file, rows), (source, columns)):
            wanted = found.scores > low + CLOSE
            total += int(wanted.sum())
            wanted[matched] = False
            lost += int(wanted.sum())
    if total == 0:
        raise CheckError(
            f"neither the file nor its source found a box with a score over {FAINT} on {canvases} images, which proves "
            "nothing; give images with such objects by --images"
        )
    return Agreement(
        canvases=canvases, boxes=len(pixels), box_px=max(pixels, default=0.0),
        mean_box_px=float(np.mean(pixels)) if pixels else 0.0, score=max(scores, default=0.0), unmatched=lost / total,
    )  # fmt: skip


def match(a: Found, b: Found) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `a` and in `b` of boxes that are the same one: of a class, at most APART pixels from each other."""
    if not len(a.scores) or not len(b.scores):
        return np.zeros(0, int), np.zeros(0, int)
    distance = np.abs(a.boxes[:, None] - b.boxes[None]).max(-1).astype(np.float64)
    # Boxes of about the same place are told apart by their scores.
    cost = distance + 100.0 * np.abs(a.scores[:, None] - b.scores[None])
    allowed = (a.labels[:, None] == b.labels[None]) & (distance <= APART)
    cost[~allowed] = 1e6
    rows, columns = linear_sum_assignment(cost)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def once(found: Found) -> Found:
    """Without repeated boxes of a class, which two labels of one taxonomy class leave; the better score stays."""
    order = np.argsort(-found.scores, kind="stable")
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for i in order:
        key = (int(found.labels[i]), *np.round(found.boxes[i], 2).tolist())
        if key not in seen:
            seen.add(key)
            kept.append(i)
    index = np.array(kept, int)
    return Found(found.boxes[index], found.scores[index], found.labels[index])


def _same_in_a_batch(session: Session, canvases: Sequence[np.ndarray], alone: list[list[np.ndarray]]) -> None:
    """An image's answer must not depend on its neighbours: the server batches across callers."""
    together = session(np.stack(canvases[:3]))
    for i, answer in enumerate(alone[:3]):
        for name, one, many in zip(session.names, answer, (o[i] for o in together), strict=True):
            if name in ("boxes", "classes"):
                continue  # equal scores may change places
            if not np.allclose(one, many, atol=2e-3):
                worst = float(np.abs(one - many).max())
                raise CheckError(f"image {i} in a batch of {len(canvases[:3])}: {name} differs by {worst:.3g}")


def read_recipe(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """What the file was made of. Raises CheckError where it was not made by this program."""
    try:
        return dict(json.loads(metadata["recipe"]))
    except (KeyError, ValueError):
        raise CheckError(f"{path}: has no recipe in it; roadwork-export onnx writes one") from None
