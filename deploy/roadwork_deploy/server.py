"""A tritonserver on this machine for as long as a `with` block lasts."""

from __future__ import annotations

import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from roadwork_deploy import logs
from roadwork_deploy.embedded import Embedded, assemble
from roadwork_deploy.errors import PlatformError, PortTakenError, RepositoryError, StartError
from roadwork_deploy.ports import Ports, choose_ports
from roadwork_deploy.probe import probe
from roadwork_deploy.repository import is_complete
from roadwork_deploy.shm import Budget, sweep
from roadwork_deploy.supervisor import remove_shared_memory
from roadwork_deploy.tiers import Tier, TierLoader, find_tiers

SUPERVISOR = Path(__file__).with_name("supervisor.py")
POLL_SECONDS = 0.05
ATTEMPTS = 3


class EmbeddedServer:
    """Starts tritonserver on a model repository, waits until it answers, and takes all of it down again.

        with EmbeddedServer("model_repository", ["roadwork"]) as server:
            client = tritonclient.grpc.InferenceServerClient(server.grpc_url)

    Args:
        repository: folder of models.
        models: loaded at start, and nothing else is. Composing models of an ensemble are loaded with it.
        config_name: `--model-config-name`; models that have `configs/<config_name>.pbtxt` use that.
        host: address to bind to.
        grpc_port, http_port, metrics_port: None takes a free one.
        probes: models that must answer a real inference before the server counts as started; None means all of
            `models`.
        startup_timeout: seconds for loading and probing together.
        drain: seconds that requests in flight may take when the server stops.
        budget: shared memory of the model processes.
        log_path: file that gets tritonserver's output; None makes one in the temporary folder, kept only on failure.
        arguments: more of tritonserver's own.
        environment: variables on top of the present ones.
        tiers: vision-language tiers that join after the start, as `find_tiers` found them (names do as well).
        tiers_at_once: how many load at the same time.
        on_tier: called, from a thread, with each tier that has joined or is left out.

    Raises (from `start`):
        DeployError: one line that says what to do.
    """

    def __init__(
        self,
        repository: str | Path,
        models: Sequence[str],
        *,
        config_name: str | None = None,
        host: str = "127.0.0.1",
        grpc_port: int | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        probes: Sequence[str] | None = None,
        startup_timeout: float = 180.0,
        drain: float = 10.0,
        budget: Budget | None = None,
        log_path: str | Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        tiers: Mapping[str, Tier] | Sequence[str] = (),
        tiers_at_once: int = 2,
        on_tier: Callable[[Tier], None] | None = None,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.models = list(models)
        self.probes = list(models if probes is None else probes)
        self.config_name = config_name
        self.host = host
        self.startup_timeout = startup_timeout
        self.drain = drain
        self.budget = budget or Budget()
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self._found = dict(tiers) if isinstance(tiers, Mapping) else find_tiers(self.repository, tiers)
        self._tiers_at_once = tiers_at_once
        self.on_tier = on_tier
        self._loader: TierLoader | None = None
        self._wanted_ports = (grpc_port, http_port, metrics_port)
        self._ports: Ports | None = None
        self._own_log = log_path is None
        self._log_path = Path(log_path) if log_path else None
        self._process: subprocess.Popen | None = None
        self._lifeline: int | None = None
        self.shm_prefix = ""

    # Addresses -------------------------------------------------------------------------------------------------------
    @property
    def ports(self) -> Ports:
        if self._ports is None:
            raise StartError("the server has not been started")
        return self._ports

    @property
    def grpc_url(self) -> str:
        """HOST:PORT, as `tritonclient.grpc` takes it."""
        return f"{self._reachable}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """HOST:PORT, as `tritonclient.http` takes it."""
        return f"{self._reachable}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        return f"http://{self._reachable}:{self.ports.metrics}/metrics"

    @property
    def _reachable(self) -> str:
        """A server bound to every address is asked on this machine's own."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    # State -----------------------------------------------------------------------------------------------------------
    @property
    def log_path(self) -> Path:
        if self._log_path is None:
            raise StartError("the server has not been started")
        return self._log_path

    def log_text(self) -> str:
        """What tritonserver has printed so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def supervisor_pid(self) -> int:
        if self._process is None:
            raise StartError("the server has not been started")
        return self._process.pid

    @property
    def pid(self) -> int:
        """Process id of tritonserver itself."""
        children = Path(f"/proc/{self.supervisor_pid}/task/{self.supervisor_pid}/children").read_text().split()
        for child in children:
            if Path(f"/proc/{child}/comm").read_text().strip() == "tritonserver":
                return int(child)
        raise StartError("tritonserver is not running")

    # Life ------------------------------------------------------------------------------------------------------------
    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> EmbeddedServer:
        """Start, and return when every probe has been answered. On failure nothing is left running."""
        if self.running:
            raise StartError("the server is running already")
        embedded = assemble()
        self._check_repository(embedded)
        sweep()
        self.budget.check()
        deadline = time.monotonic() + self.startup_timeout
        for attempt in range(1, ATTEMPTS + 1):
            self._ports = choose_ports(self.host, *self._wanted_ports)
            try:
                self._launch(embedded)
                self._await_ready(deadline)
                self._load_tiers()
                return self
            except PortTakenError:
                # Between choosing a free port and binding it another program may be quicker.
                self.close()
                if attempt == ATTEMPTS or None not in self._wanted_ports:
                    raise
            except BaseException as error:
                self.close(keep_log=isinstance(error, Exception))  # Ctrl-C leaves nothing to look into
                raise
        raise AssertionError("unreachable")

    def close(self, *, keep_log: bool = False) -> None:
        """Let requests in flight finish for `drain` seconds, then end every process. Safe to call twice."""
        loader, self._loader = self._loader, None
        if loader is not None:
            loader.stop()
        if self._process is not None:
            self._end(self._process)
            self._process = None
        if loader is not None:
            loader.join(10)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self.shm_prefix:
            remove_shared_memory(self.shm_prefix)
        if self._own_log and not keep_log and self._log_path is not None:
            self._log_path.unlink(missing_ok=True)
            self._log_path = None

    @property
    def tiers(self) -> dict[str, Tier]:
        """Name -> state of every tier."""
        return dict(self._found) if self._loader is None else self._loader.tiers

    def wait_for_tiers(self, timeout: float, names: Sequence[str] | None = None) -> dict[str, Tier]:
        """Wait until these tiers (by default all) have joined or are left out; every tier's state then.

        Raises:
            StartError: some have done neither after `timeout` seconds.
        """
        return {} if self._loader is None else self._loader.wait(timeout, names)

    def kill(self) -> None:
        """Kill tritonserver as a crash would (SIGKILL). For tests of what happens then."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait up to `timeout` seconds for the server to end by itself; its exit status, or None."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def _load_tiers(self) -> None:
        if self._found:
            self._loader = TierLoader(
                self.grpc_url,
                self._found,
                self.log_path,
                repository=self.repository,
                at_once=self._tiers_at_once,
                on_change=self.on_tier,
            )
            self._loader.start()

    # Parts of starting -----------------------------------------------------------------------------------------------
    def _check_repository(self, embedded: Embedded) -> None:
        if not self.repository.is_dir():
            raise RepositoryError(f"{self.repository} is not a folder; give --model-repository the folder of models")
        for path in (self.repository, embedded.backends):
            # The Python backend starts its stubs through an unquoted shell line.
            if any(character.isspace() for character in str(path)):
                raise PlatformError(
                    f"'{path}' has a space in it, which tritonserver's Python backend cannot start from; move it"
                )
        for model in self.models:
            if not (self.repository / model).is_dir():
                raise RepositoryError(f"model {model!r} is not in {self.repository}")

    def _launch(self, embedded: Embedded) -> None:
        if self._log_path is None:
            handle, name = tempfile.mkstemp(prefix="tritonserver-", suffix=".log")
            os.close(handle)
            self._log_path = Path(name)
        self.shm_prefix = f"{self.budget.prefix()}{secrets.token_hex(4)}_"
        command = self._command(embedded)
        environment = {
            **os.environ,
            **embedded.environment,
            "TRITON_MODEL_REPOSITORY": str(self.repository),
            **self.environment,
        }
        read_end, self._lifeline = os.pipe()
        supervisor = [sys.executable, "-I", "-S", str(SUPERVISOR)]
        supervisor += [
            "--lifeline",
            str(read_end),
            "--drain",
            str(self.drain + 2),
            "--shm-prefix",
            self.shm_prefix,
            "--",
        ]
        try:
            with self._log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    [*supervisor, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=(read_end,),
                    start_new_session=True,  # Ctrl-C in a terminal reaches the caller alone, which then drains
                )
        finally:
            os.close(read_end)

    def _command(self, embedded: Embedded) -> list[str]:
        command = [
            str(embedded.binary),
            f"--model-repository={self.repository}",
            f"--backend-directory={embedded.backends}",
            f"--cache-directory={embedded.caches}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in self.models),
            *(f"--{name}-address={self.host}" for name in ("grpc", "http", "metrics")),
            f"--grpc-port={self.ports.grpc}",
            f"--http-port={self.ports.http}",
            f"--metrics-port={self.ports.metrics}",
            f"--exit-timeout-secs={math.ceil(self.drain)}",
            f"--backend-config=python,shm-region-prefix-name={self.shm_prefix}",
            f"--backend-config=python,shm-default-byte-size={self.budget.instance_bytes}",
            f"--backend-config=python,shm-growth-byte-size={self.budget.growth_bytes}",
        ]
        if self.config_name:
            command.append(f"--model-config-name={self.config_name}")
        later = [tier.name for tier in self._found.values() if tier.state != "absent"]
        if is_complete(self.repository, [*self.models, *later]):
            # Completing costs a process start for each model, and there is nothing to complete.
            command.append("--disable-auto-complete-config")
        return command + self.arguments

    def _await_ready(self, deadline: float) -> None:
        import tritonclient.grpc as grpc

        client = grpc.InferenceServerClient(self.grpc_url)
        try:
            self._await_server(client, deadline)
            for model in self.probes:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._late(f"waiting for {model} to answer")
                probe(client, model, left)
            self._check_ports()  # a metrics port that is taken does not keep the rest from answering
        finally:
            client.close()

    def _await_server(self, client: Any, deadline: float) -> None:
        from tritonclient.utils import InferenceServerException

        while True:
            if not self.running:
                self._check_ports()
                raise StartError(self._why())
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late("loading models")
            try:
                if client.is_server_ready(client_timeout=min(2.0, left)):
                    return
            except InferenceServerException:
                pass  # not listening yet
            time.sleep(POLL_SECONDS)

    def _check_ports(self) -> None:
        taken = logs.port_taken(self.log_path)
        if taken is not None:
            raise PortTakenError(taken)

    def _why(self) -> str:
        found = logs.reasons(self.log_path)
        text = "; ".join(found) if found else "tritonserver ended without an error line"
        return f"{text} (log: {self.log_path})"

    def _late(self, doing: str) -> StartError:
        return StartError(
            f"not ready after {self.startup_timeout:g} s, {doing}; raise --startup-timeout or see {self.log_path}"
        )

    def _end(self, process: subprocess.Popen) -> None:
        if process.poll() is None:
            process.terminate()
            try:
                # tritonserver's own drain, the supervisor's grace on top, and its clearing up.
                process.wait(self.drain + 15)
            except subprocess.TimeoutExpired:
                process.kill()  # the kernel then kills tritonserver, and the stubs follow
                process.wait(10)
        else:
            process.wait()
