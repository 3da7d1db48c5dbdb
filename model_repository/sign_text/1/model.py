"""Triton's python backend: an image in, evidence from the words on its signs out. `reading` knows how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils
from reading import InvalidImage, Limits, OutOfTime, Settings, SignReader


class TritonPythonModel:
    """`image` STRING [1] to `presence` FP32 [1] and `words` STRING [1] (JSON)."""

    def initialize(self, args: dict[str, str]) -> None:
        settings = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        threads = int(settings["threads"])
        cv2.setNumThreads(threads)
        self.reader = SignReader(
            settings=Settings(
                max_milliseconds=float(settings["max_milliseconds"]),
                find_megapixels=float(settings["find_megapixels"]),
                read_side=int(settings["read_side"]),
                max_lines=int(settings["max_lines"]),
                threads=threads,
                limits=Limits(
                    max_bytes=int(float(settings["max_mebibytes"]) * 2**20),
                    max_pixels=int(float(settings["max_megapixels"]) * 1e6),
                ),
            )
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
            return _refuse(f"sign_text: {error}", pb_utils.TritonError.UNAVAILABLE)
        if reading.timed_out:
            pb_utils.Logger.log_warn(
                f"sign_text: {reading.milliseconds:.0f} ms used up the budget: {len(reading.lines)} lines read, "
                f"{reading.skipped} left out"
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
