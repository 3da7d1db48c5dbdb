"""The ONNX Runtime backend's parts that need no server."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ort_batch import Arrays, Job, cheapest, fill_up, run_jobs
from ort_providers import choose_providers
from ort_session import find_file
from ort_settings import ConfigError, read_settings
from ort_signature import blank, check_signature

CPU_ONLY = ["CPUExecutionProvider"]
GPU = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def parameters(**values: str) -> dict[str, Any]:
    return {"name": "model", "parameters": {key: {"string_value": value} for key, value in values.items()}}


class Doubler:
    """Stands in for a session: y = 2 x, refuses a negative number, counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, names: list[str], inputs: Arrays) -> Sequence[np.ndarray]:
        x = inputs["x"]
        self.calls.append(x.shape)
        if (x < 0).any():
            raise RuntimeError("negative")
        return [{"y": x * 2, "sum": x.sum(axis=1, keepdims=True)}[name] for name in names]


def job(rows: int, columns: int = 2, value: float = 1.0, wanted: Sequence[str] = ("y",)) -> Job:
    return Job({"x": np.full((rows, columns), value, np.float32)}, list(wanted))


def test_jobs_of_one_shape_share_a_call() -> None:
    run, jobs = Doubler(), [job(1), job(3, value=2.0), job(2, wanted=("sum", "y"))]
    run_jobs(jobs, run, batched=True)
    assert run.calls == [(6, 2)]
    assert [set(j.outputs or ()) for j in jobs] == [{"y"}, {"y"}, {"y", "sum"}]
    np.testing.assert_array_equal((jobs[1].outputs or {})["y"], np.full((3, 2), 4.0))


def test_jobs_of_other_shapes_get_their_own_call() -> None:
    run, jobs = Doubler(), [job(1), job(1, columns=3), job(2)]
    run_jobs(jobs, run, batched=True)
    assert sorted(run.calls) == [(1, 3), (3, 2)]
    assert all(j.error is None for j in jobs)


def test_a_failing_job_takes_none_with_it() -> None:
    run, jobs = Doubler(), [job(1), job(1, value=-1.0), job(1)]
    run_jobs(jobs, run, batched=True)
    assert [j.error for j in jobs] == [None, "negative", None]


def test_without_a_batch_dimension_each_runs_alone_and_a_lone_job_is_not_copied() -> None:
    run, jobs = Doubler(), [job(1), job(1)]
    run_jobs(jobs, run, batched=False)
    assert run.calls == [(1, 2), (1, 2)]
    seen: list[np.ndarray] = []
    alone = job(1)
    run_jobs([alone], lambda names, inputs: seen.append(inputs["x"]) or [inputs["x"]], batched=True)  # type: ignore[func-returns-value]
    assert seen[0] is alone.inputs["x"]


def test_batches_are_filled_up_to_the_sizes_that_were_seen_at_load() -> None:
    session = Doubler()
    run, jobs = fill_up({1: session, 4: session, 8: session}), [job(1, value=3.0), job(2, wanted=("sum",))]
    run_jobs(jobs, run, batched=True)
    assert session.calls == [(4, 2)]
    np.testing.assert_array_equal((jobs[0].outputs or {})["y"], [[6.0, 6.0]])
    np.testing.assert_array_equal((jobs[1].outputs or {})["sum"], [[2.0], [2.0]])
    for rows, ran in ((1, [1]), (4, [4]), (5, [8]), (9, [8, 1]), (21, [8, 8, 8])):
        session.calls.clear()
        inputs = {"x": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}
        (found,) = run(["y"], inputs)
        np.testing.assert_array_equal(found, 2 * inputs["x"])
        assert session.calls == [(size, 2) for size in ran]


def test_each_size_of_a_batch_has_its_own_session() -> None:
    one, four = Doubler(), Doubler()
    run = fill_up({4: four, 1: one})
    for rows in (1, 2, 5):
        run(["y"], job(rows).inputs)
    assert (one.calls, four.calls) == ([(1, 2), (1, 2)], [(4, 2), (4, 2)])


def test_a_batch_is_cut_into_the_sizes_that_take_least_time() -> None:
    small = {1: 7.0, 8: 15.5}  # milliseconds of a network of some 100 GFLOP on a large GPU
    assert [cheapest(small, rows) for rows in (1, 2, 3, 8, 9, 11)] == [(1,), (1, 1), (8,), (8,), (8, 1), (8, 8)]
    large = {1: 83.0, 8: 616.0}
    assert [cheapest(large, rows) for rows in (3, 7, 8, 9)] == [(1,) * 3, (1,) * 7, (8,), (8, 1)]
    one, eight = Doubler(), Doubler()
    run = fill_up({1: one, 8: eight}, small)
    inputs = job(10).inputs
    (found,) = run(["y"], inputs)
    np.testing.assert_array_equal(found, 2 * inputs["x"])
    assert (one.calls, eight.calls) == ([(1, 2), (1, 2)], [(8, 2)])


