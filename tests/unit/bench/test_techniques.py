"""`roadwork-bench techniques`: what is started, what is told instead, and that the committed figures are whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from roadwork_bench.errors import BenchError
from roadwork_bench.techniques import MORE, line, median, reason, rows
from roadwork_export.catalogue import load_catalogue
from roadwork_export.techniques import load_techniques

TIER = load_catalogue().get("tiny_vlm_s")
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "techniques_cpu.json"


def test_the_plain_tier_is_first_and_every_option_has_a_row() -> None:
    found = list(rows(TIER, "cpu", None))
    assert found[0].name == "plain"
    assert not found[0].changes
    usable = [name for name, each in load_techniques().items() if each.usable]
    assert [row.name for row in found[1:]] == [*MORE, *usable]


def test_what_this_machine_or_tier_cannot_do_is_told_and_not_started() -> None:
    found = {row.name: row for row in rows(TIER, "cpu", None)}
    assert found["sleep"].refused == "vLLM does not do it on a CPU"
    assert found["batch_dp"].refused == "needs a tier on 2 GPUs, this one is on 1"
    assert (found["eagle3"].refused or "").startswith("value is missing")
    assert (found["int8_experts"].refused or "").startswith("tiny_vlm_s has no experts")
    assert found["kv_fp8"].refused is None
    assert found["kv_fp8"].changes == {"kv_cache_dtype": "fp8"}
    assert found["fp8_channel"].changes == {"quantization": "fp8_per_channel", "dtype": "bfloat16"}


def test_only_some() -> None:
    assert [row.name for row in rows(TIER, "cpu", "ngram,bfloat16")] == ["plain", "ngram", "bfloat16"]
    with pytest.raises(BenchError, match="--only: no technique 'kvpress'"):
        list(rows(TIER, "cpu", "kvpress"))


def test_figures_by_hand() -> None:
    assert median([0.0, 1.0, 2.0], [0.1, 1.3, 2.2]) == 200.0
    log = "INFO 1\n(EngineCore pid=7) ERROR 11-22 [core.py:9] NotImplementedError: no kernel\nRuntimeError: failed\n"
    assert reason(log) == "NotImplementedError: no kernel"
    assert reason("nothing in 300 s") is None
    assert line({"name": "sleep", "error": "not here"}) == "sleep: not here"


def test_committed_figures_are_of_every_option() -> None:
    found = {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]}
    assert list(found) == [row.name for row in rows(TIER, "cpu", None)]
    for row in found.values():
        assert ("error" in row) != ("largest_difference" in row)
    assert found["plain"]["largest_difference"] == 0.0
    assert found["int8_experts, without experts"]["largest_difference"] == found["bfloat16"]["largest_difference"]
    assert found["visual_tokens"]["input_tokens"] < found["plain"]["input_tokens"]
