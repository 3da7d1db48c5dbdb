"""Triton's python backend: what an ensemble does, by business logic scripting (BLS).

Parameters: `members`, JSON of model -> names of its outputs; `decode`, the model that makes the canvas of an image,
empty where the canvas comes in. Outputs are `<member>_<output>`.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self.decode = parameters["decode"]["string_value"]
        self.members: dict[str, list[str]] = json.loads(parameters["members"]["string_value"])
        # The loop's own executor is sized for the cores, and a call holds a thread until its model has answered.
        self.threads = ThreadPoolExecutor(4 * len(self.members) + 4)

    async def execute(self, requests: list[Any]) -> list[Any]:
        return list(await asyncio.gather(*(self.answer(request) for request in requests)))

    async def answer(self, request: Any) -> Any:
        try:
            if self.decode:
                image = pb_utils.get_input_tensor_by_name(request, "image")
                (canvas,) = await self.ask(self.decode, [image], ["canvas"])
            else:
                canvas = pb_utils.get_input_tensor_by_name(request, "canvas")
            answers = await asyncio.gather(
                *(self.ask(member, [canvas], outputs) for member, outputs in self.members.items())
            )
        except pb_utils.TritonModelException as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        renamed = []
        for member, tensors in zip(self.members, answers, strict=True):
            renamed += [pb_utils.Tensor(f"{member}_{tensor.name()}", tensor.as_numpy()) for tensor in tensors]
        return pb_utils.InferenceResponse(renamed)

    async def ask(self, model: str, inputs: list[Any], outputs: list[str]) -> list[Any]:
        call = pb_utils.InferenceRequest(model_name=model, requested_output_names=outputs, inputs=inputs)
        response = await asyncio.wrap_future(self.threads.submit(call.exec))
        if response.has_error():
            raise pb_utils.TritonModelException(f"{model}: {response.error().message()}")
        return [pb_utils.get_output_tensor_by_name(response, name) for name in outputs]

    def finalize(self) -> None:
        self.threads.shutdown(wait=False)
