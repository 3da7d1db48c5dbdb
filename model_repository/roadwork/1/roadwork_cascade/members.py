"""Reading models' output tensors into answers. A kind of member is one reader here and nothing elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from roadwork_cascade import pool
from roadwork_cascade.engine import EngineError
from roadwork_cascade.policy_parts import Member, Stage
from roadwork_cascade.taxonomy import Taxonomy

Arrays: TypeAlias = Mapping[str, np.ndarray]

OUTPUTS: dict[str, tuple[str, ...]] = {
    "boxes": ("boxes", "scores", "classes"),
    "scene": ("presence",),
    "text": ("presence", "words"),
    "distance": ("nearness",),
}
"""Output tensors of a member, by kind; in an ensemble each carries the prefix `<member>_`."""

CELLS = 80
"""Rows and columns of a distance member's map, which covers the whole canvas."""

PREPARED = ("canvas", "geometry")
"""Output tensors of the model that prepares."""


@dataclass(frozen=True)
class Boxes:
    """What a detector saw: `xyxy` FP32 [N, 4] in canvas pixels, `scores` FP32 [N] in (0, 1], `classes` INT32 [N]."""

    xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """The upright original's size in pixels and the letterbox: x_canvas = x * scale + pad_x."""

    width: float
    height: float
    scale: float
    pad_x: float
    pad_y: float


@dataclass(frozen=True)
class Reading:
    """A member's output, before calibration: the raw answer in [0, 1] and its evidence.

    `raw` is None of a member without a vote. `nearness` FP64 [CELLS, CELLS] in [0, 1]: relative inverse depth of the
    canvas, 1 the nearest thing in the image and 0 the farthest.
    """

    raw: float | None
    boxes: Boxes | None = None
    words: list[dict[str, Any]] = field(default_factory=list)
    nearness: np.ndarray | None = None


@dataclass(frozen=True)
class Answer:
    """What a member said. `probability` is None where it has no vote, or saw nothing and the policy gives that no
    meaning."""

    member: Member
    stage: str
    reading: Reading
    probability: float | None


@dataclass(frozen=True)
class Missing:
    """A member that was asked and did not answer. `reason`: error, timed_out, breaker_open or unavailable."""

    member: Member
    stage: str
    reason: str
    detail: str


def read_answer(member: Member, stage: Stage, arrays: Arrays, taxonomy: Taxonomy, prefix: str = "") -> Answer:
    """Check a member's tensors and calibrate its answer. Raises `EngineError` naming model and tensor."""
    reading = _READERS[member.kind](member.name, _Tensors(member.name, arrays, prefix), taxonomy)
    if reading.raw is None:
        return Answer(member, stage.name, reading, None)
    p = float(pool.member_probability(reading.raw, member.kind, member.a, member.b, member.nothing))
    return Answer(member, stage.name, reading, None if np.isnan(p) else p)


def read_prepared(model: str, arrays: Arrays) -> tuple[np.ndarray, Geometry]:
    """Canvas UINT8 [1, H, W, 3] and geometry. Raises `EngineError` naming model and tensor."""
    tensors = _Tensors(model, arrays, "")
    canvas = arrays.get("canvas")
    if canvas is None or canvas.ndim != 4 or canvas.shape[0] != 1 or canvas.shape[3] != 3 or canvas.dtype != np.uint8:
        shown = "nothing" if canvas is None else f"{canvas.dtype} {list(canvas.shape)}"
        raise EngineError(f"{model}: canvas: must be uint8 [1, H, W, 3], got {shown}")
    values = tensors.numbers("geometry", 5)
    if min(values[:3]) <= 0:
        raise EngineError(f"{model}: geometry: width, height and scale must be positive, got {values.tolist()}")
    return canvas, Geometry(*(float(value) for value in values))


