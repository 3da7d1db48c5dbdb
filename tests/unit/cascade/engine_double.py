"""Stand-in models in process: an `Engine` whose models answer what a test says, late, wrongly or never."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from roadwork_cascade.engine import EngineError, ModelUnavailable

SIDE = 64


class FakeEngine:
    """`scores` is what each member says, `faults` what goes wrong with a model:

    "error", "unavailable", "hang", "stubborn" (ignores its cancellation), "bug" (not an EngineError), "nan", "empty"
    (no outputs), a number (seconds of delay) or an exception to raise.
    """

    kinds: Mapping[str, str] = {
        "scene": "scene",
        "yolox": "boxes",
        "centernet": "boxes",
        "sign_text": "text",
        "depth": "distance",
        "depth_too": "distance",
    }
    ensembles: Mapping[str, tuple[str, ...]] = {"glance": ("decode", "scene"), "perception": ("yolox", "centernet")}

    def __init__(self) -> None:
        self.scores = {"scene": 0.5, "yolox": 0.5, "centernet": 0.5, "sign_text": 0.0, "depth": 0.5, "depth_too": 0.5}
        self.faults: dict[str, Any] = {}
        self.calls: list[str] = []
        self.inputs: list[dict[str, np.ndarray]] = []

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        self.calls.append(model)
        self.inputs.append(dict(inputs))
        arrays = await self._answer(model)
        return {name: arrays[name] for name in outputs if name in arrays}

    async def _answer(self, model: str) -> dict[str, np.ndarray]:
        broken = await self._fault(model)
        if broken == "empty":
            return {}
        if model in self.ensembles:
            arrays: dict[str, np.ndarray] = {}
            for step in self.ensembles[model]:
                prefix = "" if step == "decode" else f"{step}_"
                arrays.update({prefix + name: array for name, array in (await self._answer(step)).items()})
            return arrays
        if model == "decode":
            canvas = np.zeros((1, SIDE, SIDE, 3), np.uint8)
            return {"canvas": canvas, "geometry": np.array([[128, 64, 0.5, 0, 16]], np.float32)}
        arrays = self._outputs(self.kinds[model], self.scores[model])
        if broken == "nan":
            arrays = {name: _spoilt(array) for name, array in arrays.items()}
        return arrays

    async def _fault(self, model: str) -> Any:
        fault = self.faults.get(model)
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, (int, float)):
            await asyncio.sleep(fault)
        elif fault == "error":
            raise EngineError(f"{model} broke")
        elif fault == "unavailable":
            raise ModelUnavailable(f"{model} is not loaded")
        elif fault == "bug":
            raise KeyError(model)
        elif fault == "hang":
            await asyncio.Event().wait()
        elif fault == "stubborn":
            end = time.monotonic() + 0.8
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue
        return fault

    @staticmethod
    def _outputs(kind: str, score: float) -> dict[str, np.ndarray]:
        if kind == "scene":
            return {"presence": np.array([[score]], np.float32)}
        if kind == "distance":  # as far everywhere
            return {"nearness": np.full((1, 80, 80), score, np.float32)}
        if kind == "text":
            word = {"text": "ROAD WORK", "keyword": "road work", "language": "en", "score": score, "box": [1, 2, 3, 4]}
            text = json.dumps([word] if score else []).encode()
            return {"presence": np.array([score], np.float32), "words": np.array([text], dtype=np.object_)}
        boxes, scores, classes = np.zeros((1, 100, 4)), np.zeros((1, 100)), np.full((1, 100), -1)
        if score:
            boxes[0, 0], scores[0, 0], classes[0, 0] = [10, 20, 30, 40], score, 0
        return {
            "boxes": boxes.astype(np.float32),
            "scores": scores.astype(np.float32),
            "classes": classes.astype(np.int32),
        }


def _spoilt(array: np.ndarray) -> np.ndarray:
    return np.full_like(array, np.nan) if array.dtype.kind == "f" else array


class Clock:
    """Real time that a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += seconds


POLICY: dict[str, Any] = {
    "version": 1,
    "name": "test",
    "fitted": None,
    "threshold": 0.5,
    "quorum": 0.5,
    "deadline_ms": 3000,
    "all_stages": False,
    "pool": {"alpha": 1.0, "beta": 0.0},
    "agreement": {"share": 0.667},
    "breaker": {"window": 6, "minimum": 3, "failure_rate": 0.5, "open_seconds": 10},
    "fusion": {"iou": 0.55, "score": 0.25},
    "stages": [
        {
            "name": "glance",
            "model": "glance",
            "prepare": "decode",
            "needs": "image",
            "deadline_ms": 300,
            "price_per_second": 0.01,
            "accept": 0.98,
            "reject": 0.02,
            "when": None,
            "members": {"scene": {"kind": "scene", "weight": 1.0, "a": 1.0, "b": 0.0, "nothing": None}},
        },
        {
            "name": "perception",
            "model": "perception",
            "prepare": None,
            "needs": "canvas",
            "deadline_ms": 300,
            "price_per_second": 0.02,
            "accept": 0.9,
            "reject": 0.1,
            "when": None,
            "members": {
                "yolox": {"kind": "boxes", "weight": 1.0, "a": 1.0, "b": 0.0, "nothing": 0.05},
                "centernet": {"kind": "boxes", "weight": 1.0, "a": 1.0, "b": 0.0, "nothing": 0.05},
            },
        },
        {
            "name": "signs",
            "model": None,
            "prepare": None,
            "needs": "image",
            "deadline_ms": 300,
            "price_per_second": 0.03,
            "accept": None,
            "reject": None,
            "when": {"min_probability": 0.05, "max_probability": 0.95},
            "members": {"sign_text": {"kind": "text", "weight": 0.5, "a": 1.0, "b": 0.0, "nothing": None}},
        },
    ],
}
