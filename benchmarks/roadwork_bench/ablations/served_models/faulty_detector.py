"""Triton's python backend: a detector that sees nothing in 20 ms, and fails when it is told to.

A file `fault.json` in the model's folder holds what is wrong from the next request on: `{"seconds": 3}` to answer late,
`{"error": "out of memory"}` to fail.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

USUAL_SECONDS = 0.02


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.fault = Path(args["model_repository"]) / "fault.json"

    def execute(self, requests: list[Any]) -> list[Any]:
        try:
            fault = json.loads(self.fault.read_text())
        except FileNotFoundError:
            fault = {}
        time.sleep(fault.get("seconds", USUAL_SECONDS))
        if "error" in fault:
            error = pb_utils.TritonError(fault["error"])
            return [pb_utils.InferenceResponse(error=error) for _ in requests]
        return [self.nothing(request) for request in requests]

    def nothing(self, request: Any) -> Any:
        count = pb_utils.get_input_tensor_by_name(request, "canvas").shape()[0]
        tensors = [
            pb_utils.Tensor("boxes", np.zeros((count, 100, 4), np.float32)),
            pb_utils.Tensor("scores", np.zeros((count, 100), np.float32)),
            pb_utils.Tensor("classes", np.full((count, 100), -1, np.int32)),
        ]
        return pb_utils.InferenceResponse(tensors)
