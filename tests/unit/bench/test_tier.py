from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from roadwork_bench import cli
from roadwork_bench.errors import BenchError
from roadwork_bench.pairs import in_pairs
from roadwork_bench.tier import named, numbers, status
from roadwork_bench.tiers.agreement import agree, yes_share
from roadwork_bench.tiers.cpu_time import cpu_seconds
from roadwork_bench.tiers.folder import (
    Variant,
    bare_settings,
    read_tier,
    read_variant,
    served_settings,
    with_instances,
    write_repository,
)
from roadwork_bench.tiers.images import images_needed, make_images, read_images
from roadwork_bench.tiers.summary import summary
from roadwork_bench.tiers.timing import Requests, compare, figures, merge, share
from roadwork_bench.tiers.watch import Watch
from roadwork_bench.tiers.worker import Worker

PROMPT = {
    "schema": 1,
    "kind": "scorer",
    "model": "eye/1/weights",
    "template_sha256": "0" * 64,
    "prompt": "<image>Roadwork?",
    "image": {"from": "canvas", "max_side": 96, "quality": 92},
    "sampling": {"temperature": 0, "max_tokens": 1, "logprobs": 20, "allowed_token_ids": [1, 2]},
    "yes": {"yes": 1},
    "no": {"no": 2},
}
CONFIG = 'backend: "vllm"\ninstance_group [\n  { count: 1 kind: KIND_MODEL }\n]\n'


@pytest.fixture
def tier(tmp_path: Path) -> Path:
    """A repository with one tier, `eye`."""
    version = tmp_path / "repository" / "eye" / "1"
    (version / "weights").mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    (version.parent / "prompt.json").write_text(json.dumps(PROMPT))
    (version / "model.json").write_text(json.dumps({"model": "eye/1/weights", "max_num_seqs": 4, "dtype": "float32"}))
    return tmp_path / "repository"


# Images --------------------------------------------------------------------------------------------------------------
def test_no_two_images_are_the_same(tmp_path: Path) -> None:
    make_images(tmp_path / "a", 1, 40, 96, 92)
    make_images(tmp_path / "b", 2, 40, 96, 92)
    images = read_images(tmp_path / "a") + read_images(tmp_path / "b")
    pixels = {Image.open(io.BytesIO(image)).tobytes() for image in images}
    assert len(pixels) == 80
    assert {Image.open(io.BytesIO(image)).size for image in images} == {(96, 96)}


def test_both_sides_get_the_same_images(tmp_path: Path) -> None:
    make_images(tmp_path / "a", 7, 5, 64, 92)
    make_images(tmp_path / "b", 7, 5, 64, 92)
    assert read_images(tmp_path / "a") == read_images(tmp_path / "b")


def test_a_block_has_images_enough_and_not_too_many() -> None:
    assert images_needed(1, 4.0, 0.01, 3000) == 406
    assert images_needed(256, 4.0, 0.01, 3000) == 3000


# Timing --------------------------------------------------------------------------------------------------------------
def steady(rate: float, in_flight: int, seconds: float, first: float = 0.0) -> Requests:
    """Answers at an even rate; each took as long as `in_flight` of them take."""
    count = round(rate * seconds)
    ends = [first + (index + 1) / rate for index in range(count)]
    begins = [max(first, end - in_flight / rate) for end in ends]
    return Requests(begins, ends, in_flight)


def test_throughput_leaves_out_filling_and_draining() -> None:
    block = steady(100.0, 10, 4.0)
    after = steady(100.0, 10, 4.0, first=5.0)
    slow = Requests([0.0] * 10 + after.begins, [5.0] * 10 + after.ends, 10)
    assert block.throughput == pytest.approx(100.0, rel=0.02)
    assert slow.throughput == pytest.approx(100.0, rel=0.02)
    assert steady(20.0, 1, 2.0).throughput == pytest.approx(20.0, rel=0.03)


def test_a_block_of_one_wave_counts_as_a_whole() -> None:
    assert Requests([0.0] * 8, [2.0] * 8, 8).throughput == pytest.approx(4.0)


def test_clients_are_counted_together() -> None:
    assert share(256, 3) == [86, 85, 85]
    assert share(2, 4) == [1, 1]
    both = merge([steady(50.0, 4, 4.0), steady(50.0, 4, 4.0)])
    assert both.in_flight == 8
    assert both.throughput == pytest.approx(100.0, rel=0.05)


def test_the_sides_change_places_and_see_the_same_number() -> None:
    order = []

    def side(name: str, number: int) -> Requests:
        order.append(f"{name}{number}")
        return steady(10.0, 1, 1.0)

    in_pairs(lambda n: side("b", n), lambda n: side("s", n), 3)
    assert order == ["b0", "s0", "s1", "b1", "b2", "s2"]
    assert in_pairs(lambda n: f"b{n}", lambda n: f"s{n}", 2) == [("b0", "s0"), ("b1", "s1")]


