from __future__ import annotations

import time
from pathlib import Path

import pytest
from roadwork_bench.bare import BareLoop, run_block
from roadwork_bench.overhead import compare, detector_path, read_images
from roadwork_bench.served import Block
from roadwork_cascade.policy import Policy, load_policy, parse_policy, write_policy
from roadwork_deploy.profile import load_profile


def test_ratios_are_of_neighbours_so_that_a_slow_minute_cancels() -> None:
    speeds = [1.0, 1.0, 5.0, 1.0, 0.5]  # of the machine
    blocks = [(Block([0.11 * s] * 9, s), Block([0.1 * s] * 10, s)) for s in speeds]
    found = compare(blocks)
    assert found["latency_ratio"]["median"] == pytest.approx(1.1)
    assert found["throughput_ratio"]["median"] == pytest.approx(0.9)
    assert found["latency_ratio"]["interval_95"] == pytest.approx([1.1, 1.1])
    assert found["first"]["images"] == 45


def test_workers_share_the_images() -> None:
    seen: list[bytes] = []

    def work(image: bytes) -> None:
        seen.append(image)
        time.sleep(0.01)

    block = run_block(work, [b"a", b"b", b"c"], 0.15, 3)
    assert set(seen) == {b"a", b"b", b"c"}
    assert len(block.latencies) == len(seen)
    assert block.throughput > 100  # three workers of under 100 a second each
    assert block.median >= 0.01


def test_the_bare_loop_runs_every_model(repository: Path, photographs: Path) -> None:
    bare = BareLoop(repository, "cpu")
    try:
        images = read_images(photographs)
        assert len(images) == 24
        assert set(bare.threads) == {"scene", "eye"}
        for workers in (0, 2):
            block = bare.block(images, 0.05, workers)
            assert block.latencies
            assert block.seconds >= 0.05
    finally:
        bare.close()


def test_the_detector_path_has_no_text_and_no_hurry(repository: Path, small_policy: Policy) -> None:
    data = small_policy.to_dict()
    text = {"kind": "text", "weight": 1.0}
    data["stages"].append(
        {"name": "sign_text", "model": None, "needs": "image", "deadline_ms": 9, "members": {"sign_text": text}}
    )
    (repository / "roadwork").mkdir()
    write_policy(parse_policy(data), repository / "roadwork" / "policy.yaml")
    with detector_path(repository, load_profile("cpu")) as (copy, profile):
        policy = load_policy(copy / "roadwork" / "policy.yaml")
        assert [member.name for _, member in policy.members()] == ["scene", "eye"]
        assert policy.stages[0].deadline_ms >= 10_000
        assert "sign_text" not in profile.entries
        assert "sign_text" not in profile.models
    assert not copy.exists()
    assert len(load_policy(repository / "roadwork" / "policy.yaml").stages) == 3
