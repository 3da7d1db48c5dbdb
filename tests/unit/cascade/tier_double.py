"""Stand-in tiers in process, on top of the stand-in models of `engine_double`, and a policy that climbs them."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from engine_double import POLICY, FakeEngine
from roadwork_cascade.engine import EngineError, ModelUnavailable, Piece, TokenLogprob
from roadwork_cascade.prompts import Prompts, parse_prompt

YES, NO, OTHER = 1, 2, 9

SCORER: dict[str, Any] = {
    "schema": 1,
    "kind": "scorer",
    "model": "weights",
    "template_sha256": None,
    "prompt": "<image>{findings}Is there roadwork?",
    "findings": "Detectors report: {text}\n",
    "image": {"from": "canvas", "max_side": 32, "quality": 90},
    "sampling": {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": [1, 2]},
    "yes": {"yes": YES},
    "no": {"no": NO},
}
REASONER: dict[str, Any] = {
    **SCORER,
    "kind": "reasoner",
    "sampling": {
        "temperature": 0,
        "max_tokens": 64,
        "logprobs": 20,
        "structured_outputs": json.dumps(
            {"json": {"type": "object", "properties": {"roadwork": {"type": "boolean"}}, "required": ["roadwork"]}}
        ),
    },
    "yes": {"true": YES, "t": 3},
    "no": {"false": NO, "f": 4},
    "answer": {"field": "roadwork", "thoughts": "thoughts"},
    "repair": '\n{"roadwork":',
}

TIERS: list[dict[str, Any]] = [
    {
        "name": name,
        "deadline_ms": 300,
        "price_per_second": 0.0,
        "price_per_1000_tokens": {"input": 0.01, "output": 0.03},
        "accept": 0.85,
        "reject": 0.15,
        "when": None,
        "findings": name == "reason",
        "required": False,
        "members": {model: {"kind": kind, "weight": 3.0, "a": 1.0, "b": 0.0, "nothing": None, "minimum_mass": 0.5}},
    }
    for name, model, kind in (
        ("fast", "vlm_s", "scorer"),
        ("precise", "vlm_m", "scorer"),
        ("reason", "thinker", "reasoner"),
    )
]


def tiers_policy() -> dict[str, Any]:
    """The plan's routes: sure no tier, medium the fast one, low or contradictory reasoning, complex precision."""
    data = copy.deepcopy(POLICY)
    data.update(
        version=2,
        absent_tiers="degrade",
        budget={"tokens": None, "cost": None},
        tiers=copy.deepcopy(TIERS),
        routes=[
            {"name": "sure", "when": {"min_probability": 0.97}, "climb": []},
            {"name": "complex", "when": {"min_boxes": 4}, "climb": ["precise", "reason"]},
            {"name": "contradictory", "when": {"disagreement": True}, "climb": ["reason"]},
            {"name": "low", "when": {"max_probability": 0.35}, "climb": ["reason"]},
            {"name": "medium", "when": None, "climb": ["fast", "reason"]},
        ],
    )
    data["tiers"][2]["when"] = {"min_probability": 0.15, "max_probability": 0.85}
    return data


def prompts() -> Prompts:
    return Prompts(
        known={"vlm_s": parse_prompt(SCORER), "vlm_m": parse_prompt(SCORER), "thinker": parse_prompt(REASONER)}
    )


def entry(text: str, said: int, yes: float, no: float) -> dict[int, TokenLogprob]:
    """A token's log-probabilities: the one that was said first, as vLLM gives them."""
    listed = {said: TokenLogprob(-5.0, 3, text)}
    for token, p in ((YES, yes), (NO, no)):
        if p > 0:
            listed[token] = TokenLogprob(math.log(p), 1, text)
    return listed


def spoken(text: str, yes: float, no: float, size: int = 3) -> list[Piece]:
    """A reasoner's text in tokens of `size` characters; that at the boolean has the probabilities."""
    at = text.rfind("true") if "true" in text else text.rfind("false")
    pieces, begin = [], 0
    cuts = sorted({*range(0, len(text), size), *([at] if at >= 0 else []), len(text)})
    for begin, end in itertools.pairwise(cuts):
        logprobs = entry(text[begin:end], OTHER, yes if begin == at else 0, no if begin == at else 0)
        pieces.append(Piece(text[begin:end], [logprobs], 70, 1))
    return pieces


