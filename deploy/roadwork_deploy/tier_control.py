"""`roadwork-deploy tier load|unload`: a tier comes into a running server, or gives its memory back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roadwork_deploy import logs
from roadwork_deploy.errors import StartError
from roadwork_deploy.probe import probe_tier

POLL_SECONDS = 0.1
ANSWER_SECONDS = 60.0
"""For its first answer; a load that is over has an engine that runs."""


class TierError(StartError):
    """The tier did not come or go; one line that says why."""


def load_tier(grpc_url: str, name: str, repository: Path, timeout: float) -> float:
    """Load a tier, or load it again with changed settings, and wait until it has answered a question.

    Args:
        grpc_url: HOST:PORT of a server in explicit model control mode.
        name: of its folder.
        repository: where its `prompt.json` is found for the question; a server elsewhere has its own copy.
        timeout: seconds for the engine to start.

    Returns:
        Seconds until it had answered.

    Raises:
        TierError: no server, none that loads on demand, or the tier does not start.
        ProbeError: it is loaded and does not answer.
    """

    def work(client: Any) -> None:
        client.load_model(name, client_timeout=timeout)
        probe_tier(client, name, ANSWER_SECONDS, repository / name / "prompt.json")

    return _timed(grpc_url, name, timeout, work)


def unload_tier(grpc_url: str, name: str, timeout: float) -> float:
    """Unload a tier and wait until it is gone; requests under way are ended. The other models go on.

    Args, returns and errors as `load_tier`; the seconds are those until its processes have ended.
    """

    def work(client: Any) -> None:
        until = time.monotonic() + timeout
        if _state(client, name) is None:
            raise TierError(f"{name} is not in the server's repository")
        client.unload_model(name, client_timeout=timeout)
        while (state := _state(client, name)) not in ("", "UNAVAILABLE", None):
            if time.monotonic() > until:
                raise TierError(
                    f"{name} is not gone after {timeout:g} s: the server calls it {state}, as one of its requests has "
                    "not ended or was cancelled just as it was answered (docs/contracts.md); roadwork-deploy tier load "
                    f"{name} brings it back all the same, its memory is free again when the server is started again"
                )
            time.sleep(POLL_SECONDS)

    return _timed(grpc_url, name, timeout, work)


def _timed(grpc_url: str, name: str, timeout: float, work: Callable[[Any], None]) -> float:
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException

    began = time.monotonic()
    try:
        with grpc.InferenceServerClient(grpc_url) as client:
            work(client)
    except InferenceServerException as error:
        raise TierError(_line(grpc_url, name, timeout, error)) from None
    return time.monotonic() - began


def _line(grpc_url: str, name: str, timeout: float, error: Any) -> str:
    said, status = str(error.message()), str(error.status())
    if "DEADLINE_EXCEEDED" in status:
        return f"{name}: no answer from {grpc_url} within {timeout:g} s; raise --timeout or see the server's log"
    if "UNAVAILABLE" in status and "version" not in said:
        return f"no server answers at {grpc_url}; name it with --grpc-url HOST:PORT"
    if "model load / unload is not allowed" in said:
        return f"the server at {grpc_url} loads nothing on demand; start it with --model-control-mode=explicit"
    return f"{name}: {logs.load_error(said)}"


def _state(client: Any, name: str) -> str | None:
    """How the server's repository index calls it, "" where it was never loaded; None where it does not know it."""
    index = client.get_model_repository_index(client_timeout=10.0)
    states = [model.state for model in index.models if model.name == name]
    return next((state for state in states if state not in ("", "UNAVAILABLE")), states[0] if states else None)
