"""`roadwork-bench wake` up to the server: what it refuses, the repository that it serves, what it counts as memory."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from roadwork_bench import wake
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.tiers.folder import read_tier
from roadwork_bench.tiers.holding import holding
from roadwork_deploy.repository import default_repository, read_config

MIB = 1 << 20


def options(**changes: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    wake.add_arguments(parser)
    parsed = parser.parse_args(["tiny_vlm_s"])
    for name, value in changes.items():
        setattr(parsed, name, value)
    return parsed


def test_without_a_gpu_it_cannot_sleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake, "open_gpus", lambda: None)
    subject = read_tier(default_repository(), "tiny_vlm_s")
    with pytest.raises(BenchError, match="sleep mode needs a GPU, and NVML shows none; use --how unload"):
        wake.Measurement(options(how="sleep"), subject, tmp_path, "command")
    assert wake.Measurement(options(), subject, tmp_path, "command").report["how"] == "unload"


class Nvml:
    """One GPU, as NVML tells of it."""

    used = 7

    def nvmlDeviceGetMemoryInfo(self, _: Any) -> Any:
        return argparse.Namespace(used=self.used)

    def nvmlDeviceGetName(self, _: Any) -> str:
        return "GPU"


def test_the_tier_is_served_alone_and_told_to_sleep_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wake, "open_gpus", lambda: (Nvml(), [0, 1]))
    subject = read_tier(default_repository(), "tiny_vlm_s")
    made = wake.Measurement(options(level="2"), subject, tmp_path, "command")
    assert made.report["how"] == "sleep, level 2"
    assert made.report["bytes"]["before"]["gpu"] == 2 * Nvml.used
    folder = made._repository() / "tiny_vlm_s"
    parameters = read_config(folder / "config.pbtxt").parameters
    assert parameters["SLEEP_AFTER_SECONDS"].string_value == "4"
    assert parameters["SLEEP_LEVEL"].string_value == "2"
    assert parameters["REPORT_CUSTOM_METRICS"].string_value == "true"
    assert Path(json.loads((folder / "1" / "model.json").read_text())["model"]).is_dir()
    assert (folder / "prompt.json").is_file()


def test_memory_is_that_of_the_process_and_of_all_below_it() -> None:
    code = "data = bytearray(64 << 20); data[::4096] = b'x' * len(data[::4096]); print(flush=True); input()"
    shell = ["sh", "-c", f'{sys.executable} -c "$CODE"; true']
    with subprocess.Popen(
        shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "CODE": code}
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        held = holding(child.pid, None)
        assert 64 * MIB < held["host"] < 120 * MIB
        assert held["host_available"] > 64 * MIB
        child.communicate(b"\n", timeout=20)
    assert holding(child.pid, None)["host"] == 0
    assert holding(None, None)["host"] == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nobody"], "nobody is no tier: it has no config.pbtxt"),
        (["tiny_reasoner"], "tiny_reasoner is a reasoner; only scorers are measured"),
        (["tiny_vlm_s", "--rounds", "0"], "--rounds is 0, must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wake", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("roadwork-bench wake: ")
    assert problem in line
