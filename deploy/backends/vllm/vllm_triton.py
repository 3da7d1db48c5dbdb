"""What backends of tiers share of Triton: the configuration's tensors, and a request's way to its session and back."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from vllm_answer import OUTPUTS, empty_answer
from vllm_request import INPUTS, RequestError, read_request
from vllm_session import Session

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def complete_config(model: Any) -> Any:
    """Add the tensors that a configuration lacks; make it decoupled and unbatched, as engines batch by themselves."""
    config = model.as_dict()
    have = {tensor["name"] for side in ("input", "output") for tensor in config[side]}
    for name, (kind, dims, optional) in INPUTS.items():
        if name not in have:
            more = {"optional": True} if optional else {}
            model.add_input({"name": name, "data_type": kind, "dims": dims, **more})
    for name, (kind, dims) in OUTPUTS.items():
        if name not in have:
            model.add_output({"name": name, "data_type": kind, "dims": dims})
    model.set_model_transaction_policy({"decoupled": True})
    model.set_max_batch_size(0)
    return model


def output_names(config: dict[str, Any]) -> set[str]:
    """Outputs that the model's configuration has; others are not sent."""
    return {tensor["name"] for tensor in config["output"]}


def answer_request(request: Any, session: Session, outputs: set[str]) -> None:
    """Begin a request of Triton's; its answers follow through its own response sender."""
    caller = SenderCaller(request.get_response_sender(), outputs)
    try:
        wanted = read_request(_tensors(request), request.parameters())
    except RequestError as error:
        session.post(caller.fail, str(error), "INVALID_ARG")
        return
    if wanted.abort is not None:
        session.abort(wanted.abort)
        session.post(caller.answer, empty_answer(), True)
    else:
        session.submit(caller, wanted, request.request_id())


class SenderCaller:
    """One request's response sender.

    Triton dereferences a request that has been answered when it is asked whether that is cancelled (2.51), and the
    whole server ends: so asking and answering take turns, and nobody asks behind the last answer.
    """

    def __init__(self, sender: Any, outputs: set[str]) -> None:
        self._sender = sender
        self._outputs = outputs
        self._begun = False
        self._ended = False
        self._turn = threading.Lock()

    def answer(self, tensors: dict[str, np.ndarray], final: bool) -> None:
        # In a variable, not a temporary: Triton 2.51 lets go of outputs that nobody asked for without the interpreter's
        # lock, and Python 3.12 dies where that frees them.
        made = [pb_utils.Tensor(name, array) for name, array in tensors.items() if name in self._outputs]
        with self._turn:
            self._begun, self._ended = True, final
            self._sender.send(pb_utils.InferenceResponse(output_tensors=made), flags=FINAL if final else 0)

    def fail(self, message: str, code: str) -> None:
        error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
        response = pb_utils.InferenceResponse(output_tensors=[], error=error)
        with self._turn:
            self._ended = True
            if not self._begun:
                self._sender.send(response, flags=FINAL)
                return
            # A BLS caller does not get an error behind other responses (Triton 2.51). Were the end not told by itself,
            # it would be lost with the error, and that caller would wait for ever.
            self._sender.send(response)
            self._sender.send(flags=FINAL)

    def cancelled(self) -> bool:
        with self._turn:
            return not self._ended and bool(self._sender.is_cancelled())


def _tensors(request: Any) -> Any:
    def tensor(name: str) -> np.ndarray | None:
        found = pb_utils.get_input_tensor_by_name(request, name)
        return None if found is None else found.as_numpy()

    return tensor
