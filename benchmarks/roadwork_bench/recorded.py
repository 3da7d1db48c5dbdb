"""The cascade over recorded scores: an `Engine` that answers from a table row, with a clock that runs on its times."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from roadwork_cascade.engine import EngineError, ModelUnavailable, Piece, TokenLogprob
from roadwork_cascade.policy import Policy
from roadwork_cascade.prompts import Prompt, Prompts, TierImage
from roadwork_cascade.taxonomy import load_taxonomy

from roadwork_bench.table import Row

SLOTS = 100
CANVAS = 640
YES, NO = 1, 2


class RecordedEngine:
    """Give it as engine and `clock` as clock. The image of a request is the row's file name as bytes."""

    def __init__(self, rows: Sequence[Row], kinds: Mapping[str, str]) -> None:
        self._rows = {row.file.encode(): row for row in rows}
        self._kinds = kinds
        self._current: Row | None = None
        self._now = 0.0

    def clock(self) -> float:
        """Seconds that the models asked so far would have taken one after another, members of a stage at once."""
        return self._now

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        """See `roadwork_cascade.engine.Engine`. A request begins with its image, which later stages do not repeat."""
        if "image" in inputs:
            self._current = self._rows.get(inputs["image"].reshape(-1)[0])
        row = self._current
        if row is None:
            raise EngineError("the image is not in the table")
        arrays: dict[str, np.ndarray] = {}
        if {"canvas", "geometry"} & set(outputs):
            arrays["canvas"] = np.zeros((1, CANVAS, CANVAS, 3), np.uint8)
            arrays["geometry"] = np.array([row.geometry], np.float32)
            self._now += row.ms.get("decode", 0.0) / 1000
        asked = [name for name in self._kinds if name == model or any(o.startswith(f"{name}_") for o in outputs)]
        for name in asked:
            if name not in row.scores:
                raise ModelUnavailable(f"{name} was not recorded")
            prefix = "" if name == model else f"{name}_"
            arrays.update({prefix + key: value for key, value in self._answer(row, name).items()})
        self._now += max((row.ms.get(name, 0.0) for name in asked), default=0.0) / 1000
        missing = [name for name in outputs if name not in arrays]
        if missing:
            raise ModelUnavailable(f"{model}: {', '.join(missing)} was not recorded")
        return arrays

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        images: Sequence[bytes],
        sampling: Mapping[str, Any],
        stream: bool,
        timeout: float,
    ) -> AsyncIterator[Piece]:
        """A tier's recorded answer as the one token whose probabilities give it. Use `recorded_prompts` with it."""
        row = self._current
        if row is None or model not in row.scores:
            raise ModelUnavailable(f"{model} was not recorded")
        self._now += row.ms.get(model, 0.0) / 1000
        raw = row.scores[model]
        shares = {YES: raw, NO: 1.0 - raw}
        logprobs = {token: TokenLogprob(math.log(share)) for token, share in shares.items() if share > 0}
        read, written = row.tokens.get(model, (0, 0))
        yield Piece("yes" if raw >= 0.5 else "no", [logprobs], read, written, "stop")

    def _answer(self, row: Row, name: str) -> dict[str, np.ndarray]:
        kind, score = self._kinds[name], row.scores[name]
        if kind == "boxes":
            return _box_arrays(row.boxes.get(name, []), row.geometry, score)
        presence = np.array([[score]], np.float32)
        if kind == "scene":
            return {"presence": presence}
        return {"presence": presence, "words": np.array([json.dumps(row.words).encode()], np.object_)}


def recorded_prompts(policy: Policy) -> Prompts:
    """Prompts of a policy's tiers whose answers `RecordedEngine.generate` gives, each as a scorer's."""
    image = TierImage("original")
    prompt = Prompt("scorer", "", None, image, {"max_tokens": 1}, yes={"yes": YES}, no={"no": NO})
    return Prompts(known={tier.member.name: prompt for tier in policy.tiers})


def _box_arrays(kept: list[list[float]], geometry: list[float], strength: float) -> dict[str, np.ndarray]:
    """The kept boxes on the canvas again; one that bears the recorded strength where none was kept."""
    evidence = load_taxonomy().evidence
    if strength > 0 and not kept:
        best = max(range(len(evidence)), key=evidence.__getitem__)
        kept = [[best, strength / evidence[best], 0.0, 0.0, 1.0, 1.0]]
    kept = sorted(kept, key=lambda box: -box[1])
    boxes, scores = np.zeros((1, SLOTS, 4), np.float32), np.zeros((1, SLOTS), np.float32)
    classes = np.full((1, SLOTS), -1, np.int32)
    _, _, scale, left, top = geometry
    for index, (label, score, *xyxy) in enumerate(kept):
        boxes[0, index] = np.array(xyxy) * scale + np.array([left, top, left, top])
        scores[0, index], classes[0, index] = score, int(label)
    return {"boxes": boxes, "scores": scores, "classes": classes}