class _Tensors:
    """Output tensors by their name without prefix, each checked when it is taken."""

    def __init__(self, model: str, arrays: Arrays, prefix: str) -> None:
        self._model, self._arrays, self._prefix = model, arrays, prefix

    def take(self, name: str) -> np.ndarray:
        array = self._arrays.get(self._prefix + name)
        if array is None:
            raise EngineError(f"{self._model}: {name}: the model gave no such output")
        return array

    def numbers(self, name: str, size: int | None = None) -> np.ndarray:
        """Finite FP64 [size], the batch dimension taken off."""
        array = np.asarray(self.take(name), dtype=np.float64).reshape(-1)
        if size is not None and array.size != size:
            raise EngineError(f"{self._model}: {name}: must hold {size} numbers, got {array.size}")
        if not np.isfinite(array).all():
            raise EngineError(f"{self._model}: {name}: has a value that is not finite")
        return array

    def shares(self, name: str, size: int | None = None) -> np.ndarray:
        """Numbers in [0, 1]; what rounding put just outside is put back."""
        array = self.numbers(name, size)
        if array.size and (array.min() < -1e-3 or array.max() > 1.001):
            raise EngineError(f"{self._model}: {name}: must be in [0, 1], got {array.min():g} to {array.max():g}")
        return np.clip(array, 0.0, 1.0)

    def cells(self, name: str) -> np.ndarray:
        """Shares FP64 [CELLS, CELLS]."""
        shape = self.take(name).shape
        if shape not in ((1, CELLS, CELLS), (CELLS, CELLS)):
            raise EngineError(f"{self._model}: {name}: must be [{CELLS}, {CELLS}], got {list(shape)}")
        return self.shares(name).reshape(CELLS, CELLS)


def _read_boxes(model: str, tensors: _Tensors, taxonomy: Taxonomy) -> Reading:
    scores = tensors.shares("scores")
    xyxy = tensors.numbers("boxes", 4 * scores.size).reshape(-1, 4)
    classes = tensors.numbers("classes", scores.size).astype(np.int32)
    if classes.size and (classes.min() < -1 or classes.max() >= len(taxonomy)):
        raise EngineError(
            f"{model}: classes: must be -1 to {len(taxonomy) - 1}, got {classes.min()} to {classes.max()}"
        )
    seen = (scores > 0) & (classes >= 0)
    boxes = Boxes(xyxy[seen].astype(np.float32), scores[seen].astype(np.float32), classes[seen])
    evidence = np.asarray(taxonomy.evidence)
    raw = float((boxes.scores * evidence[boxes.classes]).max()) if boxes.scores.size else 0.0
    return Reading(raw, boxes=boxes)


def _read_scene(model: str, tensors: _Tensors, taxonomy: Taxonomy) -> Reading:
    return Reading(float(tensors.shares("presence", 1)[0]))


def _read_text(model: str, tensors: _Tensors, taxonomy: Taxonomy) -> Reading:
    presence = float(tensors.shares("presence", 1)[0])
    text = tensors.take("words").reshape(-1)
    try:
        words = json.loads(text[0])
    except (ValueError, TypeError, IndexError) as error:
        raise EngineError(f"{model}: words: must be one JSON text: {error}") from None
    if not isinstance(words, list):
        raise EngineError(f"{model}: words: must be a list, got {type(words).__name__}")
    return Reading(presence, words=[_word(model, word) for word in words])


def _read_distance(model: str, tensors: _Tensors, taxonomy: Taxonomy) -> Reading:
    return Reading(None, nearness=tensors.cells("nearness"))


def _word(model: str, word: Any) -> dict[str, Any]:
    """The contract's fields of a word and no others, as the verdict's schema wants them."""
    try:
        score, box = float(word["score"]), [float(value) for value in word["box"]]
        if len(box) != 4 or not np.isfinite([score, *box]).all():
            raise ValueError("score and four box values must be finite")
        texts = {key: str(word[key]) for key in ("text", "keyword", "language")}
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{model}: words: {type(error).__name__}: {error}, in {str(word)[:80]}") from None
    return {**texts, "score": min(1.0, max(0.0, score)), "box": box}


_READERS: dict[str, Callable[[str, _Tensors, Taxonomy], Reading]] = {
    "boxes": _read_boxes,
    "scene": _read_scene,
    "text": _read_text,
    "distance": _read_distance,
}
