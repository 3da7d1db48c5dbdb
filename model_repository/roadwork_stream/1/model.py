"""Triton's side of a streamed verdict: an event a response. The cascade is that of ../roadwork."""

from __future__ import annotations

import asyncio
import json
import locale
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

NEUTRAL = 0.5
"""The probability that events carry until something has been seen."""


class TritonPythonModel:
    """One instance: a cascade with its own breakers. It serves all of its streams at the same time."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the cascade. Raises `PolicyError` or `PromptError`, which Triton shows as why the model did not load."""
        # The stub starts in an ASCII locale, in which words read on signs could not be logged.
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        cascade = os.path.join(os.path.dirname(os.path.normpath(args["model_repository"])), "roadwork")
        code = os.path.join(cascade, "1")
        if not os.path.isdir(code):
            raise FileNotFoundError(f"roadwork_stream needs the model roadwork beside it: no folder {code}")
        sys.path.insert(0, code)
        from bls_engine import BlsEngine
        from service import ends_with_caller, explain, load_cascade, read_request
        from verdict_metrics import Metrics

        self._ends_with_caller, self._explain, self._read = ends_with_caller, explain, read_request
        self._engine = BlsEngine()
        self._cascade = load_cascade(cascade, args["model_config"], self._engine)
        self._metrics = Metrics(instance=args["model_instance_name"])

    async def execute(self, requests: list[Any]) -> None:
        """Serve the streams; Triton calls again for new ones while this waits."""
        await asyncio.gather(*(self._serve(request) for request in requests))

    def finalize(self) -> None:
        """Let go of the threads without waiting for calls that hang."""
        self._engine.close()
        self._metrics.close()

    async def _serve(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            with self._ends_with_caller(request):
                await self._tell(request, sender)
        except (Exception, asyncio.CancelledError) as error:
            message, code, outcome = self._explain(error)
            self._metrics.count_error(outcome)
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _tell(self, request: Any, sender: Any) -> None:
        """Send the events, the verdict last."""
        image, options = self._read(request, self._cascade)
        probability = NEUTRAL

        def tell(event: Mapping[str, Any]) -> None:
            nonlocal probability
            probability = event.get("verdict", event).get("probability", probability)
            # Held until they are sent: Triton 2.51 lets go of outputs that the caller did not ask for without the
            # interpreter's lock. Were it to free them, Python 3.12 would die of it.
            tensors = _tensors(event, probability)
            sender.send(pb_utils.InferenceResponse(tensors))

        verdict = await self._cascade.decide(image, options, tell)
        self._metrics.count(verdict, self._cascade.breakers.states())


def _tensors(event: Mapping[str, Any], probability: float) -> list[Any]:
    text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return [
        pb_utils.Tensor("event", np.array([text], dtype=np.object_)),
        pb_utils.Tensor("probability", np.array([probability], dtype=np.float32)),
    ]
