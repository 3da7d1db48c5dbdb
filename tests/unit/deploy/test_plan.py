"""`roadwork-deploy plan`: hardware, placement, what is refused, and what is committed."""

from __future__ import annotations

import ast
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from roadwork_deploy.cli import main
from roadwork_deploy.errors import PlanError
from roadwork_deploy.planner import measured
from roadwork_deploy.planner.hardware import GB, parse_gpus
from roadwork_deploy.planner.need import Need
from roadwork_deploy.planner.place import Wanted, headroom, place
from roadwork_deploy.planner.plan import Request, make_plan
from roadwork_deploy.planner.tier import ANSWER_TOKENS, QUESTION_TOKENS, Wish
from roadwork_deploy.profile import FOLDER, known_profiles, load_profile

PLANNED = [name for name in known_profiles() if load_profile(name).hardware]


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = main(["plan", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2x80", ["80 GB", "80 GB"]),
        ("h100", ["h100"]),
        ("1x80,2xl4", ["80 GB", "l4", "l4"]),
        ("1x24gb", ["24 GB"]),
        ("NVIDIA H200", ["h200"]),
        ("a100", ["a100-80"]),
    ],
)
def test_gpus_are_named_by_size_or_name(text: str, names: list[str]) -> None:
    gpus = parse_gpus(text)
    assert [gpu.name for gpu in gpus] == names
    for gpu in gpus:  # what CUDA shows is near the size on the box, in either kind of GB
        assert 0.9 * gpu.size * 2**30 < gpu.bytes < gpu.size * 2**30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1x25", r"there is no GPU of 25 GB; close are 24 and 32 \(known: 24, 32, 40"),
        ("h10", r"no GPU is named 'h10'; did you mean h100"),
        ("2*80", r"'2\*80' is not COUNTxSIZE"),
        ("0x80", r"'0x80' asks for 0 GPUs"),
        ("100x80", r"asks for 100 GPUs, a plan has 1 to 64"),
        ("", r"'' is not COUNTxSIZE"),
    ],
)
def test_gpus_that_do_not_exist_are_refused(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_gpus(text)


def need(name: str, gigabytes: float, precision: str = "bf16", gpus: int = 1) -> Need:
    return Need(name, "tier", precision, gpus, {"weights": int(gigabytes * GB)}, 0)


def wanted(name: str, bf16: float, fp8: float | None = None) -> Wanted:
    ways = [need(name, bf16 / count, gpus=count) for count in (1, 2)]
    ways += [need(name, fp8 / count, "fp8", count) for count in (1, 2)] if fp8 else []
    return Wanted(name, tuple(ways))


def test_each_has_the_best_precision_in_which_all_fit() -> None:
    plan = place(parse_gpus("1x80"), [wanted("small", 10, 5), wanted("large", 75, 40)])
    assert {each.need.name: each.need.precision for each in plan.placed} == {"small": "bf16", "large": "fp8"}
    assert plan.left_out == ()


def test_what_is_too_large_for_one_gpu_is_shared_by_two() -> None:
    plan = place(parse_gpus("2x80"), [wanted("large", 120)])
    assert [(each.gpus, each.need.gpus) for each in plan.placed] == [((0, 1), 2)]
    alone = place(parse_gpus("1x80"), [wanted("large", 120)])
    assert alone.placed == ()
    (left,) = alone.left_out
    assert left.lacking == pytest.approx(120e9 - alone.free[0])
    assert "120.0 GB on one GPU" in left.reason
    assert f"{left.lacking / GB:.1f} GB are missing" in left.reason


def test_earlier_ones_come_before_later_ones_and_required_ones_refuse() -> None:
    three = [wanted("first", 30), wanted("second", 60), wanted("third", 20)]
    plan = place(parse_gpus("1x80"), three)
    assert [each.name for each in plan.left_out] == ["second"]
    with pytest.raises(PlanError, match=r"second: does not fit: .* GB are missing"):
        place(parse_gpus("1x80"), three, required=["second"])


@pytest.mark.parametrize("gpus", ["1x24", "1x80", "2x80", "4x80", "1x80,1x24", "8xh200"])
def test_no_gpu_gives_more_than_it_has(gpus: str) -> None:
    plan, _ = make_plan(Request(parse_gpus(gpus)))
    assert any(each.need.kind == "tier" for each in plan.placed)
    for index, gpu in enumerate(plan.gpus):
        used = sum(each.need.bytes for each in plan.on(index))
        assert used + headroom(gpu) + measured.SERVER_CONTEXT + plan.free[index] == gpu.bytes
        assert plan.free[index] >= 0
    for each in plan.placed:
        assert len(set(each.gpus)) == each.need.gpus
        if each.need.kind == "tier":
            engine = each.need.engine
            assert engine["kv_cache_memory_bytes"] == each.need.parts["KV cache"]
            assert engine.get("tensor_parallel_size", 1) == each.need.gpus
            # What vLLM looks for before it starts is there even when all others have been busy.
            assert engine["gpu_memory_utilization"] * plan.gpus[each.gpus[0]].bytes <= each.need.bytes


def test_a_plan_is_the_same_each_time() -> None:
    first, second = (make_plan(Request(parse_gpus("2x80"))) for _ in range(2))
    assert first == second


BAD = [
    (["--tiers", "qwen3_vl_4"], "did you mean qwen3_vl_4b"),
    (["--tiers", "qwen3_vl_4b,qwen3_vl_4b"], "qwen3_vl_4b: is named twice"),
    (["--tiers", "yolo11x"], "yolo11x: is not served by vLLM; name it in --detectors"),
    (["--detectors", "qwen3_vl_4b"], "qwen3_vl_4b: is a tier; name it in --tiers"),
    (["--detectors", "deimv2"], "deimv2: is not served: "),
    (["--detectors", "florence2_base"], "florence2_base: is no ONNX network"),
    (["--tiers", "qwen3_vl_4b", "--context", "300000"], "--context 300000 is longer than the model's 262144"),
    (["--tiers", "qwen3_vl_4b", "--context", "100"], "a question and an answer are 517 tokens, and the context is 100"),
    (
        ["--tiers", "qwen3_vl_4b", "--precision", "awq"],
        "has no awq weights and vLLM cannot make them; it has bf16, fp8",
    ),
    (["--precision", "fp7"], "--precision: 'fp7' is none of auto, bf16"),
    (["--tiers", "molmo2_8b"], "molmo2_8b: runs its publisher's own Python; allow that with --allow-remote-code"),
    (["--tiers", "qwen3_vl_4b", "--parallel", "qwen3_vl_4b=2"], "--parallel asks for 2 GPUs of one kind, there are 1"),
    (["--tiers", "qwen3_vl_4b", "--parallel", "qwen3_vl_8b=1"], "--parallel: qwen3_vl_8b is not among the tiers"),
    (["--tiers", "qwen3_vl_4b", "--parallel", "2"], "--parallel: is TIER=N"),
    (["--tiers", "qwen3_vl_4b", "--required", "qwen3_vl_8b"], "--required: qwen3_vl_8b is not among the models"),
    (["--tiers", "qwen3_vl_32b", "--required", "qwen3_vl_32b", "--gpus", "1x24"], "qwen3_vl_32b: does not fit: in fp8"),
    (["--max-images", "0"], "--max-images: is a whole number from 1 to 1024, got 0"),
    (["--model-repository", "x"], "--model-repository: goes with --write"),
    (
        ["--tiers", "qwen3_vl_4b", "--detectors", "", "--write", "cpu"],
        "was not written by the planner and is left alone",
    ),
    (
        ["--tiers", "qwen3_vl_4b", "--detectors", "", "--write", "My Profile"],
        "'My Profile' is not a name of lower-case",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = [] if "--gpus" in arguments else ["--gpus", "1x80"]
    assert main(["plan", *gpus, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("roadwork-deploy: ")
    assert message in line


@pytest.mark.parametrize(("count", "message"), [(3, "32 heads do not divide by 3"), (64, "")])
def test_more_tensor_parallelism_than_heads_divide_is_refused(count: int, message: str) -> None:
    wish = Wish(parallel={"qwen3_vl_8b": count})
    with pytest.raises(PlanError, match=message or "heads do not divide by 64"):
        make_plan(Request(parse_gpus("64x80"), (), ("qwen3_vl_8b",), wish=wish))


def test_what_is_named_and_left_out_is_told_and_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    given = ["--gpus", "1x24", "--detectors", "", "--tiers", "qwen3_vl_32b,qwen3_vl_2b"]
    assert main(["plan", *given, "--write", str(path)]) == 1
    said = capsys.readouterr()
    assert "left out: qwen3_vl_32b: in fp8 it takes" in said.out
    assert "cheapest for all of it: 1x" in said.out
    assert "nothing is written" in said.err
    assert not path.exists()
    assert max(len(line) for line in said.out.splitlines()) <= 100


def test_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    status, data = planned(capsys, "--gpus", "1xh100", "--detectors", "rfdetr_large", "--tiers", "qwen3_vl_8b")
    assert status == 0
    assert [each["name"] for each in data["models"]] == ["qwen3_vl_8b", "rfdetr_large"]
    for each in data["models"]:
        assert sum(each["parts"].values()) == each["bytes"] >= each["bytes_at_start"]
    assert data["cheapest"]["count"] == 1
    assert data["gpus"][0]["models"] == ["qwen3_vl_8b", "rfdetr_large"]


def test_more_images_and_larger_ones_take_more(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--gpus", "1x80", "--detectors", "", "--tiers", "qwen3_vl_4b"]
    sizes = [
        planned(capsys, *given, *more)[1]["models"][0]["bytes"]
        for more in ([], ["--max-images", "128"], ["--image-side", "896"], ["--precision", "fp8"])
    ]
    assert sizes[1] > sizes[0]
    assert sizes[2] > sizes[0]
    assert sizes[3] < sizes[0]


def test_techniques_are_settings_and_count(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--gpus", "1xh100", "--detectors", "", "--tiers", "qwen3_vl_4b"]
    plain = planned(capsys, *given)[1]["models"][0]
    halved = planned(capsys, *given, "--with", "kv_fp8")[1]["models"][0]
    assert halved["engine"]["kv_cache_dtype"] == "fp8"
    assert halved["parts"]["KV cache"] * 2 == plain["parts"]["KV cache"]
    fewer = planned(capsys, *given, "--with", "visual_tokens=64")[1]["models"][0]
    assert fewer["parts"]["KV cache"] < plain["parts"]["KV cache"]
    for technique, message in (
        ("kvpress", "--with: kvpress: hooks of transformers"),
        ("kv_fp9", "--with: no technique 'kv_fp9'; did you mean kv_fp8"),
        ("fp8", "--with: fp8 sets quantization, which follows from --precision and --parallel"),
    ):
        assert main(["plan", *given, "--with", technique]) == 2
        assert message in capsys.readouterr().err


def test_engine_settings_are_vllms_own() -> None:
    """Read from vLLM's file, which takes long to import: the fields of its EngineArgs and AsyncEngineArgs."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    source = (Path(spec.submodule_search_locations[0]) / "engine" / "arg_utils.py").read_text(encoding="utf-8")
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    known = {
        item.target.id
        for node in classes
        if node.name in ("EngineArgs", "AsyncEngineArgs")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assert len(known) > 100
    used = {key for name in PLANNED for share in load_profile(name).tier_shares.values() for key in share.engine}
    assert "kv_cache_memory_bytes" in used
    assert used <= known


def test_planning_imports_neither_torch_nor_vllm_and_no_network() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "socket.getaddrinfo = refuse\n"
        "from roadwork_deploy.cli import main\n"
        "assert main(['plan', '--gpus', '2x80']) == 0\n"
        "heavy = {'torch', 'vllm', 'transformers', 'onnx', 'onnxruntime', 'cv2'}\n"
        "print('heavy:', sorted({name.partition('.')[0] for name in sys.modules} & heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_tokens_agree_with_those_that_write_tiers() -> None:
    """Read, not imported: those files import torch."""
    folder = Path(__file__).resolve().parents[3] / "export" / "roadwork_export" / "tiers"
    assert f"TEXT_TOKENS = {QUESTION_TOKENS}\n" in (folder / "folder.py").read_text()
    assert (
        f"ANSWER_TOKENS, THINKING_TOKENS = 96, {ANSWER_TOKENS['reasoner']}\n" in (folder / "prompting.py").read_text()
    )


def test_there_are_planned_profiles() -> None:
    assert set(PLANNED) >= {"gpu-24g", "gpu-80g", "gpu-2x80g", "gpu-4x80g"}


@pytest.mark.parametrize("name", PLANNED)
def test_a_committed_profile_is_what_its_command_writes(name: str, tmp_path: Path) -> None:
    committed = (FOLDER / f"{name}.yaml").read_text()
    command = shlex.split(committed.splitlines()[1].removeprefix("#"))
    assert command[:2] == ["roadwork-deploy", "plan"]
    assert command[-2:] == ["--write", name]
    path = tmp_path / f"{name}.yaml"
    assert main([*command[1:-1], str(path)]) == 0
    written = path.read_text().replace(str(path), name)
    assert written == committed, f"run: {shlex.join(command)}"


def test_the_documented_tables_are_the_profiles() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "planning.md").read_text()
    for name in PLANNED:
        for model, share in {**load_profile(name).tier_shares, **load_profile(name).placement}.items():
            row = f"| {model} | {share.bytes / GB:.1f} |"
            section = text.partition(f"### {name}\n")[2].partition("\n### ")[0]
            assert row in section, f"docs/planning.md, {name}: no row {row!r}"
