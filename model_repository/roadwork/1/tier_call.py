"""One decoupled BLS call to a tier: NVIDIA's vLLM backend's tensors, consumed in a thread because iterating blocks."""

from __future__ import annotations

import base64
import json
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from roadwork_cascade.engine import EngineError, EngineTimeout, Piece, TokenLogprob, error_from_message

OUTPUTS = ["text_output", "finish_reason", "logprobs", "num_input_tokens", "num_output_tokens"]
RETURNS = ("return_finish_reason", "return_logprobs", "return_num_input_tokens", "return_num_output_tokens")

Hand = Callable[[Piece | EngineError | None], None]
"""Takes each piece, or the error that ends the call, and at last None."""

KEEP_SECONDS = 5.0


class Kept:
    """Holds finished calls' responses until the stub has let go of them itself.

    The stub keeps a reference too and drops it in a thread of its own, a moment after the last response, without the
    interpreter's lock: were it the last reference, Python objects would be freed there. Python 3.12 dies of that, older
    ones may be damaged (Triton 2.51; `ResponseIterator`, `Stub::SendCleanupId`). Threads may share it.

    A model does not unload while responses of its are held: so they are let go after `KEEP_SECONDS` whatever comes.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Any]] = deque()
        self._some = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, responses: Any) -> None:
        """Hold these from now on."""
        with self._some:
            self._kept.append((time.monotonic() + KEEP_SECONDS, responses))
            if self._thread is None:
                self._thread = threading.Thread(target=self._let_go, name="kept", daemon=True)
                self._thread.start()
            self._some.notify()

    def _let_go(self) -> None:
        while True:
            with self._some:
                while not self._kept:
                    self._some.wait()
                until = self._kept[0][0]
            time.sleep(max(0.0, until - time.monotonic()))
            with self._some:
                self._kept.popleft()


_KEPT = Kept()


class TierCall:
    """A call on its way. `run` and `stop` block: each belongs in a thread."""

    def __init__(
        self,
        model: str,
        prompt: str,
        images: Sequence[bytes],
        sampling: Mapping[str, Any],
        stream: bool,
        timeout: float,
    ) -> None:
        self._model = model
        self._id = uuid.uuid4().hex
        self._stream = stream
        self._until = time.monotonic() + timeout
        self._stopped = False
        self._responses: Any = None
        inputs = [
            _texts("text_input", [prompt.encode()]),
            _texts("sampling_parameters", [json.dumps(dict(sampling)).encode()]),
            _flag("stream", stream),
            _flag("exclude_input_in_output", True),
            *(_flag(name, True) for name in RETURNS),
        ]
        if images:
            inputs.append(_texts("image", [base64.b64encode(image) for image in images]))
        self._request = pb_utils.InferenceRequest(
            model_name=model,
            request_id=self._id,
            requested_output_names=OUTPUTS,
            inputs=inputs,
            parameters={"deadline_ms": max(1, math.ceil(timeout * 1000))},
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )

    def run(self, hand: Hand) -> None:
        """Make the call and hand over what comes, until it ends."""
        finished = False
        try:
            if self._stopped:
                return  # before it had a thread
            self._responses = self._request.exec(decoupled=True)
            for response in self._responses:
                if self._stopped:
                    continue  # nobody listens any more, but the server wants its responses taken
                if response.has_error():
                    raise error_from_message(self._model, response.error().message())
                tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
                if not tensors:
                    continue  # the last response may be empty
                try:
                    piece = read_piece(self._model, tensors)
                    finished = piece.finish_reason is not None
                    hand(piece)
                except EngineError as error:
                    self._stopped = True
                    hand(error)
            if self._stream and not finished and not self._stopped:
                # Triton 2.51 keeps an error that comes behind other responses to itself.
                raise EngineError(f"{self._model}: its answer broke off")
        except EngineError as error:
            # The engine keeps the deadline too, and may be the first to say that it has passed.
            hand(EngineTimeout(str(error)) if time.monotonic() >= self._until else error)
        except pb_utils.TritonModelException as error:
            hand(error_from_message(self._model, str(error)))
        except Exception as error:
            hand(EngineError(f"{self._model}: {type(error).__name__}: {error}"))
        finally:
            if self._responses is not None:
                _KEPT.add(self._responses)
            hand(None)

    def stop(self) -> None:
        """Let the engine stop its work. What it had begun may still come to an end first."""
        self._stopped = True
        cancel = getattr(self._responses, "cancel", None)  # from Triton 25.04 on
        if cancel is not None:
            cancel()
            return
        abort = pb_utils.InferenceRequest(
            model_name=self._model,
            requested_output_names=["text_output"],
            # A backend that does not know the parameter would answer this prompt: with one token.
            inputs=[_texts("text_input", [b"."]), _texts("sampling_parameters", [b'{"max_tokens": 1}'])],
            parameters={"abort": self._id},
        )
        responses = abort.exec(decoupled=True)
        _KEPT.add(responses)
        for _ in responses:
            pass


def read_piece(model: str, tensors: Mapping[str, np.ndarray]) -> Piece:
    """A response's tensors as a piece. Raises `EngineError` where they are not the contract's."""
    try:
        reason = _text(tensors, "finish_reason")
        return Piece(
            text=_text(tensors, "text_output"),
            logprobs=_logprobs(_text(tensors, "logprobs")),
            input_tokens=_count(tensors, "num_input_tokens"),
            output_tokens=_count(tensors, "num_output_tokens"),
            finish_reason=None if reason in ("", "None") else reason,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{model}: unreadable answer: {type(error).__name__}: {error}") from None


def _logprobs(text: str) -> list[dict[int, TokenLogprob]]:
    """`null` where none were asked for. JSON keeps the order: the token that was said comes first."""
    return [
        {
            int(token): TokenLogprob(float(entry["logprob"]), entry.get("rank"), entry.get("decoded_token") or "")
            for token, entry in tokens.items()
        }
        for tokens in json.loads(text or "null") or []
    ]


def _text(tensors: Mapping[str, np.ndarray], name: str) -> str:
    """The first element of a STRING tensor; a request here has one answer."""
    array = tensors.get(name)
    if array is None or array.size == 0:
        return ""
    value = array.reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _count(tensors: Mapping[str, np.ndarray], name: str) -> int:
    array = tensors.get(name)
    return 0 if array is None or array.size == 0 else int(array.reshape(-1)[0])


def _texts(name: str, values: Sequence[bytes]) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype=np.object_))


def _flag(name: str, value: bool) -> Any:
    return pb_utils.Tensor(name, np.array([value], dtype=bool))
