"""What a planned profile holds of its GPUs: everything but the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from roadwork_bench import memory
from roadwork_bench.cli import main
from roadwork_deploy.profile import load_profile
from roadwork_deploy.stubs import STUB

GIB = 1 << 30


def test_a_plan_is_read_for_each_gpu_that_a_model_is_on() -> None:
    planned = memory.plan_of(load_profile("gpu-2x80g"))
    assert planned["qwen3_vl_32b", 0] == planned["qwen3_vl_32b", 1] > 20e9
    assert ("qwen3_vl_4b", 1) not in planned
    assert memory.plan_of(load_profile("cpu")) == {}


def test_what_is_held_is_compared_with_what_was_planned() -> None:
    planned = {("large", 0): 20 * GIB, ("small", 0): 2 * GIB, ("silent", 1): GIB}
    start = {("large", 0): 15 * GIB, ("small", 0): GIB, (memory.SERVER, 0): GIB // 2}
    rows = {row["model"]: row for row in memory.compare(planned, start, {("large", 0): 22 * GIB, ("small", 0): GIB})}
    assert rows["large"]["busy_gb"] == 23.62
    assert not rows["large"]["right"]  # 2.15 GB off, where 7% are 1.65
    assert rows["small"]["off_gb"] == 1.07
    assert not rows["small"]["right"]
    assert not rows["silent"]["right"]  # it holds nothing: it is not there
    assert rows[memory.SERVER]["planned_gb"] is None
    assert memory.compare({("a", 0): 10 * GIB}, {}, {("a", 0): int(10.6 * GIB)})[0]["right"]


def test_processes_belong_to_the_model_of_the_stub_above_them(tmp_path: Path) -> None:
    """A process that is started as a stub is, with a child; and one beside it that is the server's own."""
    stub = tmp_path / STUB
    stub.symlink_to(sys.executable)
    script = tmp_path / "repository" / "tier" / "1" / "model.py"
    script.parent.mkdir(parents=True)
    script.write_text("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'input()'])\n")
    with (
        subprocess.Popen([stub, script], stdin=subprocess.PIPE) as tier,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other,
    ):
        until = time.monotonic() + 20
        while list((owners := memory.owners_of(os.getpid())).values()).count("tier") < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert owners[tier.pid] == "tier"
        assert owners[other.pid] == memory.SERVER
        for process in (tier, other):
            process.communicate(b"\n", timeout=20)


def test_the_most_is_kept() -> None:
    held = iter([1, 5, 3, *[2] * 1000])
    with memory.Watcher(lambda: {("a", 0): next(held)}) as watcher:
        time.sleep(3 * memory.POLL_SECONDS)
    assert watcher.most == {("a", 0): 5}


@pytest.mark.parametrize(("profile", "says"), [("cpu", "plans no memory"), ("nothing", "unknown")])
def test_refused_in_one_line(profile: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", profile]) == 2
    assert says in capsys.readouterr().err


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "open_gpus", lambda: None)
    assert main(["memory", "gpu-80g"]) == 2
    assert "this host shows none" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["qwen3_vl_2b", "qwen3_vl_8b"])
def test_a_tier_of_random_weights_has_the_models_size(model: str) -> None:
    import torch
    from roadwork_bench.tiers.random_tier import configuration
    from roadwork_export.catalogue import load_catalogue
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    with torch.device("meta"):
        network = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(configuration(model, {})))
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == pytest.approx(load_catalogue().get(model).parameters, rel=0.005)


def test_no_tier_of_random_weights_for_another_architecture() -> None:
    from roadwork_bench.errors import BenchError
    from roadwork_bench.tiers.random_tier import configuration

    with pytest.raises(BenchError, match="internvl3_5_38b: is no dense Qwen3-VL"):
        configuration("internvl3_5_38b", {})
