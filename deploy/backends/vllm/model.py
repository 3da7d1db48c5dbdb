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
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from vllm_engine import Engine, EngineError, engine_names
from vllm_environment import prepare_cpu, prepare_environment, prepare_gpu
from vllm_guard import spare_the_exit
from vllm_images import read_limits
from vllm_overlay import OverlayError, read_gpus, show_only
from vllm_session import Session
from vllm_settings import Settings, SettingsError, check_device, check_sleep, read_settings
from vllm_sleep import State
from vllm_triton import answer_request, complete_config, output_names


class TritonPythonModel:
    """One engine."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Add the tensors that a configuration lacks; make it decoupled and unbatched, as the engine batches itself."""
        return complete_config(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; an error here is the model's load error."""
        self._session: Any = None
        self._engine: Any = None
        self._metrics: list[Any] = []
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self._outputs = output_names(config)
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

        check_sleep(self._name, settings.sleep, current_platform.is_sleep_mode_available())
        if current_platform.is_cpu():
            prepare_cpu(settings.engine, settings.threads)
        else:
            prepare_gpu(settings.threads)
        loggers = self._loggers(args) if settings.metrics else []
        self._engine = Engine(self._name, settings, loggers, pb_utils.Logger.log_warn, self._lost, self._slept)
        self._engine.start()
        try:
            limits = read_limits(settings.parameters, self._engine.image_count)
        except ValueError as error:
            raise SettingsError(f"{self._name}: {error}") from None
        self._session = Session(self._engine, limits, pb_utils.Logger.log_error)

    def _place(self, args: dict[str, str], settings: Settings) -> None:
        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        check_device(self._name, kind, settings.engine)
        ranks = int(settings.engine.get("tensor_parallel_size", 1)) * int(
            settings.engine.get("pipeline_parallel_size", 1)
        )
        try:
            gpus = read_gpus(self._name, settings.parameters, ranks)
            if not gpus and kind == "GPU" and device >= 0:
                gpus = (device,)
            if gpus:
                show_only(self._name, gpus, os.environ)
        except OverlayError as error:
            raise SettingsError(str(error)) from None

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

    def _slept(self, state: State, seconds: float | None) -> None:
        for metrics in self._metrics:
            metrics.slept(state, seconds)

    def execute(self, requests: list) -> None:
        """Begin every request; answers follow through its own response sender."""
        for request in requests:
            answer_request(request, self._session, self._outputs)

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
