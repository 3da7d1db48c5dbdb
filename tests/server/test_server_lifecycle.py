"""Starting, stopping and dying: nothing stays behind, and each refusal is one line that says what to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from roadwork_deploy.errors import PlatformError, PortTakenError, RepositoryError, StartError
from roadwork_deploy.probe import ProbeError, probe
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.shm import Budget, sweep

sys.path.append(str(Path(__file__).parent))
from watching import command_of, family, remaining

SHARED_MEMORY = Path("/dev/shm")
X = np.zeros((1, 4), np.float32)

# Starts a server as a program would, says who is who, and waits to be killed.
STARTER = """
import sys, time
from roadwork_deploy.server import EmbeddedServer
with EmbeddedServer(sys.argv[1], sys.argv[2:]) as server:
    print(server.supervisor_pid, server.pid, server.shm_prefix, flush=True)
    time.sleep(120)
"""


def regions(prefix: str) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{prefix}*"))


def test_nothing_is_left_of_a_server_that_is_closed(repository: Any, infer: Callable) -> None:
    repository.add_adder("add", config="instance_group [{ count: 2 }]")
    with EmbeddedServer(repository.path, ["add"]) as server:
        np.testing.assert_array_equal(infer(server, "add", x=X)["y"], X + 1)
        processes, prefix, log = family(server.supervisor_pid), server.shm_prefix, server.log_path
        assert len(processes) >= 4  # supervisor, tritonserver, two instances
        assert regions(prefix)
    assert not remaining(processes)
    assert not regions(prefix)
    assert not log.exists()
    server.close()  # again: nothing happens


def test_a_second_server_on_the_same_ports_is_refused(repository: Any, infer: Callable) -> None:
    repository.add_adder("add")
    with EmbeddedServer(repository.path, ["add"]) as first:
        ports = first.ports
        second = EmbeddedServer(repository.path, ["add"], grpc_port=ports.grpc, http_port=ports.http)
        with pytest.raises(PortTakenError, match=rf"port {ports.grpc} \(gRPC\).*--grpc-port"):
            second.start()
        with EmbeddedServer(repository.path, ["add"]) as neighbour:  # ports of its own: both serve
            for server in (first, neighbour):
                np.testing.assert_array_equal(infer(server, "add", x=X)["y"], X + 1)
        np.testing.assert_array_equal(infer(first, "add", x=X)["y"], X + 1)


def test_restart_on_the_same_ports_after_kill_9(repository: Any, infer: Callable, wait_until: Callable) -> None:
    repository.add_adder("add")
    server = EmbeddedServer(repository.path, ["add"]).start()
    ports, processes, prefix = server.ports, family(server.supervisor_pid), server.shm_prefix
    server.kill()
    assert server.wait(20) == 128 + signal.SIGKILL
    wait_until(lambda: not remaining(processes[1:]), 10, "stubs of a killed server end")
    assert not regions(prefix)
    assert not server.running
    server.close()
    with EmbeddedServer(repository.path, ["add"], grpc_port=ports.grpc, http_port=ports.http) as again:
        np.testing.assert_array_equal(infer(again, "add", x=X)["y"], X + 1)


def start_elsewhere(repository: Any) -> tuple[subprocess.Popen, int, int, str]:
    command = [sys.executable, "-c", STARTER, str(repository.path), *repository.models]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    supervisor, triton, prefix = starter.stdout.readline().split()
    return starter, int(supervisor), int(triton), prefix


def test_all_of_it_ends_when_the_parent_is_killed_9(repository: Any, wait_until: Callable) -> None:
    repository.add_adder("add")
    starter, supervisor, _, prefix = start_elsewhere(repository)
    processes = family(supervisor)
    assert len(processes) >= 3
    starter.kill()
    starter.wait(10)
    wait_until(lambda: not remaining(processes), 30, "server of a killed parent ends")
    assert not regions(prefix)


def test_shared_memory_of_a_start_that_was_killed_whole_is_no_obstacle(repository: Any, wait_until: Callable) -> None:
    repository.add_adder("add")
    starter, supervisor, triton, prefix = start_elsewhere(repository)
    processes = family(supervisor)
    os.kill(supervisor, signal.SIGSTOP)  # so that it cannot clear up before it is killed too
    for pid in (starter.pid, triton, supervisor):
        os.kill(pid, signal.SIGKILL)
    starter.wait(10)
    wait_until(lambda: not remaining(processes), 20, "everything ends")
    foreign = SHARED_MEMORY / "roadwork_1_999999999_other"  # of another process namespace: not ours to judge
    foreign.touch()
    try:
        left = len(regions(prefix))
        assert sweep() >= left
        assert not regions(prefix)
        assert foreign.exists()
    finally:
        foreign.unlink()


def test_requests_in_flight_finish_when_the_server_stops(repository: Any, infer: Callable) -> None:
    repository.add_stand_in("slow", DELAY=2, ANSWER={"y": [7]})
    server = EmbeddedServer(repository.path, ["slow"], drain=8).start()
    answers: list[np.ndarray] = []
    caller = threading.Thread(target=lambda: answers.append(infer(server, "slow", x=X)["y"]))
    caller.start()
    time.sleep(0.5)
    server.close()
    caller.join(10)
    np.testing.assert_array_equal(answers, [X + 7])


def test_a_model_that_does_not_come_to_an_end_is_killed(repository: Any, infer: Callable) -> None:
    """The drain is a limit: a hanging model cannot keep the server."""
    repository.add_stand_in("hangs", max_batch_size=0)
    server = EmbeddedServer(repository.path, ["hangs"], drain=1).start()
    repository.control("hangs", DELAY=600)
    processes = family(server.supervisor_pid)
    with grpc.InferenceServerClient(server.grpc_url) as client:
        tensor = grpc.InferInput("x", [4], "FP32")
        tensor.set_data_from_numpy(X[0])
        client.async_infer("hangs", [tensor], callback=lambda result, error: None, client_timeout=60)
        time.sleep(0.5)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 20
    assert not remaining(processes)


def test_a_process_that_died_is_found_by_the_probe_and_not_by_health(repository: Any) -> None:
    repository.add_adder("add")
    with EmbeddedServer(repository.path, ["add"]) as server:
        stub = next(pid for pid in family(server.pid) if "stub" in command_of(pid))
        with grpc.InferenceServerClient(server.grpc_url) as client:
            probe(client, "add", 10)
            os.kill(stub, signal.SIGKILL)
            assert client.is_server_ready(client_timeout=5)
            assert client.is_model_ready("add", client_timeout=5)
            with pytest.raises(ProbeError, match="add is loaded but does not answer"):
                probe(client, "add", 3)


def test_a_start_that_takes_too_long_is_given_up(repository: Any, tmp_path: Path) -> None:
    repository.add_stand_in("slow", SLOW_START=60)
    server = EmbeddedServer(repository.path, ["slow"], startup_timeout=3, drain=1, log_path=tmp_path / "log")
    with pytest.raises(StartError, match=r"not ready after 3 s, loading models"):
        server.start()
    assert not server.running
    assert not regions(server.shm_prefix)


def test_a_model_that_does_not_load_is_named_with_its_reason(repository: Any, tmp_path: Path) -> None:
    repository.add_adder("good")
    repository.add_adder("no_file")
    (repository.path / "no_file" / "1" / "model.onnx").unlink()
    server = EmbeddedServer(repository.path, ["good", "no_file"], log_path=tmp_path / "log")
    with pytest.raises(StartError) as caught:
        server.start()
    text = str(caught.value)
    assert text.startswith("no_file: ")
    assert "1/model.onnx is missing; build it with: roadwork-export build no_file" in text
    assert "\n" not in text
    assert not server.running


def test_what_can_be_known_before_starting_is_refused_at_once(repository: Any, tmp_path: Path) -> None:
    repository.add_adder("add")
    with pytest.raises(RepositoryError, match="model 'other' is not in"):
        EmbeddedServer(repository.path, ["other"]).start()
    with pytest.raises(RepositoryError, match="is not a folder"):
        EmbeddedServer(tmp_path / "nowhere", ["add"]).start()
    spaced = tmp_path / "with space"
    repository.path.rename(spaced)
    with pytest.raises(PlatformError, match="has a space in it"):
        EmbeddedServer(spaced, ["add"]).start()
    with pytest.raises(PlatformError, match="not enough shared memory: /dev/shm has"):
        EmbeddedServer(tmp_path, [], budget=Budget(instances=1, instance_bytes=1 << 50)).start()
