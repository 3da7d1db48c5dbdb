"""What the two clients share: channel, deadline, request and answer."""

from __future__ import annotations

import base64
import json
import math
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.utils import InferenceServerException

from roadwork_client.errors import DeadlineExceeded, InvalidOptions, ProtocolError, RoadworkError, from_triton
from roadwork_client.events import Event
from roadwork_client.verdict import Verdict

DEFAULT_URL = "localhost:8001"
DEFAULT_DEADLINE = 10.0
"""Seconds that a request has where the caller names none."""
DEFAULT_IN_FLIGHT = 4
"""As many as the cascade has instances: what is sent beyond waits in its queue, while its deadline runs."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

# Seconds past the gRPC deadline after which a reply is given up even if gRPC itself says nothing.
GRACE = 2.0

# gRPC's own retries and none on top. Only UNAVAILABLE, at most one further attempt, and throttled: once half of the
# tokens are spent on failures, an overloaded server is not asked twice any more.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}

# A real inference needs a real image: 64x64 pixels of grey road under grey sky.
PROBE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxO"
    "UlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P"
    "T09PT09PT0//wAARCABAAEADASIAAhEBAxEB/8QAFwABAQEBAAAAAAAAAAAAAAAAAAUEA//EACMQAAECBAcBAQAAAAAAAAAAAAAB"
    "BAMFETUCFFOCorLRQRL/xAAUAQEAAAAAAAAAAAAAAAAAAAAA/8QAFBEBAAAAAAAAAAAAAAAAAAAAAP/aAAwDAQACEQMRAD8A3AAA"
    "AAAAAAAADLn2urxXwZ9rq8V8A1Ay59rq8V8OrdxCcxsMGBj/AFExVolFT5X6B1BycOITaNigx8f5iYaVSir8r8OWfa6vFfANQMuf"
    "a6vFfBn2urxXwCIAABRkF5b7uqk4oyC8t93VQE/vLjb1QnFGf3lxt6oTgAAAAAAUZBeW+7qpOKMgvLfd1UBP7y429UJxRn95cbeq"
    "E4AAAP/Z"
)


@dataclass(frozen=True)
class TLS:
    """Files (PEM) of a secure channel.

    root_certificates: whom to trust; None takes gRPC's default roots.
    private_key, certificate_chain: the client's own, for mutual TLS; both or neither.
    """

    root_certificates: str | Path | None = None
    private_key: str | Path | None = None
    certificate_chain: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ValueError("mutual TLS needs both `private_key` and `certificate_chain`")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raise OSError, naming the file, where that is not possible."""
        files = (self.root_certificates, self.private_key, self.certificate_chain)
        return grpc.ssl_channel_credentials(*(None if file is None else Path(file).read_bytes() for file in files))


@dataclass(frozen=True)
class Wishes:
    """What a caller may ask for beside the deadline; None leaves it to the server's policy.

    tiers: whether vision-language tiers may be asked, or the names of those that may. max_tokens, max_cost: the most
    that they may take. Raise InvalidOptions for values that are none.
    """

    all_stages: bool | None = None
    tiers: bool | Sequence[str] | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tiers, str):
            raise InvalidOptions(f"tiers must be True, False or a list of names, not {self.tiers!r}")
        for name in ("max_tokens", "max_cost"):
            value = getattr(self, name)
            kinds = int if name == "max_tokens" else (int, float)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < 1e18):
                raise InvalidOptions(f"{name} must be a number that is not negative, not {value!r}")

    def to_dict(self) -> dict[str, Any]:
        """The options that the server gets."""
        tiers = self.tiers if self.tiers is None or isinstance(self.tiers, bool) else list(self.tiers)
        wishes = {
            "all_stages": None if self.all_stages is None else bool(self.all_stages),
            "tiers": tiers,
            "max_tokens": self.max_tokens,
            "max_cost": self.max_cost,
        }
        return {name: value for name, value in wishes.items() if value is not None}


@dataclass(frozen=True)
class Health:
    """A server that answered a real inference: round trip in milliseconds, and the verdict on the probe image."""

    url: str
    milliseconds: float
    verdict: Verdict


