"""What stops a start before it begins: one clear line, exit status 2."""

from __future__ import annotations

import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from roadwork_deploy import embedded, shm
from roadwork_deploy.cli import main
from roadwork_deploy.errors import PlatformError, PortTakenError
from roadwork_deploy.logs import port_taken, reasons
from roadwork_deploy.ports import choose_ports
from roadwork_deploy.shm import MIB, Budget
from roadwork_deploy.wire import wire


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_the_option_that_moves_it(taken: int) -> None:
    with pytest.raises(PortTakenError, match=rf"port {taken} \(HTTP\) on 127.0.0.1 .*--http-port"):
        choose_ports("127.0.0.1", None, taken, None)


def test_free_ports_differ() -> None:
    ports = choose_ports("127.0.0.1", None, None, None)
    assert len({ports.grpc, ports.http, ports.metrics}) == 3


@pytest.mark.parametrize(("first", "second", "message"), [(5000, 5000, "asked for twice"), (0, 5000, "not between 1")])
def test_ports_that_cannot_be(first: int, second: int, message: str) -> None:
    with pytest.raises(PortTakenError, match=message):
        choose_ports("127.0.0.1", first, second, None)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortTakenError, match=r"on 192\.0\.2\.1 cannot be used"):
        choose_ports("192.0.2.1", 5000, None, None)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_another_platform_is_refused(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(PlatformError, match=f"runs on Linux x86_64, this is {system} {machine}"):
        embedded.check_platform()


@pytest.mark.parametrize("version", [(3, 7), (3, 13)])
def test_a_python_without_a_stub_is_refused(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(PlatformError, match=r"needs CPython 3\.8 to 3\.12"):
        embedded.check_platform()


@pytest.mark.parametrize(
    ("version", "wheel", "message"),
    [("2.1.0", True, r"NumPy 2\.1\.0 does not work.*numpy<2"), ("1.26.4", False, "package nvidia-pytriton is missing")],
)
def test_missing_and_wrong_packages_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, wheel: bool, message: str
) -> None:
    real = embedded.find_spec
    monkeypatch.setattr(embedded.metadata, "version", lambda name: version)
    monkeypatch.setattr(embedded, "find_spec", lambda name: real(name) if wheel or name != "pytriton" else None)
    with pytest.raises(PlatformError, match=message):
        embedded.assemble(tmp_path)


def test_the_backend_directory_is_assembled_once_of_copies(tmp_path: Path) -> None:
    first = embedded.assemble(tmp_path)
    stamp = first.backends.stat().st_mtime_ns
    assert embedded.assemble(tmp_path) == first
    assert first.backends.stat().st_mtime_ns == stamp
    assert [path.name for path in tmp_path.iterdir()] == [first.backends.name]
    files = {str(path.relative_to(first.backends)) for path in first.backends.rglob("*") if path.is_file()}
    assert {"python/libtriton_python.so", "python/triton_python_backend_stub", "onnxruntime/model.py"} <= files
    assert not any(path.is_symlink() for path in first.backends.rglob("*"))


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlatformError, match="set ROADWORK_CACHE"):
        embedded.assemble(tmp_path / "file" / "cache")


def test_too_little_shared_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 64 * MIB})()
    monkeypatch.setattr(shm.shutil, "disk_usage", lambda path: usage)
    Budget(instances=8).check()
    with pytest.raises(PlatformError, match="has 64 MiB free and 9 model instances need 72 MiB; enlarge it"):
        Budget(instances=9).check()


def test_refusals_of_the_command_are_one_line_and_status_2(
    repository: Path, taken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--model-repository", str(repository)]
    free = [argument for name in ("http", "metrics") for argument in (f"--{name}-port", "0")]
    lines = []
    assert main(["serve", "--profile", "cpuu"]) == 2
    lines.append("profile 'cpuu' is unknown")
    assert main(["serve", *there]) == 2
    lines.append("run: roadwork-deploy wire")
    wire(repository)
    assert main(["serve", *there, "--grpc-port", str(taken), *free]) == 2
    lines.append(f"port {taken} (gRPC)")
    (repository / "first" / "1" / "model.onnx").unlink()
    assert main(["serve", *there]) == 2
    lines.append("roadwork-export build first")
    assert main(["serve", "--model-repository", "/nowhere"]) == 2
    lines.append("/nowhere is not a folder")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(lines)
    for line, words in zip(said, lines, strict=True):
        assert line.startswith("roadwork-deploy: ")
        assert words in line


LOG = r"""
I1122 05:35:01.8 8134 server.cc:241] "fine"
E1122 05:35:01.9 8134 model_lifecycle.cc:642] "failed to load 'scene' version 1: Internal: TritonModelException: \
/models/scene/1/model.onnx is missing; build it with: roadwork-export build scene\n\nAt:\n  /x.py(59): init\n"
I1122 05:35:01.9 8134 model_lifecycle.cc:777] "failed to load 'scene'"
E1122 05:35:02.0 8134 model_repository_manager.cc:703] "Invalid argument: ensemble 'glance' depends on 'scene'"
""".replace("\\\n", "")


def test_the_reason_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)
    assert reasons(log) == ["scene: /models/scene/1/model.onnx is missing; build it with: roadwork-export build scene"]
    log.write_text('E1122 05:35:02.0 8134 main.cc:245] "something else broke"\n')
    assert reasons(log) == ["something else broke"]
    assert reasons(tmp_path / "none") == []


def test_a_port_that_was_lost_to_another_program_is_found_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = "failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use "
    log.write_text(f'E1122 05:35:02.0 8134 main.cc:257] "{line}"\n')
    assert port_taken(log) == "port 8000 (HTTP) was just taken; choose another with --http-port"
    log.write_text("")
    assert port_taken(log) is None


def test_a_crash_is_called_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        'E1122 09:26:19.7 1 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        "terminate called after throwing an instance of 'boost::interprocess::lock_exception'\n"
        "  what():  boost::interprocess::lock_exception\n"
    )
    assert reasons(log)[0].startswith("tritonserver crashed (terminate called after throwing")
