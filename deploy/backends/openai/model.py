"""A tier that lives in another server with an OpenAI-compatible API, as a python-based Triton backend.

The tensors are those of the vllm backend (docs/contracts.md), whose modules are used for what both share; settings are
in `1/remote.json` (docs/remote_tiers.md). This file only translates between Triton and `vllm_session`.
"""

from __future__ import annotations

import json
import locale
import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

# The vllm backend lies beside this one; where NVIDIA's does, its modules are copied into this folder.
sys.path.append(str(Path(__file__).resolve().parents[1] / "vllm"))

from remote_engine import RemoteEngine
from remote_images import data_url
from remote_settings import read_remote
from vllm_engine import EngineError
from vllm_images import read_limits
from vllm_session import Session
from vllm_settings import SettingsError, check_decoupled
from vllm_triton import answer_request, complete_config, output_names


class TritonPythonModel:
    """One remote model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Add the tensors that a configuration lacks; make it decoupled and unbatched, as the server batches itself."""
        return complete_config(auto_complete_model_config)

    def initialize(self, args: dict[str, str]) -> None:
        """Find the server; an error here is the model's load error."""
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        self._session: Any = None
        self._engine: Any = None
        config = json.loads(args["model_config"])
        self._outputs = output_names(config)
        try:
            self._open(args["model_name"], config, args)
        except BaseException as error:
            self.finalize()
            # Whatever goes wrong has to become one line: Triton logs it and answers the load with it.
            text = str(error) if isinstance(error, (SettingsError, EngineError)) else repr(error)
            raise pb_utils.TritonModelException(text) from None

    def _open(self, name: str, config: dict[str, Any], args: dict[str, str]) -> None:
        check_decoupled(name, config)
        settings = read_remote(Path(args["model_repository"]) / args["model_version"])
        parameters = {k: str(v.get("string_value", "")) for k, v in (config.get("parameters") or {}).items()}
        try:
            limits = read_limits(parameters, 1)
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None
        if settings.key and settings.url.startswith("http://"):
            pb_utils.Logger.log_warn(f"{name}: the key goes to {settings.url} unencrypted")
        self._engine = RemoteEngine(name, settings, pb_utils.Logger.log_warn)
        self._engine.start()
        self._session = Session(self._engine, limits, pb_utils.Logger.log_error, data_url)

    def execute(self, requests: list) -> None:
        """Begin every request; answers follow through its own response sender."""
        for request in requests:
            answer_request(request, self._session, self._outputs)

    def finalize(self) -> None:
        """End requests, connections and threads."""
        if self._session is not None:
            self._session.close()
        if self._engine is not None:
            self._engine.close()
        self._session = self._engine = None
