"""Triton's python backend: the repository's decoder (beside this file, as decode_model.py) with a float32 canvas."""

from __future__ import annotations

from typing import Any

import decode_model
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel(decode_model.TritonPythonModel):
    @staticmethod
    def _respond(results: list[Any]) -> Any:
        """`canvas` FP32 [b, 640, 640, 3] from 0 to 255, in place of UINT8."""
        response = decode_model.TritonPythonModel._respond(results)
        if response.has_error():
            return response
        tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
        canvas = pb_utils.Tensor("canvas", tensors["canvas"].as_numpy().astype(np.float32))
        return pb_utils.InferenceResponse([canvas, tensors["geometry"]])