def test_differences_are_of_neighbours() -> None:
    blocks = [(steady(10.0 * s, 1, 4.0), steady(5.0 * s, 1, 4.0)) for s in (1.0, 2.0, 0.5)]
    found = compare(blocks)
    assert found["throughput_ratio"]["median"] == pytest.approx(0.5, rel=0.02)
    assert found["throughput_ratio"]["interval_95"] == pytest.approx([0.5, 0.5], rel=0.02)
    assert found["latency_added_ms"]["median"] == pytest.approx(100.0, rel=0.02)
    assert found["bare"]["requests"] == 140


def test_what_the_machine_did_stands_beside_a_block() -> None:
    block = Requests([0.0], [0.1], 1, {"gpu_percent": 55.0})
    assert figures([block])["gpu_percent"] == 55.0


# Agreement -----------------------------------------------------------------------------------------------------------
def answer(probability: float) -> dict[str, float]:
    return {"1": math.log(probability * 0.8), "2": math.log((1 - probability) * 0.8), "9": math.log(0.2)}


def test_equal_answers_agree_and_their_spread_is_told() -> None:
    found = agree([answer(0.2), answer(0.9)], [answer(0.205), answer(0.9)], [1], [2], 0.02)
    assert found["within_tolerance"]
    assert found["largest_difference"] == pytest.approx(0.005)
    assert found["spread"] == pytest.approx(0.7)


@pytest.mark.parametrize("other", [answer(0.5), {"9": 0.0}])
def test_other_answers_make_the_comparison_void(other: dict[str, float]) -> None:
    found = agree([answer(0.2)], [other], [1], [2], 0.02)
    assert not found["within_tolerance"]


def test_no_yes_and_no_is_no_answer() -> None:
    assert yes_share({"9": -0.1}, [1], [2]) is None


# Folder --------------------------------------------------------------------------------------------------------------
def test_a_tier_is_read_with_its_paths(tier: Path) -> None:
    subject = read_tier(tier, "eye")
    assert subject.engine["model"] == str(tier / "eye" / "1" / "weights")
    assert subject.prompt.image.max_side == 96
    assert not subject.random_weights


def test_what_is_no_scorer_is_refused(tier: Path) -> None:
    with pytest.raises(BenchError, match=r"no config\.pbtxt"):
        read_tier(tier, "nose")
    (tier / "eye" / "1" / "model.json").unlink()
    with pytest.raises(BenchError, match="eye"):
        read_tier(tier, "eye")


def test_the_bare_engine_has_defaults_for_what_is_tuned() -> None:
    engine = {
        "model": "m",
        "dtype": "float32",
        "max_num_seqs": 4,
        "mm_processor_cache_gb": 0,
        "kv_cache_memory_bytes": 5,
        "mm_processor_kwargs": {"device": "cuda", "max_pixels": 9},
    }
    kept = {"model": "m", "dtype": "float32", "mm_processor_kwargs": {"max_pixels": 9}}
    assert bare_settings(engine, False, {}) == kept
    assert bare_settings(engine, True, {"dtype": None, "seed": 1}) == {
        "model": "m",
        "kv_cache_memory_bytes": 5,
        "mm_processor_kwargs": {"max_pixels": 9},
        "seed": 1,
    }


def test_a_variant_changes_settings_and_instances(tier: Path, tmp_path: Path) -> None:
    variant = read_variant('many={"instances": 3, "engine": {"max_num_seqs": null, "seed": 1}, "in_flight": [8]}')
    assert variant == Variant("many", 3, {"max_num_seqs": None, "seed": 1}, (8,))
    subject = read_tier(tier, "eye")
    assert served_settings(subject.engine, variant) == {"model": subject.engine["model"], "dtype": "float32", "seed": 1}
    write_repository(tmp_path / "copy", subject, variant)
    assert "count: 3" in (tmp_path / "copy" / "eye" / "config.pbtxt").read_text()
    assert json.loads((tmp_path / "copy" / "eye" / "1" / "model.json").read_text())["seed"] == 1


@pytest.mark.parametrize("text", ["=", "a=[]", 'a={"instance": 2}', 'a={"instances": "x"}', "a={"])
def test_a_wrong_variant_is_told(text: str) -> None:
    with pytest.raises(BenchError, match="--variant"):
        read_variant(text)


def test_a_configuration_without_count_is_told() -> None:
    with pytest.raises(BenchError, match="instance_group"):
        with_instances('backend: "vllm"', 2)


