"""The asyncio client: the same shape as `RoadworkClient`."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, TypeVar

import grpc
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
from tritonclient.utils import InferenceServerException

from roadwork_client import wire
from roadwork_client.errors import Cancelled, ClientClosed, InvalidOptions, RoadworkError
from roadwork_client.events import Event
from roadwork_client.images import ImageLike, encode
from roadwork_client.results import Result
from roadwork_client.verdict import Verdict

T = TypeVar("T")


class AsyncRoadworkClient:
    """Asks a Triton server whether street images show roadwork, from one event loop.

    The arguments are those of `RoadworkClient`. Cancelling a call cancels its request.
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
        # gRPC ties a channel to the running loop, and there may be none yet.
        self._channel: InferenceServerClient | None = None
        self._streams: grpc.aio.Channel | None = None
        self._closed = False

    @property
    def url(self) -> str:
        """HOST:PORT of the server."""
        return self._connection.url

    @property
    def _triton(self) -> InferenceServerClient:
        self._check_open()
        if self._channel is None:
            self._channel = InferenceServerClient(**self._connection.channel_arguments())
        return self._channel

    async def predict(
        self,
        image: ImageLike,
        *,
        deadline: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> Verdict:
        """The verdict on one image; as `RoadworkClient.predict`. Files are read and pixels encoded in a thread."""
        return await self._predict(image, deadline, wire.Wishes(all_stages, tiers, max_tokens, max_cost))

    async def _predict(self, image: ImageLike, deadline: float | None, wishes: wire.Wishes) -> Verdict:
        due = self._connection.deadline(deadline)
        triton = self._triton
        encoded = await _encoded(image)
        return wire.read_verdict(
            await self._guard(due, triton.infer(**self._connection.infer_arguments(encoded, due, wishes)))
        )

    async def stream(
        self,
        image: ImageLike,
        *,
        deadline: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """An event a step; as `RoadworkClient.stream`. Closing the iterator, or cancelling its task, cancels the work.

        After `break` an asynchronous iterator lives on until it is closed: `async with contextlib.aclosing(...)`.
        """
        wishes = wire.Wishes(all_stages, tiers, max_tokens, max_cost)
        due, stub = self._connection.deadline(deadline), self._stub()
        encoded = await _encoded(image)
        seconds = due.remaining()
        request = self._connection.stream_request(encoded, seconds, wishes)
        call = stub.ModelStreamInfer(iter([request]), **self._connection.stream_arguments(seconds))
        finished = False
        try:
            async for response in call:
                event = self._connection.read_stream(response, due)
                if event is None:
                    break
                finished = event.verdict is not None
                yield event
        except grpc.RpcError as error:
            if not finished:  # else the verdict is there, and only its stream's end is not
                raise self._connection.stream_error(error, due) from error
        except asyncio.CancelledError as error:
            if self._closed:
                raise Cancelled("the request was cancelled: the client was closed") from error
            raise
        finally:
            call.cancel()  # does nothing to one that has ended
        if not finished:
            raise self._connection.missing_verdict()

    def _stub(self) -> GRPCInferenceServiceStub:
        self._check_open()
        if self._streams is None:
            self._streams = self._connection.open_channel(aio=True)
        return GRPCInferenceServiceStub(self._streams)

    async def predict_many(
        self,
        images: Iterable[ImageLike] | AsyncIterable[ImageLike],
        *,
        in_flight: int = wire.DEFAULT_IN_FLIGHT,
        deadline: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> AsyncIterator[Result]:
        """A result for each image, in their order; as `RoadworkClient.predict_many`, from any kind of iterable."""
        if in_flight < 1:
            raise InvalidOptions(f"in_flight must be at least 1, not {in_flight}")
        wishes = wire.Wishes(all_stages, tiers, max_tokens, max_cost)
        source = aiter(images) if isinstance(images, AsyncIterable) else _drip(images)
        pending: deque[asyncio.Task[Result]] = deque()
        exhausted = False
        index = 0
        try:
            while pending or not exhausted:
                while not exhausted and len(pending) < in_flight and not (pending and pending[0].done()):
                    try:
                        image = await anext(source)
                    except StopAsyncIteration:
                        exhausted = True
                    else:
                        pending.append(asyncio.create_task(self._result(index, image, deadline, wishes)))
                        del image
                        index += 1
                if pending:
                    yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def health(self, *, deadline: float | None = None, all_stages: bool | None = None) -> wire.Health:
        """Send a real inference with a tiny image; as `RoadworkClient.health`."""
        start = time.monotonic()
        verdict = await self.predict(wire.PROBE, deadline=deadline, all_stages=all_stages)
        return wire.Health(self.url, (time.monotonic() - start) * 1000, verdict)

    async def is_live(self, *, deadline: float | None = None) -> bool:
        """Whether a server answers at all; as `RoadworkClient.is_live`."""
        return await self._ask(deadline, self._triton.is_server_live)

    async def metadata(self, *, deadline: float | None = None) -> wire.ServerInfo:
        """Names and versions of server and model; as `RoadworkClient.metadata`."""
        server = await self._ask(deadline, self._triton.get_server_metadata)
        model = await self._ask(deadline, self._triton.get_model_metadata, model_name=self._connection.model)
        return self._connection.server_info(server, model)

    async def close(self) -> None:
        """Cancel what is under way and close the channel; closing twice does nothing."""
        self._closed = True
        channel, self._channel = self._channel, None
        streams, self._streams = self._streams, None
        for opened in (channel, streams):
            if opened is not None:
                await opened.close()

    async def __aenter__(self) -> AsyncRoadworkClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _result(self, index: int, image: ImageLike, deadline: float | None, wishes: wire.Wishes) -> Result:
        try:
            return Result(index, image, verdict=await self._predict(image, deadline, wishes))
        except (ClientClosed, InvalidOptions):
            raise  # every further image would say the same
        except RoadworkError as error:
            return Result(index, image, error=error)

    async def _ask(self, seconds: float | None, call: Callable[..., Awaitable[T]], **arguments: Any) -> T:
        due = self._connection.deadline(seconds)
        return await self._guard(due, call(**arguments, **self._connection.call_arguments(due.remaining())))

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed; make a new one")

    async def _guard(self, due: wire.Deadline, call: Awaitable[T]) -> T:
        """Await `call` and translate its errors."""
        try:
            return await call
        except InferenceServerException as error:
            raise self._connection.error(error, due) from error
        except asyncio.CancelledError as error:
            # gRPC raises this too when the channel is closed below a call that nobody cancelled.
            if self._closed:
                raise Cancelled("the request was cancelled: the client was closed") from error
            raise


async def _encoded(image: ImageLike) -> bytes:
    return image if isinstance(image, bytes) and image else await asyncio.to_thread(encode, image)


async def _drip(images: Iterable[ImageLike]) -> AsyncIterator[ImageLike]:
    for image in images:
        yield image
