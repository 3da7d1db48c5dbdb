"""The cascade's `Engine` over Triton's business logic scripting (BLS)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from roadwork_cascade.engine import EngineTimeout, error_from_message

# A call that hangs keeps its thread for good. Without a limit, a probe every few seconds would use up all threads.
MOST_ABANDONED = 8


class BlsEngine:
    """Asks other models of the same server. A call given up goes on in the server: BLS cannot take it back."""

    def __init__(self) -> None:
        self._abandoned: Counter[str] = Counter()

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], timeout: float
    ) -> dict[str, np.ndarray]:
        """See `roadwork_cascade.engine.Engine`. The cascade bounds the waiting: BLS knows only queue timeouts."""
        if self._abandoned[model] >= MOST_ABANDONED:
            raise EngineTimeout(f"{model}: {MOST_ABANDONED} earlier calls have not come back yet")
        request = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=list(outputs),
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            # Else a model on a GPU leaves its output there, where NumPy cannot read it.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        call = asyncio.ensure_future(request.async_exec())
        try:
            # Shielded: the thread cannot be cancelled, and only its own end tells that it is free again.
            response = await asyncio.shield(call)
        except asyncio.CancelledError:
            self._abandoned[model] += 1
            call.add_done_callback(self._returned(model))
            raise
        except pb_utils.TritonModelException as error:
            raise error_from_message(model, str(error)) from None
        if response.has_error():
            raise error_from_message(model, response.error().message())
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}

    def _returned(self, model: str) -> Callable[[asyncio.Future[Any]], None]:
        def forget(call: asyncio.Future[Any]) -> None:
            self._abandoned[model] -= 1
            if not call.cancelled():
                call.exception()  # fetched, or asyncio reports it as lost

        return forget