# Child processes -----------------------------------------------------------------------------------------------------
CHILD = """
from roadwork_bench.tiers.worker import answer_lines, claim_stdout
out = claim_stdout()
print("a library says hello")
def handle(message):
    if message["do"] == "fail":
        raise ValueError("no such thing")
    if message["do"] == "end":
        raise SystemExit(3)
    return {"twice": 2 * message["value"]}
answer_lines(out, handle, {"ready": True})
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "roadwork_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Worker("roadwork_child", [], tmp_path / "log")
    yield made
    made.close()


def test_a_child_answers_line_by_line_whatever_its_libraries_print(worker: Worker, tmp_path: Path) -> None:
    assert worker.receive(20) == {"ready": True}
    assert worker.ask({"do": "double", "value": 4}, 20) == {"twice": 8}
    with pytest.raises(BenchError, match="no such thing"):
        worker.ask({"do": "fail"}, 20)
    assert worker.ask({"do": "double", "value": 1}, 20) == {"twice": 2}
    assert "hello" in (tmp_path / "log").read_text()


def test_a_child_that_ends_is_told_with_its_last_words(worker: Worker) -> None:
    worker.receive(20)
    with pytest.raises(BenchError, match="ended"):
        worker.ask({"do": "end"}, 20)


# Command -------------------------------------------------------------------------------------------------------------
def report(ratio: float, agreed: bool = True, gpu: str | None = None) -> dict[str, Any]:
    pair = (steady(100.0, 8, 2.0), steady(100.0 * ratio, 8, 2.0))
    alone = (steady(20.0, 1, 2.0), steady(18.0, 1, 2.0))
    same = agree([answer(0.5)], [answer(0.5 if agreed else 0.9)], [1], [2], 0.02)
    return {
        "tier": "eye",
        "weights": "random",
        "gpu": gpu,
        "agreement": [{"variant": "served", "side": 96, "prompt_tokens": {"bare": 9, "served": 9}, **same}],
        "failures": [{"variant": "six", "why": "no memory"}],
        "comparisons": [
            {"side": 96, "in_flight": 1, "variant": "served", **compare([alone])},
            {"side": 96, "in_flight": 8, "variant": "served", **compare([pair])},
        ],
    }


def test_the_summary_says_whether_the_limits_are_kept() -> None:
    text = summary(report(0.97))
    assert "latency added alone 5.556" in text
    assert "0.970" in text
    assert "NOT" not in text
    assert "six: FAILED: no memory" in text
    assert "NOT reached" in summary(report(0.9))
    assert "NOT reached" in summary(report(1.2, gpu="H200"))


def test_a_void_comparison_has_no_verdict() -> None:
    text = summary(report(0.97, agreed=False))
    assert "void" in text
    assert "reached" not in text


def test_the_exit_status_is_0_only_where_something_was_compared() -> None:
    assert status(report(0.97)) == 0
    assert status(report(0.97, agreed=False)) == 1
    assert status({**report(0.97), "agreement": []}) == 1, "no variant could be started"


def test_lists_of_numbers_are_checked() -> None:
    assert numbers("1,8", "--side") == [1, 8]
    for text in ("", "1,x", "0"):
        with pytest.raises(BenchError, match="--side"):
            numbers(text, "--side")


def test_reports_name_no_folders() -> None:
    assert named({"model": "/home/someone/weights", "seed": 1}) == {"model": "weights", "seed": 1}


def test_several_variants_need_their_turn(tier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tier", "eye", "--model-repository", str(tier), "--variant", "a={}", "--variant", "b={}"]
    assert cli.main(arguments) == 2
    assert "--in-turn" in capsys.readouterr().err


def test_busy_cores_are_seen() -> None:

    watch = Watch()
    start = time.monotonic()
    while time.monotonic() - start < 0.8:
        np.ones(1000).sum()
    found = watch.between(start, time.monotonic())
    watch.close()
    assert found["busy_cores"] > 0.3
    assert sys.platform == "linux"


def test_the_time_of_children_counts() -> None:
    before = cpu_seconds([os.getpid()])
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1.0)
        assert cpu_seconds([os.getpid()]) - before > 0.2
        assert cpu_seconds([child.pid]) > 0.2
    finally:
        child.kill()
        child.wait()


def test_cores_are_compared_by_what_a_request_costs() -> None:
    bare, served = steady(10.0, 1, 2.0), steady(10.0, 1, 2.0)
    bare.measured["cpu_milliseconds_per_request"] = 30.0
    served.measured["cpu_milliseconds_per_request"] = 40.0
    found = compare([(bare, served), (bare, served)])
    assert found["cpu_ratio"]["median"] == pytest.approx(0.75)
    assert found["served"]["cpu_milliseconds_per_request"] == 40.0
