"""Triton's side of the cascade: requests in, verdicts out. What is decided is in `roadwork_cascade`."""

from __future__ import annotations

import asyncio
import gc
import locale
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from bls_engine import BlsEngine
from roadwork_cascade.verdict import verdict_bytes
from service import ends_with_caller, explain, load_cascade, read_request
from verdict_metrics import Metrics


class TritonPythonModel:
    """One instance: a cascade with its own breakers. It serves one request at a time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the policy. Raises `PolicyError`, which Triton shows as the reason why the model did not load."""
        # The stub starts in an ASCII locale, in which words read on signs could not be logged.
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        self._engine = BlsEngine()
        self._cascade = load_cascade(args["model_repository"], args["model_config"], self._engine)
        self._metrics = Metrics(instance=args["model_instance_name"])
        gc.freeze()  # what was imported stays: collections need not walk through it in the middle of requests

    async def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request; one that fails never takes another with it."""
        return list(await asyncio.gather(*(self._answer(request) for request in requests)))

    def finalize(self) -> None:
        """Let go of the threads without waiting for calls that hang."""
        self._engine.close()
        self._metrics.close()

    async def _answer(self, request: Any) -> Any:
        try:
            verdict = await self._run(request)
        except (Exception, asyncio.CancelledError) as error:
            message, code, outcome = explain(error)
            self._metrics.count_error(outcome)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
        self._metrics.count(verdict, self._cascade.breakers.states())
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("probability", np.array([verdict["probability"]], dtype=np.float32)),
                pb_utils.Tensor("verdict", np.array([verdict_bytes(verdict)], dtype=np.object_)),
            ]
        )

    async def _run(self, request: Any) -> dict[str, Any]:
        """The verdict on a request, or `CancelledError` soon after its caller has gone."""
        image, options = read_request(request, self._cascade)
        with ends_with_caller(request):
            return await self._cascade.decide(image, options)
