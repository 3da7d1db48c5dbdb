"""Triton's python backend: an image in, evidence from the words on its signs out. `florence_reading` knows how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from florence_reading import FlorenceReader, InvalidImage, Limits, OutOfTime, Settings


class TritonPythonModel:
    """`image` STRING [1] to `presence` FP32 [1] and `words` STRING [1] (JSON)."""

    def initialize(self, args: dict[str, str]) -> None:
        given = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        self.name = args["model_name"]
        on_gpu = args["model_instance_kind"] == "GPU"
        self.reader = FlorenceReader(
            Path(__file__).resolve().parent / "weights",
            settings=Settings(
                max_milliseconds=float(given["max_milliseconds"]),
                max_new_tokens=int(given["max_new_tokens"]),
                read_side=int(given["read_side"]),
                min_confidence=float(given["min_confidence"]),
                threads=int(given["threads"]),
                limits=Limits(
                    max_bytes=int(float(given["max_mebibytes"]) * 2**20),
                    max_pixels=int(float(given["max_megapixels"]) * 1e6),
                ),
            ),
            device=f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu",
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)[0]
        try:
            reading = self.reader.read(image)
        except InvalidImage as error:
            return _refuse(f"INVALID_IMAGE: {error}", pb_utils.TritonError.INVALID_ARG)
        except OutOfTime as error:
            return _refuse(f"{self.name}: {error}", pb_utils.TritonError.UNAVAILABLE)
        if reading.skipped:
            spent = "the budget" if reading.timed_out else "max_new_tokens"
            pb_utils.Logger.log_warn(
                f"{self.name}: {spent} was used up after {reading.milliseconds:.0f} ms: {len(reading.lines)} lines "
                "count, the rest is left out"
            )
        words = json.dumps([_rounded(asdict(word)) for word in reading.words], ensure_ascii=False)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("presence", np.array([reading.presence], np.float32)),
                pb_utils.Tensor("words", np.array([words.encode()], np.object_)),
            ]
        )


def _refuse(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _rounded(word: dict[str, Any]) -> dict[str, Any]:
    return {**word, "score": round(word["score"], 4), "box": [round(x, 1) for x in word["box"]]}