@dataclass(frozen=True)
class ServerInfo:
    """What the server says about itself and the model: names and versions."""

    url: str
    server: str
    version: str
    model: str
    model_versions: tuple[str, ...]
    extensions: tuple[str, ...]


class Deadline:
    """A point in time by which an answer is due."""

    def __init__(self, seconds: float) -> None:
        """seconds: from now, positive and finite. Raise InvalidOptions otherwise."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise InvalidOptions(f"deadline must be a number of seconds, not {seconds!r}")
        if not (math.isfinite(seconds) and seconds > 0):
            raise InvalidOptions(f"deadline must be a positive, finite number of seconds, not {seconds!r}")
        self.seconds = float(seconds)
        self._due = time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._due - time.monotonic())

    def remaining(self) -> float:
        """Seconds left; raise DeadlineExceeded when there are none."""
        left = self.left()
        if left == 0:
            raise DeadlineExceeded(
                f"the deadline of {self.seconds:g} s was over before the image could be sent; give a longer one"
            )
        return left


def server_share(seconds: float) -> float:
    """Seconds of the `seconds` left that the server may use.

    A tenth, 20 to 250 ms, is kept for the way there and back, so that a verdict with status `timed_out` still arrives.
    Where less than 40 ms are left, half of them.
    """
    return seconds - min(max(0.1 * seconds, 0.02), 0.25, 0.5 * seconds)


def host_and_port(url: str) -> str:
    """`url` checked and without its scheme. Raise ValueError for what is not HOST:PORT."""
    address = url.removeprefix("grpc://").rstrip("/")
    if "://" in address:
        raise ValueError(f"url {url!r}: give HOST:PORT of Triton's gRPC port, without a scheme (TLS is `tls=True`)")
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"url {url!r}: give HOST:PORT, as in localhost:8001 or [::1]:8001")
    return address


class Connection:
    """Where the server is and how requests to it look; no input or output of its own."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        stream_model: str | None,
        deadline: float,
        tls: bool | TLS,
        headers: Mapping[str, str] | None,
        max_message_bytes: int,
        channel_args: Sequence[tuple[str, Any]],
    ) -> None:
        self.url = host_and_port(url)
        self.model = model
        self.stream_model = stream_model or f"{model}_stream"
        self.default_deadline = Deadline(deadline).seconds
        self._tls = TLS() if tls is True else tls or None
        # HTTP/2 header names are lower case; gRPC refuses others with an error that does not name them.
        self.headers = {name.lower(): value for name, value in (headers or {}).items()}
        self._max_message_bytes = max_message_bytes
        self._channel_args = dict(channel_args)

    def channel_arguments(self) -> dict[str, Any]:
        """Keyword arguments for either of tritonclient's `InferenceServerClient`.

        `channel_args` replaces tritonclient's defaults, so everything is given here.
        """
        options = {
            "grpc.max_send_message_length": self._max_message_bytes,
            "grpc.max_receive_message_length": self._max_message_bytes,
            # Servers take pings more often than every 300 s, or without a call, for abuse and hang up (GOAWAY).
            # What finds a dead peer sooner is TCP_USER_TIMEOUT, which gRPC sets to the keepalive's timeout.
            "grpc.keepalive_time_ms": 330_000,
            "grpc.keepalive_timeout_ms": 20_000,
            "grpc.keepalive_permit_without_calls": 0,
            "grpc.http2.max_pings_without_data": 2,
            # A client that lives for weeks must see within seconds that its server is back, not after two minutes.
            "grpc.initial_reconnect_backoff_ms": 250,
            "grpc.max_reconnect_backoff_ms": 5_000,
            "grpc.enable_retries": 1,
            "grpc.service_config": json.dumps(SERVICE_CONFIG),
            # Messages over 256 KiB, which most photographs are, would otherwise never be tried again.
            "grpc.per_rpc_retry_buffer_size": self._max_message_bytes,
            **self._channel_args,
        }
        arguments: dict[str, Any] = {"url": self.url, "channel_args": list(options.items())}
        if self._tls is not None:
            arguments["creds"] = self._tls.credentials()
        return arguments

    def open_channel(self, aio: bool = False) -> Any:
        """A channel of its own for streams: `grpc.Channel`, or `grpc.aio.Channel`."""
        arguments, maker = self.channel_arguments(), grpc.aio if aio else grpc
        credentials, options = arguments.get("creds"), arguments["channel_args"]
        if credentials is None:
            return maker.insecure_channel(self.url, options=options)
        return maker.secure_channel(self.url, credentials, options=options)

    def deadline(self, seconds: float | None) -> Deadline:
        """The caller's deadline, or the client's; the clock starts now."""
        return Deadline(self.default_deadline if seconds is None else seconds)

    def call_arguments(self, seconds: float) -> dict[str, Any]:
        """Keyword arguments that every call of tritonclient takes; `seconds` becomes the gRPC deadline."""
        return {"headers": dict(self.headers), "client_timeout": seconds}

    def infer_arguments(self, image: bytes, deadline: Deadline, wishes: Wishes) -> dict[str, Any]:
        """Keyword arguments for tritonclient's `infer` or `async_infer`."""
        seconds = deadline.remaining()
        return {
            "model_name": self.model,
            "inputs": [_text_input("image", image), _text_input("options", _options(seconds, wishes))],
            "outputs": [InferRequestedOutput("verdict")],
            **self.call_arguments(seconds),
        }

    def stream_request(self, image: bytes, seconds: float, wishes: Wishes) -> service_pb2.ModelInferRequest:
        """The one request of a stream; `seconds` are those that the call has."""
        request = service_pb2.ModelInferRequest(model_name=self.stream_model)
        for name, value in (("image", image), ("options", _options(seconds, wishes))):
            request.inputs.add(name=name, datatype="BYTES", shape=[1])
            request.raw_input_contents.append(struct.pack("<I", len(value)) + value)
        request.outputs.add(name="event")
        # Else the end of the answer is told by nothing, and the stream stays open.
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        return request

    def stream_arguments(self, seconds: float) -> dict[str, Any]:
        """Keyword arguments of the generated stub's call; `seconds` becomes the gRPC deadline."""
        return {"timeout": seconds, "metadata": tuple(self.headers.items())}

    def read_stream(self, response: service_pb2.ModelStreamInferResponse, deadline: Deadline) -> Event | None:
        """The event in a response of a stream; None in the last, empty one. Raise RoadworkError for an error."""
        if response.error_message:
            raise self.error(InferenceServerException(response.error_message), deadline, self.stream_model)
        answer = response.infer_response
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=False):
            if tensor.name == "event":
                return Event.from_json(raw[4:])
        if answer.parameters["triton_final_response"].bool_param:
            return None
        raise ProtocolError(f"the answer has no tensor `event`; is this the model `{self.stream_model}`?")

    def stream_error(self, error: grpc.RpcError, deadline: Deadline) -> RoadworkError:
        """What gRPC raised on a stream, as one of the client's own exceptions."""
        told = InferenceServerException(error.details() or "no details", str(error.code()))
        return self.error(told, deadline, self.stream_model)

    def error(self, error: InferenceServerException, deadline: Deadline, model: str | None = None) -> RoadworkError:
        """What tritonclient raised, as one of the client's own exceptions."""
        return from_triton(error, url=self.url, model=model or self.model, deadline=deadline.seconds)

    def missing_verdict(self) -> ProtocolError:
        """A stream that ended too early."""
        return ProtocolError(f"the stream of `{self.stream_model}` ended without a verdict")

    def server_info(self, server: Any, model: Any) -> ServerInfo:
        """The answers of `get_server_metadata` and `get_model_metadata` as one value."""
        return ServerInfo(
            self.url, server.name, server.version, model.name, tuple(model.versions), tuple(server.extensions)
        )


def _options(seconds: float, wishes: Wishes) -> bytes:
    return json.dumps({"deadline_ms": round(server_share(seconds) * 1000, 3), **wishes.to_dict()}).encode()


def _text_input(name: str, value: bytes) -> InferInput:
    tensor = InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_))
    return tensor


def read_verdict(result: InferResult) -> Verdict:
    """The verdict in an answer. Raise ProtocolError where there is none."""
    tensor = result.as_numpy("verdict")
    if tensor is None or tensor.size != 1:
        raise ProtocolError("the answer has no tensor `verdict` with one element; is this the model `roadwork`?")
    return Verdict.from_json(tensor.reshape(-1)[0])