@given(st.dictionaries(st.integers(1, 16), st.floats(0.1, 10), min_size=1, max_size=3), st.integers(1, 20))
def test_no_other_cut_takes_less_time(seconds: dict[int, float], rows: int) -> None:
    found = cheapest(seconds, rows)
    assert sum(found) >= rows
    most = [range(-(-rows // size) + 1) for size in seconds]
    every = (counts for counts in itertools.product(*most) if sum(map(operator.mul, counts, seconds)) >= rows)
    least = min(sum(map(operator.mul, counts, seconds.values())) for counts in every)
    assert sum(seconds[size] for size in found) == pytest.approx(least)


def test_an_output_that_is_not_of_the_batch_is_not_computed_from_filler() -> None:
    run = fill_up({4: lambda names, inputs: [inputs["x"].sum(keepdims=True)]})
    assert run(["total"], job(3).inputs)[0].item() == 6.0
    assert run(["total"], job(9).inputs)[0].item() == 18.0


def test_the_largest_size_of_a_batch_is_the_models_own_limit() -> None:
    config = {**parameters(batch_sizes="8, 1,2,32"), "max_batch_size": 8}
    assert read_settings(config).batch_sizes == (1, 2, 8)
    assert read_settings({**config, "dynamic_batching": {"preferred_batch_size": [4]}}).batch_sizes == (1, 2, 4)
    with pytest.raises(ConfigError, match="batch_sizes is '0,2'"):
        read_settings(parameters(batch_sizes="0,2"))


def test_requests_have_one_thread_unless_more_are_asked_for() -> None:
    assert read_settings(parameters()).request_threads == 1
    assert read_settings(parameters(request_threads="2")).request_threads == 2
    with pytest.raises(ConfigError, match="request_threads is 'many'"):
        read_settings(parameters(request_threads="many"))


def test_a_blank_batch_has_the_sessions_shapes() -> None:
    canvas = SimpleNamespace(name="canvas", type="tensor(uint8)", shape=["batch", 4, 4, 3])
    made = blank([canvas], 2)
    assert made is not None
    assert made["canvas"].shape == (2, 4, 4, 3)
    assert made["canvas"].dtype == np.uint8
    assert blank([SimpleNamespace(name="x", type="tensor(float)", shape=["batch", "side"])], 2) is None


def test_settings_are_the_documented_ones() -> None:
    config = parameters(
        intra_op_thread_count="2",
        inter_op_thread_count="3",
        execution_mode="1",
        enable_mem_arena="0",
        **{"session.disable_prepacking": "1", "memory.enable_memory_arena_shrinkage": "cpu:0"},
    )
    config["optimization"] = {"graph": {"level": -1}}
    settings = read_settings(config)
    assert (settings.intra_op_threads, settings.inter_op_threads, settings.parallel) == (2, 3, True)
    assert (settings.graph_level, settings.memory_arena, settings.memory_pattern) == ("ORT_ENABLE_BASIC", False, None)
    assert settings.session_entries["session.disable_prepacking"] == "1"
    assert settings.run_entries == {"memory.enable_memory_arena_shrinkage": "cpu:0"}


def test_threads_do_not_spin_unless_asked_to() -> None:
    assert read_settings(parameters()).session_entries["session.intra_op.allow_spinning"] == "0"
    asked = read_settings(parameters(**{"session.intra_op.allow_spinning": "1"}))
    assert asked.session_entries["session.intra_op.allow_spinning"] == "1"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (parameters(intra_op_thread_count="-1"), "intra_op_thread_count is -1"),
        (parameters(execution_mode="2"), "execution_mode is 2"),
        (parameters(enable_mem_arena="maybe"), "enable_mem_arena is 'maybe'"),
        ({"name": "model", "optimization": {"graph": {"level": 7}}}, "optimization.graph.level is 7"),
        ({"name": "model", "sequence_batching": {"state": []}}, "sequence_batching .* needs NVIDIA's C"),
    ],
)
def test_settings_that_cannot_be_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(config)


def accelerated(where: str, name: str, **options: str) -> Any:
    entry = {"name": name, "parameters": options}
    return read_settings(
        {"name": "m", "optimization": {"execution_accelerators": {f"{where}_execution_accelerator": [entry]}}}
    )


def test_a_gpu_instance_runs_on_its_own_device() -> None:
    chosen, missing = choose_providers("m", read_settings(parameters(gpu_mem_limit="100")), "GPU", 3, GPU)
    assert chosen == [
        ("CUDAExecutionProvider", {"gpu_mem_limit": "100", "device_id": "3"}),
        ("CPUExecutionProvider", {}),
    ]
    assert missing == []


def test_a_gpu_instance_without_a_provider_is_refused() -> None:
    with pytest.raises(ConfigError, match="install onnxruntime-gpu"):
        choose_providers("m", read_settings({}), "GPU", 0, CPU_ONLY)


def test_tensorrt_takes_tritons_options() -> None:
    settings = accelerated(
        "gpu", "tensorrt", precision_mode="FP16", max_workspace_size_bytes="99", trt_engine_cache_enable="1"
    )
    chosen, _ = choose_providers("m", settings, "GPU", 1, GPU)
    assert [name for name, _ in chosen] == GPU
    assert chosen[0][1] == {
        "device_id": "1",
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "99",
        "trt_engine_cache_enable": "1",
    }
    with pytest.raises(ConfigError, match="precision_mode 'FP4'"):
        choose_providers("m", accelerated("gpu", "tensorrt", precision_mode="FP4"), "GPU", 0, GPU)


def test_an_accelerator_that_is_not_installed_is_said() -> None:
    chosen, missing = choose_providers("m", accelerated("cpu", "openvino"), "CPU", 0, CPU_ONLY)
    assert chosen == [("CPUExecutionProvider", {})]
    assert len(missing) == 1
    assert "accelerator 'openvino' is not in the installed ONNX Runtime" in missing[0]
    assert choose_providers("m", accelerated("gpu", "tensorrt"), "CPU", 0, CPU_ONLY)[1] == []


def node(name: str, kind: str, shape: list) -> Any:
    return SimpleNamespace(name=name, type=kind, shape=shape)


def config(dims: list, data_type: str = "TYPE_FP32", batch: int = 8, **more: Any) -> dict[str, Any]:
    tensor = {"data_type": data_type, "dims": dims}
    return {"max_batch_size": batch, "input": [{"name": "x", **tensor, **more}], "output": [{"name": "y", **tensor}]}


def check(configured: dict[str, Any], shape: list, kind: str = "tensor(float)", free: Sequence[Any] = ()) -> Any:
    return check_signature("m.onnx", configured, [node("x", kind, shape)], [node("y", kind, shape)], free)


@pytest.mark.parametrize(
    ("dims", "shape"), [([4], ["b", 4]), ([-1], ["b", 4]), ([4], ["b", None]), ([2, -1], [-1, 2, "n"])]
)
def test_shapes_that_fit(dims: list, shape: list) -> None:
    inputs, outputs = check(config(dims), shape)
    assert (inputs[0].name, outputs[0].name) == ("x", "y")


@pytest.mark.parametrize(
    ("configured", "shape", "message"),
    [
        (config([4]), ["b", 5], r"^m.onnx: input 'x' has shape \[-1, 5\] .* dims \[4\] .*set dims: \[5\]"),
        (config([4]), ["b", 4, 1], r"set dims: \[4, 1\]"),
        (config([4]), [1, 4], r"first dimension is not variable.*max_batch_size: 0"),
        (config([4], batch=0), ["b", 4], r"set dims: \[-1, 4\]"),
        (config([4], "TYPE_FP16"), ["b", 4], "input 'x' is TYPE_FP32 in the file and TYPE_FP16"),
        (config([4], optional=True), ["b", 4], "is optional in config.pbtxt, but the file gives it no default"),
        (config([4], allow_ragged_batch=True), ["b", 4], "allow_ragged_batch"),
    ],
)
def test_shapes_that_do_not_fit_name_tensor_and_file(configured: dict[str, Any], shape: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(configured, shape)


def test_a_type_that_triton_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"input 'x' is tensor\(complex64\)"):
        check(config([4]), ["b", 4], kind="tensor(complex64)")


def test_an_optional_input_replaces_an_initialiser() -> None:
    configured = config([4])
    configured["input"].append({"name": "scale", "data_type": "TYPE_FP32", "dims": [1], "optional": True})
    inputs, _ = check(configured, ["b", 4], free=[node("scale", "tensor(float)", ["b", 1])])
    assert [tensor.optional for tensor in inputs] == [False, True]


def test_a_missing_file_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1/model\.onnx is missing; build it with: roadwork-export build scene"):
        find_file("scene", tmp_path / "1", "")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.onnx").touch()
    assert find_file("scene", tmp_path, "folder") == tmp_path / "folder" / "model.onnx"
