"""vLLM's own HTTP server on the CPU, as another machine would run it; started again where a test has killed it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START = 240.0  # seconds that an engine may take to start on a busy machine
ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


class VllmServe:
    """Serves a tier's weights on a free port of 127.0.0.1, under one key.

    Args:
        repository: folder of models.
        tier: its folder there; the server's flags are those of its `1/model.json`.
        model: name under which it is served.
        key: that it asks of its callers.
        log: file for its output.
    """

    def __init__(self, repository: Path, tier: str, model: str, key: str, log: Path) -> None:
        self.model, self.key, self.log = model, key, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._repository = repository
        self._settings = json.loads((repository / tier / "1" / "model.json").read_text())
        self._process: subprocess.Popen | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return when it answers; nothing to do where it runs. Raises RuntimeError with the end of its log."""
        from roadwork_deploy.launch import launch_command

        if self.alive:
            return
        command = launch_command(self._settings, "vllm", model_name=self.model, host="127.0.0.1", port=self.port)
        # `vllm serve` itself wants the metadata of a package called vllm, which the CPU build has under another name.
        assert command.arguments[:2] == ["vllm", "serve"]
        _, _, weights, *flags = command.arguments
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", weights]
        more = ["--api-key", self.key, "--distributed-executor-backend", "uni"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*module, *flags, *more], cwd=self._repository, env={**os.environ, **ENVIRONMENT},
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + START
        while not self._answers():
            if not self.alive or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"vLLM's server does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        request = urllib.request.Request(f"{self.url}/models", headers={"Authorization": f"Bearer {self.key}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def running(self) -> float:
        """Requests in its engine, by its own metrics page."""
        return self._metric("vllm:num_requests_running")

    def made(self) -> float:
        """Tokens that it has made since it runs."""
        return self._metric("vllm:generation_tokens_total")

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))

    def stop(self) -> None:
        """Let it end: killed, it leaves shared memory behind."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
        self.kill()

    def kill(self) -> None:
        """End it and its engine at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None
