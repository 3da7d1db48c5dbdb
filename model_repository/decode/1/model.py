"""Triton's python backend: requests in, canvases out. What an image is, `decoding` knows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils
from decoding import InvalidImage, Limits, decode_image

Decoded = tuple[np.ndarray, np.ndarray]
"""canvas and geometry."""


class TritonPythonModel:
    """`image` STRING [b, 1] to `canvas` UINT8 [b, 640, 640, 3] and `geometry` FP32 [b, 5]."""

    def initialize(self, args: dict[str, str]) -> None:
        settings = {key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()}
        self.limits = Limits(
            max_bytes=int(float(settings["max_mebibytes"]) * 2**20),
            max_pixels=int(float(settings["max_megapixels"]) * 1e6),
        )
        # Every image has one thread: OpenCV's own would compete with them.
        cv2.setNumThreads(1)
        self.pool = ThreadPoolExecutor(int(settings["threads"]) or os.cpu_count() or 1, thread_name_prefix="decode")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        batches = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1) for request in requests]
        images = [image for batch in batches for image in batch]
        # The decoders release the GIL. A lone image skips the pool: handing it over costs more than it saves.
        results = iter(list(self.pool.map(self._decode, images)) if len(images) > 1 else [self._decode(images[0])])
        return [self._respond([next(results) for _ in batch]) for batch in batches]

    def finalize(self) -> None:
        self.pool.shutdown()

    def _decode(self, image: bytes) -> Decoded | Exception:
        try:
            return decode_image(image, limits=self.limits)
        except Exception as error:  # whatever it is, it must not reach the other requests of the batch
            return error

    @staticmethod
    def _respond(results: list[Decoded | Exception]) -> Any:
        """One request's response: an image that cannot be used fails its own request only."""
        decoded: list[Decoded] = []
        for index, result in enumerate(results):
            if isinstance(result, Exception):
                return _refuse(result, f"image {index} of {len(results)}: " if len(results) > 1 else "")
            decoded.append(result)
        # One image is only viewed as a batch; copying the canvas would be in vain.
        canvas, geometry = (
            (part[0][np.newaxis] if len(part) == 1 else np.stack(part)) for part in zip(*decoded, strict=True)
        )
        return pb_utils.InferenceResponse([pb_utils.Tensor("canvas", canvas), pb_utils.Tensor("geometry", geometry)])


def _refuse(error: Exception, which: str) -> Any:
    if isinstance(error, InvalidImage):
        refusal = pb_utils.TritonError(f"INVALID_IMAGE: {which}{error}", pb_utils.TritonError.INVALID_ARG)
    else:
        text = f"decode failed: {which}{type(error).__name__}: {error}"
        refusal = pb_utils.TritonError(text, pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(error=refusal)
