"""What can go wrong with a request, as one tree of exceptions.

Every message says what happened and what to do. `retryable` says whether the same request may succeed when it is
sent again later; gRPC has then already tried twice where that was safe (see `wire.SERVICE_CONFIG`).
"""

from __future__ import annotations

from tritonclient.utils import InferenceServerException

# Prefixes of the contract: ensembles and BLS rewrite error codes, so only the text survives.
INVALID_IMAGE = "INVALID_IMAGE: "
INVALID_OPTIONS = "INVALID_OPTIONS: "


class RoadworkError(Exception):
    """Base of everything that the client raises about a request.

    retryable: whether the same request may succeed when it is sent again.
    """

    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return self.message


class ServerUnavailable(RoadworkError):
    """No server answers: it is not running, unreachable, or went away in mid request."""

    retryable = True


class ServerBusy(ServerUnavailable):
    """The server answers, but its queue is full or this request waited in it for too long."""


class ModelNotReady(RoadworkError):
    """The server runs, but the model is not loaded (yet). Not retryable when the server has never heard of it."""

    retryable = True


class DeadlineExceeded(RoadworkError, TimeoutError):
    """The answer did not come within the caller's deadline."""

    retryable = True


class InvalidImage(RoadworkError, ValueError):
    """This image cannot be used: unreadable, not an image, damaged, or over a limit."""


class InvalidOptions(RoadworkError, ValueError):
    """The options of the request (deadline, stages) cannot be used."""


class Cancelled(RoadworkError):
    """The request was cancelled: by the caller, by closing the client, or by the server."""


class ClientClosed(RoadworkError):
    """The client was used after it had been closed."""


class AccessDenied(RoadworkError):
    """The server, or a proxy before it, does not accept the credentials."""


class ServerError(RoadworkError):
    """The server failed while it worked on the request."""


class ProtocolError(RoadworkError):
    """The other side does not speak as this client expects: not Triton, or another version of the models."""


def _after(prefix: str, text: str) -> str:
    """The text behind `prefix`, without the brackets and traces that servers append."""
    return text.split(prefix, 1)[1].splitlines()[0].strip()


def from_triton(error: InferenceServerException, *, url: str, model: str, deadline: float) -> RoadworkError:
    """Translate what tritonclient raised into one of this module's exceptions.

    url: HOST:PORT, model: name, deadline: seconds that the request had; all three are for the message.
    """
    text = error.message() or "no details"
    code = (error.status() or "").removeprefix("StatusCode.")
    lowered = text.lower()
    if INVALID_IMAGE in text:
        return InvalidImage(f"the server cannot use this image: {_after(INVALID_IMAGE, text)}")
    if INVALID_OPTIONS in text:
        return InvalidOptions(f"the server cannot use these options: {_after(INVALID_OPTIONS, text)}")
    if code == "CANCELLED":
        return Cancelled(f"the request was cancelled ({text})")
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(
            f"no answer from {url} within {deadline:g} s; give a longer deadline, keep fewer requests in flight, "
            "or check the server with `roadwork health`"
        )
    if "unknown model" in lowered or (code in ("UNAVAILABLE", "NOT_FOUND") and "not ready" in lowered):
        known = "not found" not in lowered
        return ModelNotReady(
            f"the server at {url} has no model '{model}' to ask ({text}); "
            + ("wait until it is loaded" if known else "check the model's name and what the server's profile loads"),
            retryable=known,
        )
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in lowered:
        return InvalidImage(
            f"the image is too large to send ({text}); send a smaller file, or raise `max_message_bytes` "
            "here and the limit of the server"
        )
    if code == "RESOURCE_EXHAUSTED" or (
        code == "UNAVAILABLE" and ("queue" in lowered or "timeout expired" in lowered or "rate limit" in lowered)
    ):
        return ServerBusy(f"the server at {url} has too much to do ({text}); try again later with fewer in flight")
    if code == "UNAVAILABLE":
        return ServerUnavailable(
            f"no server answers at {url} ({text}); start one with `roadwork-deploy serve`, or name another HOST:PORT"
        )
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return AccessDenied(f"the server at {url} refuses access ({text}); check `headers` and `tls`")
    if code in ("UNIMPLEMENTED", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE"):
        return ProtocolError(
            f"the server at {url} does not take the request ({code}: {text}); "
            "check that this is Triton's gRPC port and that client and model repository are of one version"
        )
    # A stub process that died is started again, and a broken stream says nothing about the request.
    transient = "stub process" in lowered or "rst_stream" in lowered or "connection" in lowered
    return ServerError(
        f"the server at {url} failed on this request ({code or 'no code'}: {text}); its log says more",
        retryable=transient,
    )
