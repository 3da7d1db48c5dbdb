"""Ask a Triton server whether street images show roadwork."""

from importlib.metadata import PackageNotFoundError, version

from roadwork_client.aio import AsyncRoadworkClient
from roadwork_client.client import RoadworkClient
from roadwork_client.errors import (
    AccessDenied,
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    InvalidImage,
    InvalidOptions,
    ModelNotReady,
    ProtocolError,
    RoadworkError,
    ServerBusy,
    ServerError,
    ServerUnavailable,
)
from roadwork_client.events import Event
from roadwork_client.results import Result
from roadwork_client.verdict import Answer, Box, Missing, Stage, Tier, Tokens, Verdict, Word
from roadwork_client.wire import TLS, Health, ServerInfo

try:
    __version__ = version("roadwork")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+source"

__all__ = [
    "TLS",
    "AccessDenied",
    "Answer",
    "AsyncRoadworkClient",
    "Box",
    "Cancelled",
    "ClientClosed",
    "DeadlineExceeded",
    "Event",
    "Health",
    "InvalidImage",
    "InvalidOptions",
    "Missing",
    "ModelNotReady",
    "ProtocolError",
    "Result",
    "RoadworkClient",
    "RoadworkError",
    "ServerBusy",
    "ServerError",
    "ServerInfo",
    "ServerUnavailable",
    "Stage",
    "Tier",
    "Tokens",
    "Verdict",
    "Word",
    "__version__",
]
