"""vLLM's own server with a tier's engine settings, and the process that asks it: a side of `roadwork-bench tier`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadwork_deploy.launch import launch_command

from roadwork_bench.errors import BenchError
from roadwork_bench.peering.keeping import VARIABLE, Keeper
from roadwork_bench.tiers.folder import Subject
from roadwork_bench.tiers.sides import GRACE_SECONDS, WAVES, quiet
from roadwork_bench.tiers.timing import Requests
from roadwork_bench.tiers.worker import Worker

CLIENT = "roadwork_bench.peering.openai_client"
SERVER = "vllm.entrypoints.openai.api_server"
LOG_LINES, POLL_SECONDS = 10, 0.3
# What our backend sets for an engine on a CPU (deploy/backends/vllm/vllm_environment.py), so that both engines have the
# same threads, which sleep while they wait.
ON_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


def serve_environment(engine: Mapping[str, Any], on_cpu: bool) -> dict[str, str]:
    """Variables of the server: those of the tier's own engine in Triton."""
    if not on_cpu:
        return quiet()
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}
    eager = {"TORCH_COMPILE_DISABLE": "1"} if engine.get("enforce_eager") else {}
    return {**quiet(), **ON_CPU, **threads, **eager}


class OpenAISide:
    """`vllm serve` on a free port, with the tier's own engine settings.

    Raises (from the start):
        BenchError: it has ended, or is not ready in time; with the end of its log.
        DeployError: a setting of the tier has no flag.
    """

    def __init__(
        self, subject: Subject, question: str, on_cpu: bool, changes: Mapping[str, str], timeout: float, folder: Path
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        self._log, self._client = folder / "vllm-serve.log", None
        url = f"http://127.0.0.1:{port}"
        command = launch_command(subject.engine, "vllm", model_name=subject.name, port=port)
        # `vllm serve` wants the metadata of a package called vllm, which the CPU build has under another name; its
        # module is the same server.
        _, _, weights, *flags = command.arguments
        if on_cpu and "distributed_executor_backend" not in subject.engine:
            flags += ["--distributed-executor-backend", "uni"]
        self.command = ["vllm", "serve", Path(weights).name, *flags]
        environment = {**serve_environment(subject.engine, on_cpu), **changes, VARIABLE: str(self._log)}
        self._keeper = Keeper(str(self._log))
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SERVER, "--model", weights, *flags, "--disable-uvicorn-access-log"],
                cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._await(f"{url}/health", began + timeout, timeout)
            path = folder / "openai-client.json"
            settings = {"url": f"{url}/v1", "model": subject.name, "question": question}
            path.write_text(json.dumps({**settings, "sampling": dict(subject.prompt.sampling)}))
            self._client = Worker(CLIENT, [str(path)], folder / "openai-client.log")
            self._client.receive(GRACE_SECONDS)
        except BaseException:
            self.close()
            raise
        self.started: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}

    @property
    def pids(self) -> list[int]:
        assert self._client is not None
        return [self._process.pid, self._client.pid]

    def block(self, images: Path, in_flight: int, seconds: float) -> Requests:
        assert self._client is not None
        least = WAVES * in_flight
        message = {"do": "block", "images": str(images), "in_flight": in_flight, "seconds": seconds, "least": least}
        found = self._client.ask(message, seconds + GRACE_SECONDS)
        return Requests(found["begins"], found["ends"], in_flight)

    def answers(self, images: Path) -> dict[str, Any]:
        assert self._client is not None
        return self._client.ask({"do": "answers", "images": str(images)}, GRACE_SECONDS)

    def close(self) -> None:
        """End client and server, and what the server has started."""
        if self._client is not None:
            self._client.close()
        self._keeper.close(self._process)

    def _await(self, url: str, until: float, seconds: float) -> None:
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise BenchError(f"vLLM's server ended with status {self._process.returncode}: {self._tail()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(POLL_SECONDS)
        raise BenchError(f"vLLM's server is not ready after {seconds:g} s; raise --startup-timeout: {self._tail()}")

    def _tail(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-LOG_LINES:]) or "nothing in its log"
