"""The synchronous client."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
from tritonclient.grpc import InferenceServerClient, InferResult
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from roadwork_client import wire
from roadwork_client.errors import Cancelled, ClientClosed, DeadlineExceeded, InvalidOptions, RoadworkError
from roadwork_client.events import Event
from roadwork_client.images import ImageLike, encode
from roadwork_client.results import Result
from roadwork_client.verdict import Verdict

T = TypeVar("T")


class RoadworkClient:
    """Asks a Triton server whether street images show roadwork. Safe to share between threads.

    url: HOST:PORT of the server's gRPC port. model: the cascade's name there; stream_model: that of its streaming twin,
    `<model>_stream` where none is named.
    deadline: seconds that a request has where the call names none.
    tls: True, or a `TLS` with certificate files. headers: sent with every request (credentials of a proxy, say).
    max_message_bytes: largest request and answer.
    channel_args: further gRPC channel arguments, which win over the client's own.

    Raise ValueError for a `url` that is not HOST:PORT, and OSError for a certificate that cannot be read; a server that
    is absent shows at the first call.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        *,
        model: str = "roadwork",
        stream_model: str | None = None,
        deadline: float = wire.DEFAULT_DEADLINE,
        tls: bool | wire.TLS = False,
        headers: Mapping[str, str] | None = None,
        max_message_bytes: int = wire.MAX_MESSAGE_BYTES,
        channel_args: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._connection = wire.Connection(
            url,
            model=model,
            stream_model=stream_model,
            deadline=deadline,
            tls=tls,
            headers=headers,
            max_message_bytes=max_message_bytes,
            channel_args=channel_args,
        )
        self._triton = InferenceServerClient(**self._connection.channel_arguments())
        self._channel: grpc.Channel | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """HOST:PORT of the server."""
        return self._connection.url

    def predict(
        self,
        image: ImageLike,
        *,
        deadline: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> Verdict:
        """The verdict on one image: bytes of a file, a path, a PIL image or an RGB array.

        deadline: seconds for all of it, encoding included. all_stages: True asks every member, whatever the first
        ones say. tiers: False asks no vision-language tier, a list only those that it names. max_tokens, max_cost: the
        most that tiers may take. None leaves each to the server's policy.

        Raise RoadworkError; see `roadwork_client.errors`.
        """
        due = self._connection.deadline(deadline)
        reply = self._send(image, due, wire.Wishes(all_stages, tiers, max_tokens, max_cost))
        try:
            return reply.verdict()
        except BaseException:
            # Ctrl-C, say: the server need not go on.
            reply.cancel()
            raise

    def stream(
        self,
        image: ImageLike,
        *,
        deadline: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> Iterator[Event]:
        """An event a step while the server works on one image; the last one carries the verdict. As `predict` else.

        Every call has a stream of its own, so many may run at a time. Leaving the loop early, or closing the iterator,
        cancels the work on the server.
        """
        self._check_open()
        wishes = wire.Wishes(all_stages, tiers, max_tokens, max_cost)
        return self._stream(image, self._connection.deadline(deadline), wishes)

    def _stream(self, image: ImageLike, due: wire.Deadline, wishes: wire.Wishes) -> Iterator[Event]:
        encoded, seconds = encode(image), due.remaining()
        request = self._connection.stream_request(encoded, seconds, wishes)
        try:
            call = self._stub().ModelStreamInfer(iter([request]), **self._connection.stream_arguments(seconds))
        except ValueError as error:
            raise self._refused(error) from error
        finished = False
        try:
            for response in call:
                event = self._connection.read_stream(response, due)
                if event is None:
                    break
                finished = event.verdict is not None
                yield event
        except grpc.RpcError as error:
            if not finished:  # else the verdict is there, and only its stream's end is not
                raise self._connection.stream_error(error, due) from error
        finally:
            call.cancel()  # does nothing to one that has ended
        if not finished:
            raise self._connection.missing_verdict()

    def _stub(self) -> GRPCInferenceServiceStub:
        """tritonclient allows a client one stream, whose answers mix; its generated stub has a stream a call."""
        with self._lock:
            self._check_open()
            if self._channel is None:
                self._channel = self._connection.open_channel()
            return GRPCInferenceServiceStub(self._channel)

    def predict_many(
        self,
        images: Iterable[ImageLike],
        *,
        in_flight: int = wire.DEFAULT_IN_FLIGHT,
        deadline: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> Iterator[Result]:
        """A result for each image, in their order; errors are values, so that one bad image does not end the others.

        images: taken lazily, at most `in_flight` are held at a time. deadline: seconds for each, from when it is sent;
        time in the server's queue counts. Leaving the loop early cancels what is under way.
        """
        if in_flight < 1:
            raise InvalidOptions(f"in_flight must be at least 1, not {in_flight}")
        wishes = wire.Wishes(all_stages, tiers, max_tokens, max_cost)
        return self._predict_many(enumerate(images), in_flight, deadline, wishes)

    def _predict_many(
        self, images: Iterator[tuple[int, ImageLike]], in_flight: int, deadline: float | None, wishes: wire.Wishes
    ) -> Iterator[Result]:
        pending: deque[tuple[int, ImageLike, _Reply]] = deque()
        exhausted = False
        try:
            while pending or not exhausted:
                # What is ready goes out before the next image is asked for: it may come from a slow source.
                while not exhausted and len(pending) < in_flight and not (pending and pending[0][2].done()):
                    entry = next(images, None)
                    if entry is None:
                        exhausted = True
                    else:
                        pending.append((*entry, self._try_send(entry[1], deadline, wishes)))
                        del entry
                if pending:
                    yield _result(*pending.popleft())
        finally:
            for _, _, reply in pending:
                reply.cancel()

    def health(self, *, deadline: float | None = None, all_stages: bool | None = None) -> wire.Health:
        """Send a real inference with a tiny image; a server whose models died goes on calling itself ready.

        Raise RoadworkError when no verdict comes back.
        """
        start = time.monotonic()
        verdict = self.predict(wire.PROBE, deadline=deadline, all_stages=all_stages)
        return wire.Health(self.url, (time.monotonic() - start) * 1000, verdict)

    def is_live(self, *, deadline: float | None = None) -> bool:
        """Whether a server answers at all; says nothing about its models. Raise RoadworkError when none does."""
        return self._ask(deadline, self._triton.is_server_live)

    def metadata(self, *, deadline: float | None = None) -> wire.ServerInfo:
        """Names and versions of server and model. Raise RoadworkError when the server does not say."""
        server = self._ask(deadline, self._triton.get_server_metadata)
        model = self._ask(deadline, self._triton.get_model_metadata, model_name=self._connection.model)
        return self._connection.server_info(server, model)

    def close(self) -> None:
        """Cancel what is under way and close the channel; closing twice does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            channel, self._channel = self._channel, None
        self._triton.close()
        if channel is not None:
            channel.close()

    def __enter__(self) -> RoadworkClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, seconds: float | None, call: Callable[..., T], **arguments: Any) -> T:
        self._check_open()
        deadline = self._connection.deadline(seconds)
        try:
            return call(**arguments, **self._connection.call_arguments(deadline.remaining()))
        except InferenceServerException as error:
            raise self._connection.error(error, deadline) from error

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed; make a new one")

    def _refused(self, error: ValueError) -> RoadworkError:
        """gRPC's way to say that another thread closed the channel meanwhile."""
        if self._closed:
            return ClientClosed("this client is closed; make a new one")
        return RoadworkError(f"gRPC refuses the request: {error}")

    def _try_send(self, image: ImageLike, deadline: float | None, wishes: wire.Wishes) -> _Reply:
        """As `_send`, with an error in the reply instead of raised."""
        try:
            return self._send(image, self._connection.deadline(deadline), wishes)
        except (ClientClosed, InvalidOptions):
            raise  # every further image would say the same
        except RoadworkError as error:
            reply = _Reply(self._connection, wire.Deadline(wire.GRACE))
            reply.fail(error)
            return reply

    def _send(self, image: ImageLike, deadline: wire.Deadline, wishes: wire.Wishes) -> _Reply:
        self._check_open()
        arguments = self._connection.infer_arguments(encode(image), deadline, wishes)
        reply = _Reply(self._connection, deadline)
        try:
            reply.call = self._triton.async_infer(callback=reply.receive, **arguments)
        except InferenceServerException as error:
            raise self._connection.error(error, deadline) from error
        except ValueError as error:
            raise self._refused(error) from error
        return reply


class _Reply:
    """An answer on its way. gRPC's thread puts it in, the caller's takes it out and decodes it."""

    def __init__(self, connection: wire.Connection, deadline: wire.Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._future: concurrent.futures.Future[InferResult] = concurrent.futures.Future()
        self.call: Any = None

    def receive(self, result: InferResult | None, error: InferenceServerException | None) -> None:
        """tritonclient's callback."""
        if error is not None:
            self.fail(self._connection.error(error, self._deadline))
        else:
            self._future.set_result(result)

    def fail(self, error: RoadworkError) -> None:
        self._future.set_exception(error)

    def done(self) -> bool:
        return self._future.done()

    def cancel(self) -> None:
        if self.call is not None:
            self.call.cancel()

    def verdict(self) -> Verdict:
        """Wait for the verdict, no longer than the deadline and a little; raise RoadworkError."""
        try:
            return wire.read_verdict(self._future.result(timeout=self._deadline.left() + wire.GRACE))
        except concurrent.futures.CancelledError as error:
            raise Cancelled("the request was cancelled") from error
        except concurrent.futures.TimeoutError as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise DeadlineExceeded(f"gRPC has not ended a request {wire.GRACE:g} s past its deadline") from error


def _result(index: int, image: ImageLike, reply: _Reply) -> Result:
    try:
        return Result(index, image, verdict=reply.verdict())
    except RoadworkError as error:
        return Result(index, image, error=error)
