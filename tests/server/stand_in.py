"""A small real Triton model that tests put in a repository: it answers as it is told to, late, or not at all.

Parameters of its `config.pbtxt`: DELAY seconds before each answer, FAIL a message to answer instead (after as long as
the onnxruntime backend takes at least, and for its reason), ANSWER JSON of output name -> values (zeros where it names
none), SLOW_START seconds in `initialize`. A file `control.json` in the model's folder with the same keys overrides them
from the next request on.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FAILURE_SECONDS = 0.1


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in self.config.get("parameters", {}).items()}
        self.settings = {
            "DELAY": float(parameters.get("DELAY", 0)),
            "FAIL": parameters.get("FAIL", ""),
            "ANSWER": json.loads(parameters.get("ANSWER", "{}")),
        }
        self.control = os.path.join(args["model_repository"], "control.json")
        time.sleep(float(parameters.get("SLOW_START", 0)))

    def execute(self, requests: list) -> list:
        settings = dict(self.settings)
        if os.path.exists(self.control):
            with open(self.control) as file:
                settings.update(json.load(file))
        time.sleep(max(settings["DELAY"], FAILURE_SECONDS if settings["FAIL"] else 0.0))
        return [self.respond(request, settings) for request in requests]

    def respond(self, request: Any, settings: dict[str, Any]) -> Any:
        if settings["FAIL"]:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(settings["FAIL"]))
        batch = []
        if self.config["max_batch_size"] > 0:
            first = pb_utils.get_input_tensor_by_name(request, self.config["input"][0]["name"])
            batch = [first.shape()[0]]
        tensors = []
        for output in self.config["output"]:
            shape = batch + [max(1, int(size)) for size in output["dims"]]
            answer = settings["ANSWER"].get(output["name"])
            if output["data_type"] == "TYPE_STRING":
                array = np.full(shape, str(answer or "").encode(), dtype=object)
            else:
                array = np.zeros(shape, pb_utils.triton_string_to_numpy(output["data_type"]))
                if answer is not None:
                    array[:] = np.asarray(answer)
            tensors.append(pb_utils.Tensor(output["name"], array))
        return pb_utils.InferenceResponse(output_tensors=tensors)
