"""From what gRPC and Triton say to the client's exceptions."""

from __future__ import annotations

import pytest
import roadwork_client
from roadwork_client import errors
from roadwork_client.errors import RoadworkError, from_triton
from tritonclient.utils import InferenceServerException


@pytest.mark.parametrize(
    ("code", "text", "kind", "retryable"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", errors.ServerUnavailable, True),
        ("UNAVAILABLE", "Socket closed", errors.ServerUnavailable, True),
        ("UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", errors.ServerBusy, True),
        ("UNAVAILABLE", "Request timeout expired", errors.ServerBusy, True),
        ("UNAVAILABLE", "Request for unknown model: 'roadwork' is not ready", errors.ModelNotReady, True),
        ("UNAVAILABLE", "Request for unknown model: 'roadwork' has no available versions", errors.ModelNotReady, True),
        ("NOT_FOUND", "Request for unknown model: 'roadwork' is not found", errors.ModelNotReady, False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", errors.DeadlineExceeded, True),
        ("CANCELLED", "CANCELLED", errors.Cancelled, False),
        ("INTERNAL", "in ensemble 'glance', INVALID_IMAGE: not a JPEG", errors.InvalidImage, False),
        ("INVALID_ARGUMENT", "INVALID_OPTIONS: deadline_ms: -1", errors.InvalidOptions, False),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (9 vs. 4)", errors.InvalidImage, False),
        ("RESOURCE_EXHAUSTED", "out of memory", errors.ServerBusy, True),
        ("UNAUTHENTICATED", "who are you", errors.AccessDenied, False),
        ("UNIMPLEMENTED", "unknown service", errors.ProtocolError, False),
        ("INVALID_ARGUMENT", "unexpected inference input 'options'", errors.ProtocolError, False),
        ("INTERNAL", "Stub process 'roadwork_0_0' is not healthy.", errors.ServerError, True),
        ("INTERNAL", "Traceback", errors.ServerError, False),
        (None, "odd", errors.ServerError, False),
    ],
)
def test_codes_and_texts(code: str | None, text: str, kind: type[RoadworkError], retryable: bool) -> None:
    raised = InferenceServerException(text, status=f"StatusCode.{code}" if code else None)
    error = from_triton(raised, url="somewhere:8001", model="roadwork", deadline=3)
    assert type(error) is kind
    assert error.retryable is retryable
    assert len(str(error)) > 20


def test_messages_say_what_to_do() -> None:
    def said(code: str, text: str) -> str:
        raised = InferenceServerException(text, status=f"StatusCode.{code}")
        return str(from_triton(raised, url="somewhere:8001", model="roadwork", deadline=3))

    assert "roadwork-deploy serve" in said("UNAVAILABLE", "refused")
    assert "within 3 s; give a longer deadline" in said("DEADLINE_EXCEEDED", "x")
    assert "check the model's name" in said("NOT_FOUND", "Request for unknown model: 'roadwork' is not found")
    # Only this request's line, and no trace behind it.
    assert said("INTERNAL", "Failed: INVALID_IMAGE: truncated JPEG\n\nAt:\n  model.py(3)").endswith("truncated JPEG")


def test_one_tree() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    ours = [kind for kind in tree if kind.__module__ == errors.__name__]
    assert len(ours) == 12
    assert all(issubclass(kind, RoadworkError) for kind in ours)
    assert {kind.__name__ for kind in ours} <= set(roadwork_client.__all__)
    assert issubclass(errors.DeadlineExceeded, TimeoutError)
    assert issubclass(errors.InvalidImage, ValueError)
