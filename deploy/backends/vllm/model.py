"""vLLM as a python-based Triton backend, for hosts without NVIDIA's containers.

The contract is NVIDIA's vLLM backend's (`config.pbtxt`, `1/model.json`, tensors, errors on the stream), which the
containers go on using; this one also decodes images off the engine's thread and takes the request parameters
`deadline_ms` and `abort`. This file only translates between Triton and `vllm_session`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from vllm_answer import OUTPUTS, empty_answer
from vllm_engine import Engine, EngineError, engine_names
from vllm_environment import prepare_cpu, prepare_environment, prepare_gpu
from vllm_guard import spare_the_exit
from vllm_images import read_limits
from vllm_request import INPUTS, RequestError, read_request
from vllm_session import Session
from vllm_settings import Settings, SettingsError, check_device, read_settings

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One engine."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Add the tensors that a configuration lacks; make it decoupled and unbatched, as the engine batches itself."""
        config = auto_complete_model_config.as_dict()
        have = {tensor["name"] for side in ("input", "output") for tensor in config[side]}
        for name, (kind, dims, optional) in INPUTS.items():
            if name not in have:
                more = {"optional": True} if optional else {}
                auto_complete_model_config.add_input({"name": name, "data_type": kind, "dims": dims, **more})
        for name, (kind, dims) in OUTPUTS.items():
            if name not in have:
                auto_complete_model_config.add_output({"name": name, "data_type": kind, "dims": dims})
        auto_complete_model_config.set_model_transaction_policy({"decoupled": True})
        auto_complete_model_config.set_max_batch_size(0)
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; an error here is the model's load error."""
        self._session: Any = None
        self._engine: Any = None
        self._metrics: list[Any] = []
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self._outputs = {tensor["name"] for tensor in config["output"]}
        prepare_environment()
        try:
            self._open(config, args)
        except BaseException as error:
            self.finalize()
            # Whatever vLLM raises has to become one line: Triton logs it and answers the load with it.
            text = str(error) if isinstance(error, (SettingsError, EngineError)) else repr(error)
            raise pb_utils.TritonModelException(text) from None

    def _open(self, config: dict[str, Any], args: dict[str, str]) -> None:
        if importlib.util.find_spec("vllm") is None:
            install = "python -m roadwork_deploy.install_vllm"
            raise SettingsError(f"{self._name}: vLLM is not installed; install it with: {install}")
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = read_settings(self._name, folder, config, engine_names)
        self._place(args, settings)
        from vllm.platforms import current_platform

        if current_platform.is_cpu():
            prepare_cpu(settings.engine, settings.threads)
        else:
            prepare_gpu(settings.threads)
        loggers = self._loggers(args) if settings.metrics else []
        self._engine = Engine(self._name, settings, loggers, pb_utils.Logger.log_warn, self._lost)
        self._engine.start()
        try:
            limits = read_limits(settings.parameters, self._engine.image_count)
        except ValueError as error:
            raise SettingsError(f"{self._name}: {error}") from None
        self._session = Session(self._engine, limits, pb_utils.Logger.log_error)

    def _place(self, args: dict[str, str], settings: Settings) -> None:
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        check_device(self._name, kind, settings.engine)
        if kind == "GPU" and device >= 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(device)

    def _loggers(self, args: dict[str, str]) -> list[Any]:
        from vllm_metrics import stat_logger

        labels = {"model": args["model_name"], "version": args["model_version"]}
        try:
            pb_utils.MetricFamily(name="vllm:probe", description="unused", kind=pb_utils.MetricFamily.COUNTER)
        except pb_utils.TritonModelException as error:
            pb_utils.Logger.log_info(f"{self._name}: no metrics, the server has them off ({error})")
            return []
        return [stat_logger(pb_utils.MetricFamily, labels, self._metrics)]

    def _lost(self) -> None:
        """The engine will not come back: the model becomes not ready (in explicit model control mode)."""
        with contextlib.suppress(Exception):
            pb_utils.unload_model(self._name)

    def execute(self, requests: list) -> None:
        """Begin every request; answers follow through its own response sender."""
        for request in requests:
            caller = _Caller(request.get_response_sender(), self._outputs)
            try:
                wanted = read_request(_tensors(request), request.parameters())
            except RequestError as error:
                self._session.post(caller.fail, str(error), "INVALID_ARG")
                continue
            if wanted.abort is not None:
                self._session.abort(wanted.abort)
                self._session.post(caller.answer, empty_answer(), True)
            else:
                self._session.submit(caller, wanted, request.request_id())

    def finalize(self) -> None:
        """End requests, engine and threads."""
        if self._session is not None:
            self._session.close()
        if self._engine is not None:
            self._engine.close()
        for metrics in self._metrics:
            metrics.close()
        self._session = self._engine = None
        spare_the_exit()
        gc.collect()  # engines of several processes leave cycles that keep the stub from ending
        gc.freeze()  # what is left, modules above all, need not be looked through again at the interpreter's end


class _Caller:
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
