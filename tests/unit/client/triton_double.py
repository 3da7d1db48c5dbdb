"""A gRPC server that speaks Triton's protocol and does what a test tells it; a double of the transport only."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

VERDICT: dict[str, Any] = {
    "schema": 2,
    "probability": 0.93,
    "roadwork": True,
    "threshold": 0.5,
    "status": "ok",
    "decided_by": "perception",
    "image": {"width": 1920, "height": 1080},
    "boxes": [
        {
            "class": "cone",
            "score": 0.9,
            "box": [100.0, 200.0, 300.0, 420.0],
            "seen_by": ["yolox_nano"],
            "nearness": 0.8125,
        },
        {
            "class": "cone",
            "score": 0.5,
            "box": [400.0, 200.0, 500.0, 300.0],
            "seen_by": ["yolox_nano", "centernet"],
            "nearness": None,
        },
    ],
    "words": [
        {
            "text": "ROAD WORK AHEAD",
            "keyword": "road work",
            "language": "en",
            "score": 0.97,
            "box": [600.0, 100.0, 900.0, 300.0],
        }
    ],
    "answers": [
        {"member": "scene", "stage": "glance", "kind": "scene", "raw": 0.8, "probability": 0.7, "weight": 1.0},
        {"member": "sign_text", "stage": "sign_text", "kind": "text", "raw": 0.0, "probability": None, "weight": 0.5},
    ],
    "route": "medium",
    "tiers": [
        {
            "name": "fast",
            "member": "tiny_vlm_s",
            "kind": "scorer",
            "outcome": "answered",
            "reason": None,
            "raw": 0.9,
            "mass": 0.98,
            "probability": 0.8,
            "text": "yes",
            "thoughts": None,
            "repaired": False,
            "tokens": {"input": 70, "output": 1},
            "milliseconds": 80.0,
            "cost": 1e-6,
        },
        {
            "name": "precise",
            "member": "tiny_vlm_m",
            "kind": "scorer",
            "outcome": "skipped",
            "reason": "decided",
            "raw": None,
            "mass": None,
            "probability": None,
            "text": None,
            "thoughts": None,
            "repaired": False,
            "tokens": {"input": 0, "output": 0},
            "milliseconds": 0.0,
            "cost": 0.0,
        },
    ],
    "missing": [{"member": "centernet", "stage": "perception", "reason": "error", "detail": "broken"}],
    "stages": [{"name": "glance", "outcome": "answered", "probability": 0.7, "milliseconds": 12.3, "cost": 1e-7}],
    "milliseconds": 45.6,
    "tokens": {"input": 70, "output": 1},
    "cost": 1e-6,
    "currency": "USD",
    "versions": {"policy": "name@0123456789ab", "models": {"yolox_nano": "1"}},
}


def event(sequence: int, name: str, progress: float, **more: Any) -> dict[str, Any]:
    """An event as the server sends it."""
    spent = {"tokens": {"input": 0, "output": 0}, "cost": 0.0, "milliseconds": 10.0 * sequence}
    return {"schema": 1, "event": name, "sequence": sequence, "progress": progress, **spent, **more}


EVENTS: list[dict[str, Any]] = [
    event(0, "accepted", 0.0),
    event(1, "perceived", 0.25, stage="glance", outcome="answered", probability=0.6),
    event(2, "escalated", 0.5, route="medium", climb=["fast", "precise"]),
    event(3, "partial", 0.6, tier="reason", text='{"thoughts": "two cones beside a lane'),
    event(4, "partial", 0.7, tier="reason", text=' that is closed", "roadwork": true}'),
    event(5, "tier", 0.95, tier=VERDICT["tiers"][0]),
    event(6, "verdict", 1.0, verdict=VERDICT),
]


class Ask:
    """One inference request, as the server sees it."""

    def __init__(self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> None:
        self.context = context
        texts = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            (length,) = struct.unpack_from("<I", raw)
            assert length == len(raw) - 4
            assert list(tensor.shape) == [1]
            assert tensor.datatype == "BYTES"
            texts[tensor.name] = raw[4:]
        self.model = request.model_name
        self.outputs = [output.name for output in request.outputs]
        self.image = texts["image"]
        self.options = json.loads(texts["options"])
        self.metadata = dict(context.invocation_metadata())
        self.seconds_left = context.time_remaining()

    def fail(self, code: grpc.StatusCode, text: str) -> None:
        self.context.abort(code, text)

    def wait(self, seconds: float) -> bool:
        """Sleep, as work does; False when the caller went away meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.context.is_active():
            time.sleep(0.005)
        return self.context.is_active()


Behaviour = Callable[[Ask], Any]


class TritonDouble(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`behaviour(ask)` gives the verdict (None: VERDICT), as a mapping or as raw text, or fails."""

    def __init__(
        self, behaviour: Behaviour | None = None, *, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.behaviour: Behaviour = behaviour or (lambda ask: None)
        self.asked: list[Ask] = []
        self.cancelled = threading.Event()
        self.keep = True
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.max_receive_message_length", 64 << 20)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.url = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> TritonDouble:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop at once; what is under way breaks off."""
        self._server.stop(grace=0).wait(timeout=5)

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0", extensions=["statistics"])

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"], platform="python")

    def ModelStreamInfer(self, requests: Any, context: grpc.ServicerContext) -> Any:
        """`behaviour` may give a list of events, with numbers (seconds to wait) and texts (errors) among them."""
        for request in requests:
            ask = Ask(request, context)
            context.add_callback(lambda: None if context.code() is not None else self.cancelled.set())
            with self._lock:
                self.asked.append(ask)
                self.running += 1
                self.most_running = max(self.most_running, self.running)
            try:
                told = self.behaviour(ask)
                for item in EVENTS if told is None else told:
                    if isinstance(item, (int, float)):
                        if not ask.wait(item):
                            self.cancelled.set()
                            return
                    elif isinstance(item, str):
                        yield service_pb2.ModelStreamInferResponse(error_message=item)
                    else:
                        yield _streamed(request.model_name, item)
            finally:
                with self._lock:
                    self.running -= 1
            last = service_pb2.ModelInferResponse(model_name=request.model_name)
            last.parameters["triton_final_response"].bool_param = True
            if request.parameters["triton_enable_empty_final_response"].bool_param:
                yield service_pb2.ModelStreamInferResponse(infer_response=last)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        ask = Ask(request, context)
        context.add_callback(lambda: None if context.code() is not None else self.cancelled.set())
        with self._lock:
            if self.keep:
                self.asked.append(ask)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            verdict = self.behaviour(ask)
        finally:
            with self._lock:
                self.running -= 1
        text = verdict if isinstance(verdict, str) else json.dumps(VERDICT if verdict is None else verdict)
        if not context.is_active():
            self.cancelled.set()
        data = text.encode()
        return service_pb2.ModelInferResponse(
            model_name=request.model_name,
            outputs=[
                service_pb2.ModelInferResponse.InferOutputTensor(name="verdict", datatype="BYTES", shape=[1]),
            ],
            raw_output_contents=[struct.pack("<I", len(data)) + data],
        )


def _streamed(model: str, told: dict[str, Any]) -> service_pb2.ModelStreamInferResponse:
    data = json.dumps(told).encode()
    return service_pb2.ModelStreamInferResponse(
        infer_response=service_pb2.ModelInferResponse(
            model_name=model,
            outputs=[service_pb2.ModelInferResponse.InferOutputTensor(name="event", datatype="BYTES", shape=[1])],
            raw_output_contents=[struct.pack("<I", len(data)) + data],
        )
    )
