"""ONNX Runtime as a python-based Triton backend, for hosts without NVIDIA's containers.

tritonserver takes a backend's shared library where there is one, so the containers go on using NVIDIA's C++ backend;
elsewhere this file serves the same `config.pbtxt`. What a configuration means is in `ort_settings`, how requests are
put together in `ort_batch`; this file only translates between Triton and them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from ort_batch import Job, Run, fill_up, run_jobs
from ort_providers import choose_providers, describe
from ort_session import find_file, open_session
from ort_settings import ConfigError, Settings, read_settings
from ort_signature import blank, check_signature, complete

TIMED_ROUNDS = 5  # of each size of a batch, at load

FAILURE_SECONDS = 0.1
"""A failure is told no sooner than this after its request came. Where a step of an ensemble fails before Triton has
handed out the steps beside it, Triton up to 26.04 ends with a segmentation fault (triton-inference-server/core#483).
Handing them out takes microseconds, and on a busy machine as long as others are let run in between: 10 ms were too few.
"""


class TritonPythonModel:
    """One instance of one ONNX model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in tensors that a configuration leaves out, as the C++ backend does.

        Core does not say where the repository is, so a server that wants this sets TRITON_MODEL_REPOSITORY.
        """
        config = auto_complete_model_config.as_dict()
        repository = os.environ.get("TRITON_MODEL_REPOSITORY")
        if (config.get("input") and config.get("output")) or not repository:
            return auto_complete_model_config
        folder = Path(repository) / config["name"]
        versions = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        if not versions:
            return auto_complete_model_config
        path = find_file(config["name"], versions[-1], config.get("default_model_filename", ""))
        session, _ = open_session(path, Settings(graph_level="ORT_DISABLE_ALL"), [("CPUExecutionProvider", {})])
        found = complete(config, session.get_inputs(), session.get_outputs())
        if "max_batch_size" in found:
            auto_complete_model_config.set_max_batch_size(found["max_batch_size"])
            auto_complete_model_config.set_dynamic_batching()
        for tensor in found.get("input", ()):
            auto_complete_model_config.add_input(tensor)
        for tensor in found.get("output", ()):
            auto_complete_model_config.add_output(tensor)
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session and check its signature; an error here is the model's load error."""
        config = json.loads(args["model_config"])
        name = args["model_name"]
        try:
            self._open(name, config, args)
        except ConfigError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def _open(self, name: str, config: dict[str, Any], args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        path = find_file(name, folder, config.get("default_model_filename", ""))
        settings = read_settings(config)
        import onnxruntime as ort

        kind, device = args["model_instance_kind"], int(args["model_instance_device_id"])
        providers, missing = choose_providers(name, settings, kind, device, ort.get_available_providers())
        for line in missing if _is_first(args["model_instance_name"]) else ():
            pb_utils.Logger.log_warn(line)
        self._session, self._run_options = open_session(path, settings, providers)
        self._inputs, outputs = check_signature(
            str(path),
            config,
            self._session.get_inputs(),
            self._session.get_outputs(),
            self._session.get_overridable_initializers(),
        )
        self._outputs = {tensor.name: tensor for tensor in outputs}
        self._batched = int(config.get("max_batch_size", 0)) > 0
        self._run = self._runner(self._session)
        threads = settings.request_threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="request") if threads > 1 else None
        self._free = threading.Semaphore(threads)
        if self._batched and settings.batch_sizes:
            first, *others = settings.batch_sizes
            sessions = {first: self._session}
            for size in others:
                # ONNX Runtime's CUDA provider keeps the convolutions' plans of the last shape alone (since 1.20): a
                # session that meets two sizes in turn plans all of them at every change.
                sessions[size] = open_session(path, settings, providers)[0] if kind == "GPU" else self._session
            runs = {size: self._runner(session) for size, session in sessions.items()}
            self._run = fill_up(runs, self._try_out(args["model_instance_name"], runs))
        pb_utils.Logger.log_info(
            f"{args['model_instance_name']}: {path.name} on {describe(providers)}, "
            f"threads {settings.intra_op_threads or 'by ONNX Runtime'}"
        )

    def execute(self, requests: list) -> list | None:
        """One response a request; a request's error is its own.

        With `request_threads` the responses are sent as they are ready, and this returns as soon as a thread is free
        for the next request: waiting for all of them would leave threads idle behind the slowest.
        """
        if self._pool is None:
            return self._answer(requests)
        for request in requests:
            self._free.acquire()
            self._pool.submit(self._answer_alone, request, request.get_response_sender())
        with self._free:
            return None

    def finalize(self) -> None:
        """Let the threads end."""
        if self._pool is not None:
            self._pool.shutdown()

    def _answer(self, requests: list) -> list:
        began = time.monotonic()
        jobs: list[Job] = []
        for request in requests:
            job = Job({}, [name for name in request.requested_output_names() if name in self._outputs])
            try:
                self._read(request, job)
            except Exception as error:
                job.error = str(error)
            jobs.append(job)
        run_jobs([job for job in jobs if job.error is None], self._run, self._batched)
        if any(job.error is not None for job in jobs):
            time.sleep(max(0.0, began + FAILURE_SECONDS - time.monotonic()))
        return [self._response(job) for job in jobs]

    def _answer_alone(self, request: Any, sender: Any) -> None:
        try:
            (response,) = self._answer([request])
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:  # nobody looks at what a thread raises, and the request would have no answer
            pb_utils.Logger.log_error(f"a response could not be sent: {type(error).__name__}: {error}")
            message = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            sender.send(message, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            self._free.release()

    def _read(self, request: Any, job: Job) -> None:
        for tensor in self._inputs:
            found = pb_utils.get_input_tensor_by_name(request, tensor.name)
            if found is not None:
                job.inputs[tensor.name] = tensor.to_model(found.as_numpy(), self._batched)
            elif not tensor.optional:
                raise ValueError(f"input '{tensor.name}' is missing")

    def _try_out(self, instance: str, runs: Mapping[int, Run]) -> dict[int, float] | None:
        """Seconds that each size of a batch takes; None where the signature does not say what a batch is.

        The first run of a shape plans its convolutions, and is no measure of the others.
        """
        names, inputs = list(self._outputs), {size: blank(self._session.get_inputs(), size) for size in runs}
        if any(given is None for given in inputs.values()):
            return None
        first = {size: _timed(run, names, inputs[size]) for size, run in runs.items()}
        # Sizes in turn: other networks load at the same time, and have to slow all of them alike.
        rounds = [{size: _timed(run, names, inputs[size]) for size, run in runs.items()} for _ in range(TIMED_ROUNDS)]
        seconds = {size: min(times[size] for times in rounds) for size in runs}
        for size in runs:
            pb_utils.Logger.log_info(
                f"{instance}: first batch of {size} took {first[size]:.1f} s, then {1000 * seconds[size]:.1f} ms"
            )
        return seconds

    def _runner(self, session: Any) -> Run:
        return lambda names, inputs: session.run(names, inputs, self._run_options)

    def _response(self, job: Job) -> Any:
        if job.error is not None or job.outputs is None:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(job.error or "the model gave no outputs"))
        tensors = [
            pb_utils.Tensor(name, self._outputs[name].to_triton(array, self._batched))
            for name, array in job.outputs.items()
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _timed(run: Run, names: list[str], inputs: Any) -> float:
    began = time.monotonic()
    run(names, inputs)
    return time.monotonic() - began


def _is_first(instance: str) -> bool:
    """Whether this is instance 0 of group 0 (core names them model_0_0, model_0_1, ...): it speaks for all."""
    return instance.endswith("_0_0") or instance.endswith("_0")