class TierEngine(FakeEngine):
    """`says` is what a tier answers: the probability of yes, or pieces. `faults` as in `FakeEngine`, of tiers too.

    `slots` bounds how many generate at a time. `closed` lists the models whose iterator was closed early.
    """

    def __init__(self) -> None:
        super().__init__()
        self.says: dict[str, Any] = {"vlm_s": 0.9, "vlm_m": 0.9, "thinker": 0.9}
        self.asked: list[dict[str, Any]] = []
        self.closed: list[str] = []
        self.slots: asyncio.Semaphore | None = None
        self.boxes = 1
        self.piece_seconds = 0.0

    @property
    def tiers(self) -> list[str]:
        return [call["model"] for call in self.asked]

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
        self.asked.append(
            {"model": model, "prompt": prompt, "images": list(images), "sampling": sampling, "stream": stream}
        )
        ended = False
        try:
            await self._tier_fault(model)
            if self.slots is None:
                pieces = self._pieces(model, sampling)
            else:
                async with self.slots:
                    await asyncio.sleep(self.piece_seconds)
                    pieces = self._pieces(model, sampling)
            if not stream:
                pieces = [_joined(pieces)]
            for piece in pieces:
                if self.piece_seconds and self.slots is None:
                    await asyncio.sleep(self.piece_seconds)
                yield piece
            ended = True
        finally:
            if not ended:
                self.closed.append(model)

    async def _tier_fault(self, model: str) -> None:
        fault = self.faults.get(model)
        if fault == "unavailable":
            raise ModelUnavailable(f"{model}: is not ready")
        if fault == "error":
            raise EngineError(f"{model}: out of memory")
        if fault == "hang":
            await asyncio.Event().wait()
        elif isinstance(fault, (int, float)):
            await asyncio.sleep(fault)
        elif isinstance(fault, Exception):
            raise fault

    def _pieces(self, model: str, sampling: Mapping[str, Any]) -> list[Piece]:
        says = self.says[model]
        if not isinstance(says, (int, float)):
            return list(says(sampling) if callable(says) else says)
        if sampling["max_tokens"] == 1:
            return [Piece("yes" if says > 0.5 else "no", [entry("yes", YES, says, 1 - says)], 70, 1)]
        word = "true" if says > 0.5 else "false"
        return spoken(json.dumps({"thoughts": "cones", "roadwork": says > 0.5}), says, 1 - says) if word else []

    @staticmethod
    def _grid(count: int) -> tuple[np.ndarray, np.ndarray]:
        xy = np.array([[(k % 4) * 15 + 2, (k // 4) * 15 + 18] for k in range(count)], np.float32).reshape(-1, 2)
        return np.concatenate([xy, xy + 8], axis=1), np.zeros(count, np.int32)

    def _outputs(self, kind: str, score: float) -> dict[str, np.ndarray]:  # type: ignore[override]
        arrays = FakeEngine._outputs(kind, score)
        if kind == "boxes" and self.boxes > 1:
            boxes, classes = self._grid(self.boxes)
            arrays["boxes"][0, : self.boxes] = boxes
            arrays["classes"][0, : self.boxes] = classes
            arrays["scores"][0, : self.boxes] = score
        return arrays


def _joined(pieces: list[Piece]) -> Piece:
    return Piece(
        "".join(piece.text for piece in pieces),
        [token for piece in pieces for token in piece.logprobs],
        max((piece.input_tokens for piece in pieces), default=0),
        sum(piece.output_tokens for piece in pieces),
        "stop",
    )


def unsure_engine() -> TierEngine:
    """Its networks leave the image to the tiers."""
    engine = TierEngine()
    engine.scores.update(scene=0.6, yolox=0.6, centernet=0.6)
    return engine
