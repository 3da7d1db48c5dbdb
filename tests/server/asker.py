"""Asks a tier over one gRPC stream, tensor by tensor, as any client of Triton can."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from roadwork_deploy.server import EmbeddedServer
from tiny_tier import TEXT_PROMPT
from tritonclient.utils import InferenceServerException

WAIT = 30.0  # seconds for one answer


@dataclass
class Answer:
    """All responses of one request."""

    pieces: list[dict[str, np.ndarray]] = field(default_factory=list)
    error: InferenceServerException | None = None
    finals: int = 0
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return b"".join(piece["text_output"][0] for piece in self.pieces if "text_output" in piece).decode()

    @property
    def message(self) -> str:
        assert self.error is not None, self.text
        return str(self.error.message())


class Asker:
    """One gRPC stream to a server; every wait has an end."""

    def __init__(self, url: str) -> None:
        self.client = grpc.InferenceServerClient(url)
        self.answers: queue.Queue = queue.Queue()
        self.sent = 0
        self.request_id = ""
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def close(self) -> None:
        self.client.stop_stream(cancel_requests=True)
        self.client.close()

    def send(
        self,
        prompt: str = TEXT_PROMPT,
        images: tuple[bytes, ...] = (),
        *,
        model: str = "tiny",
        sampling: dict | str | None = None,
        returns: tuple[str, ...] = (),
        parameters: dict | None = None,
        request_id: str = "",
        **flags: bool,
    ) -> None:
        tensors: dict[str, np.ndarray] = {"text_input": np.array([prompt.encode()], object)}
        if images:
            tensors["image"] = np.array(images, object)
        if sampling is not None:
            text = sampling if isinstance(sampling, str) else json.dumps(sampling)
            tensors["sampling_parameters"] = np.array([text.encode()], object)
        tensors |= {name: np.array([value]) for name, value in flags.items()}
        tensors |= {f"return_{name}": np.array([True]) for name in returns}
        inputs = []
        for name, array in tensors.items():
            inputs.append(grpc.InferInput(name, list(array.shape), "BOOL" if array.dtype == bool else "BYTES"))
            inputs[-1].set_data_from_numpy(array)
        self.sent += 1
        self.request_id = request_id or f"number {self.sent}"
        self.client.async_stream_infer(
            model, inputs, request_id=self.request_id, parameters=parameters, enable_empty_final_response=True
        )

    def receive(self, timeout: float = WAIT) -> Answer:
        """All responses of the one request under way."""
        answer, began = Answer(), time.monotonic()
        while not answer.finals and answer.error is None:
            result, error = self.answers.get(timeout=timeout)
            if error is not None:
                answer.error = error
                break
            response = result.get_response()
            if response.id != self.request_id:
                continue  # an error behind other responses is followed by an empty one, the end
            if response.outputs:
                answer.pieces.append({output.name: result.as_numpy(output.name) for output in response.outputs})
            answer.finals += response.parameters["triton_final_response"].bool_param
        answer.seconds = time.monotonic() - began
        return answer

    def ask(self, *arguments: Any, **settings: Any) -> Answer:
        self.send(*arguments, **settings)
        return self.receive()


@contextmanager
def asking(server: EmbeddedServer) -> Iterator[Asker]:
    asker = Asker(server.grpc_url)
    try:
        yield asker
    finally:
        asker.close()
