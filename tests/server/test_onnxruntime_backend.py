"""The python-based ONNX Runtime backend on a real server: what NVIDIA's C++ backend would do with the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from onnx import TensorProto, helper
from roadwork_deploy.server import EmbeddedServer
from tritonclient.utils import InferenceServerException

FLOAT = TensorProto.FLOAT
WAIT = "dynamic_batching { max_queue_delay_microseconds: 300000 }"
STEPS = ["step_1", "step_2", "step_3", "step_4"]
MINIMAL = 'backend: "onnxruntime"\n'


def parameter(key: str, value: object) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'


@pytest.fixture(scope="module")
def served(module_repository: Any) -> Iterator[EmbeddedServer]:
    """Models that load, started with the server; broken ones lie beside them for tests to load."""
    repository = module_repository
    fill_working(repository)
    working = list(repository.models)
    fill_broken(repository)
    with EmbeddedServer(repository.path, working, probes=["add"], arguments=["--log-verbose=1"]) as server:
        yield server


def fill_working(repository: Any) -> None:
    repository.add_adder("add", config=WAIT)
    repository.add_adder("plain", max_batch_size=0)
    repository.add_adder("pair", config=f"{WAIT} instance_group [{{ count: 2 }}]")
    sample = '{ key: "x" value: { data_type: TYPE_FP32 dims: 4 zero_data: true } }'
    warm = f'model_warmup [{{ name: "zeros" batch_size: 2 inputs {sample} }}]'
    repository.add_adder("warm", config=warm)
    threads = "\n".join(
        [parameter("intra_op_thread_count", 4), parameter("execution_mode", 1), parameter("inter_op_thread_count", 3)]
    )
    repository.add_adder("threads", config=f"{threads} optimization {{ graph {{ level: 1 }} }}")
    repository.add_adder("one_thread", config=parameter("intra_op_thread_count", 1))
    accelerators = (
        'optimization { execution_accelerators { gpu_execution_accelerator [{ name: "tensorrt" }] '
        'cpu_execution_accelerator [{ name: "openvino" }] } } instance_group [{ count: 2 kind: KIND_CPU }]'
    )
    repository.add_adder("accelerated", config=accelerators)
    repository.add_adder("sizes", config=parameter("batch_sizes", "2,4"))
    repository.add_adder("platform")
    config = repository.path / "platform" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"'))
    for name, threads in (("look_up", 1), ("side_by_side", 3), *((step, 8) for step in STEPS)):
        repository.add_onnx(
            name,
            [helper.make_node("Gather", ["table", "index"], ["value"], axis=0)],
            {"index": (TensorProto.INT64, ["batch", 1])},
            {"value": (FLOAT, ["batch", 1])},
            initializers=[helper.make_tensor("table", FLOAT, [3], [10.0, 20.0, 30.0])],
            max_batch_size=8,
            config=f"{'' if name in STEPS else WAIT} {parameter('request_threads', threads)}",
        )
    fan_out(repository, "steps", STEPS)
    repository.add_onnx(
        "counting",
        [
            helper.make_node("Reshape", ["turns", "scalar"], ["trips"]),
            helper.make_node("Loop", ["trips", "", "zero"], ["total"], body=count_up()),
            helper.make_node("Reshape", ["total", "row"], ["value"]),
        ],
        {"turns": (TensorProto.INT64, [1])},
        {"value": (FLOAT, [1])},
        initializers=[
            helper.make_tensor("zero", FLOAT, [1], [0.0]),
            helper.make_tensor("scalar", TensorProto.INT64, [0], []),
            helper.make_tensor("row", TensorProto.INT64, [1], [1]),
        ],
        config=parameter("request_threads", 2),
    )
    repository.add_onnx(
        "two",
        [helper.make_node("Neg", ["x"], ["minus"]), helper.make_node("Abs", ["x"], ["size"])],
        {"x": (FLOAT, ["batch", "n"])},
        {"minus": (FLOAT, ["batch", "n"]), "size": (FLOAT, ["batch", "n"])},
        max_batch_size=4,
    )
    repository.add_onnx(
        "strings",
        [helper.make_node("Identity", ["text"], ["same"])],
        {"text": (TensorProto.STRING, ["batch", 2])},
        {"same": (TensorProto.STRING, ["batch", 2])},
        max_batch_size=4,
        config='default_model_filename: "words.onnx"',
        filename="words.onnx",
    )
    repository.add_onnx(
        "reshaped",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        {"x": (FLOAT, ["batch"])},
        {"y": (FLOAT, ["batch"])},
        text='backend: "onnxruntime" max_batch_size: 4 instance_group [{ count: 1 }] '
        'input [{ name: "x" data_type: TYPE_FP32 dims: [1] reshape: { shape: [] } }] '
        'output [{ name: "y" data_type: TYPE_FP32 dims: [1] reshape: { shape: [] } }]',
        max_batch_size=4,
    )


def fan_out(repository: Any, name: str, steps: list[str]) -> None:
    """An ensemble that asks several models of one `index` each at the same time."""
    (repository.path / name / "1").mkdir(parents=True)
    inputs = ", ".join(f'{{ name: "index_{step}" data_type: TYPE_INT64 dims: [1] }}' for step in steps)
    outputs = ", ".join(f'{{ name: "value_{step}" data_type: TYPE_FP32 dims: [1] }}' for step in steps)
    asked = ", ".join(
        f'{{ model_name: "{step}" model_version: -1 input_map {{ key: "index" value: "index_{step}" }} '
        f'output_map {{ key: "value" value: "value_{step}" }} }}'
        for step in steps
    )
    (repository.path / name / "config.pbtxt").write_text(
        f'name: "{name}" platform: "ensemble" max_batch_size: 8 input [{inputs}] output [{outputs}] '
        f"ensemble_scheduling {{ step [{asked}] }}\n"
    )
    repository.models.append(name)


def count_up() -> Any:
    """Body of a Loop that adds one each time, so that a request takes as long as it asks for."""
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Add", ["before", "one"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", FLOAT, [1]),
        ],
        [helper.make_tensor("one", FLOAT, [1], [1.0])],
    )


def fill_broken(repository: Any) -> None:
    repository.add_adder("no_file")
    (repository.path / "no_file" / "1" / "model.onnx").unlink()
    repository.add_adder("no_onnx")
    (repository.path / "no_onnx" / "1" / "model.onnx").write_bytes(b"not a model")
    for name, old, new in (
        ("wrong_shape", "dims: [4]", "dims: [5]"),
        ("wrong_rank", "dims: [4]", "dims: [4, 1]"),
        ("wrong_type", "TYPE_FP32", "TYPE_INT32"),
        ("wrong_output", 'name: "y"', 'name: "z"'),
        ("wrong_input", 'name: "x"', 'name: "w"'),
    ):
        repository.add_adder(name)
        config = repository.path / name / "config.pbtxt"
        config.write_text(config.read_text().replace(old, new))
    repository.add_adder("fixed_batch", max_batch_size=0)
    config = repository.path / "fixed_batch" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 0", "max_batch_size: 8"))
    repository.add_adder("bad_threads", config=parameter("intra_op_thread_count", "many"))


def statistics(server: EmbeddedServer, model: str) -> Any:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        return client.get_inference_statistics(model).model_stats[0]


def rows(count: int, value: float) -> np.ndarray:
    return np.full((count, 4), value, np.float32)


@pytest.mark.parametrize("model", ["add", "pair"])
def test_requests_of_different_callers_share_one_run(served: EmbeddedServer, infer: Callable, model: str) -> None:
    before = statistics(served, model)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: infer(served, model, x=rows(1 + i % 2, i))["y"], range(16)))
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer, rows(1 + i % 2, i + 1))
    after = statistics(served, model)
    assert after.inference_count - before.inference_count == 24
    assert after.execution_count - before.execution_count <= 12
    assert max(batch.batch_size for batch in after.batch_stats) >= 3


@pytest.mark.parametrize("model", ["look_up", "side_by_side"])
def test_a_bad_request_in_a_batch_fails_alone(served: EmbeddedServer, infer: Callable, model: str) -> None:
    def ask(index: int) -> float | str:
        try:
            return float(infer(served, model, index=np.array([[index]], np.int64))["value"][0, 0])
        except InferenceServerException as error:
            return str(error.message())

    with ThreadPoolExecutor(5) as pool:
        first, second, bad, third, fourth = pool.map(ask, [0, 1, 99, 2, 0])
    assert (first, second, third, fourth) == (10.0, 20.0, 30.0, 10.0)
    assert isinstance(bad, str)
    assert "99" in bad


@pytest.mark.parametrize("failing", [STEPS[0], STEPS[-1]])
def test_a_step_that_fails_does_not_end_the_server(served: EmbeddedServer, infer: Callable, failing: str) -> None:
    """Triton 2.51 ends with a segmentation fault where a step fails before those beside it were handed out."""
    inputs = {f"index_{step}": np.array([[99 if step == failing else 1]], np.int64) for step in STEPS}

    def ask(_: int) -> str:
        try:
            infer(served, "steps", **inputs)
        except InferenceServerException as error:
            return str(error.message())
        return "answered"

    with ThreadPoolExecutor(8) as pool:
        told = set(pool.map(ask, range(200)))
    assert all("steps" in one and "99" in one for one in told), told
    assert served.running
    assert infer(served, "add", x=rows(1, 1.0))["y"][0, 0] == 2.0


def test_a_slow_request_holds_up_no_other_where_requests_have_threads(served: EmbeddedServer, infer: Callable) -> None:
    def count(turns: int) -> float:
        return float(infer(served, "counting", turns=np.array([turns], np.int64))["value"][0])

    with ThreadPoolExecutor(4) as pool:
        slow = pool.submit(count, 2_000_000)
        quick = [pool.submit(count, turns) for turns in range(1, 13)]
        assert [one.result(timeout=20) for one in quick] == list(range(1, 13))
        assert not slow.done()
        assert slow.result(timeout=30) == 2_000_000


def test_a_model_that_does_not_batch_is_served(served: EmbeddedServer, infer: Callable) -> None:
    np.testing.assert_array_equal(infer(served, "plain", x=np.zeros(4, np.float32))["y"], np.ones(4, np.float32))


def test_only_what_is_asked_for_is_answered(served: EmbeddedServer, infer: Callable) -> None:
    x = np.array([[-1.0, 2.0, -3.0]], np.float32)
    answer = infer(served, "two", ["size"], x=x)
    assert list(answer) == ["size"]
    np.testing.assert_array_equal(answer["size"], np.abs(x))
    np.testing.assert_array_equal(infer(served, "two", x=x)["minus"], -x)


def test_strings_go_through_a_file_of_another_name(served: EmbeddedServer, infer: Callable) -> None:
    text = np.array([["Straße".encode(), b"road work"]], dtype=object)
    np.testing.assert_array_equal(infer(served, "strings", text=text)["same"], text)


def test_reshape_and_platform_are_honoured(served: EmbeddedServer, infer: Callable) -> None:
    column = np.array([[1.0], [2.0]], np.float32)
    np.testing.assert_array_equal(infer(served, "reshaped", x=column)["y"], column * 2)
    np.testing.assert_array_equal(infer(served, "platform", x=rows(1, 1))["y"], rows(1, 2))


def test_a_configuration_without_tensors_is_completed_from_the_file(repository: Any, infer: Callable) -> None:
    repository.add_onnx(
        "minimal",
        [helper.make_node("Add", ["x", "x"], ["y"])],
        {"x": (FLOAT, ["batch", 2])},
        {"y": (FLOAT, ["batch", 2])},
        text=MINIMAL,
        max_batch_size=4,
    )
    with EmbeddedServer(repository.path, ["minimal"]) as server:
        np.testing.assert_array_equal(
            infer(server, "minimal", x=np.ones((3, 2), np.float32))["y"], np.full((3, 2), 2.0)
        )
        with grpc.InferenceServerClient(server.grpc_url) as client:
            assert client.get_model_config("minimal").config.max_batch_size == 4


def test_warm_up_runs_before_the_model_is_ready(served: EmbeddedServer) -> None:
    log = served.log_text()
    warmed = log.index("is running warmup sample 'zeros'")
    assert warmed < log.index("successfully loaded 'warm'")


def test_batches_of_other_sizes_are_filled_up_and_cut_again(served: EmbeddedServer, infer: Callable) -> None:
    log = served.log_text()
    assert all(f"sizes_0_0: first batch of {size} took" in log for size in (2, 4))
    for count in (1, 3, 4, 5):
        found, expected = (infer(served, model, x=rows(count, 5.0))["y"] for model in ("sizes", "add"))
        np.testing.assert_array_equal(found, expected)


def test_thread_settings_reach_the_session(served: EmbeddedServer) -> None:
    """Intra-op pools of 4 and 1 threads differ by 3 workers; the parallel executor adds its own."""
    many, one = (_threads(served, name) for name in ("threads", "one_thread"))
    assert many - one >= 4
    assert "threads_0_0: model.onnx on CPU, threads 4" in served.log_text()


def test_a_missing_accelerator_is_said_once(served: EmbeddedServer, infer: Callable) -> None:
    np.testing.assert_array_equal(infer(served, "accelerated", x=rows(1, 1))["y"], rows(1, 2))
    log = served.log_text()
    assert log.count("accelerator 'openvino' is not in the installed ONNX Runtime") == 1
    assert "accelerator 'tensorrt'" not in log  # it is for GPUs, and no instance is on one


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no_file", ["no_file/1/model.onnx is missing", "roadwork-export build no_file"]),
        ("no_onnx", ["no_onnx/1/model.onnx", "cannot open it"]),
        ("wrong_shape", ["wrong_shape/1/model.onnx", "input 'x'", "[-1, 4]", "dims [5]", "set dims: [4]"]),
        ("wrong_rank", ["input 'x'", "dims [4, 1]", "set dims: [4]"]),
        ("wrong_type", ["input 'x' is TYPE_FP32 in the file and TYPE_INT32", "set data_type: TYPE_FP32"]),
        ("wrong_output", ["no output 'z'", "the file has y"]),
        ("wrong_input", ["its input 'x' is not in config.pbtxt"]),
        ("fixed_batch", ["input 'x'", "first dimension is not variable", "max_batch_size: 0"]),
        ("bad_threads", ["intra_op_thread_count is 'many'"]),
    ],
)
def test_a_broken_model_says_what_is_wrong_and_what_to_do(served: EmbeddedServer, model: str, words: list[str]) -> None:
    with grpc.InferenceServerClient(served.grpc_url) as client, pytest.raises(InferenceServerException) as caught:
        client.load_model(model, client_timeout=60)
    for word in words:
        assert word in str(caught.value.message())


def test_a_model_can_be_unloaded_and_loaded_while_serving(served: EmbeddedServer, infer: Callable) -> None:
    with grpc.InferenceServerClient(served.grpc_url) as client:
        client.unload_model("platform", client_timeout=30)
        with pytest.raises(InferenceServerException):
            infer(served, "platform", x=rows(1, 1))
        client.load_model("platform", client_timeout=60)
    np.testing.assert_array_equal(infer(served, "platform", x=rows(1, 1))["y"], rows(1, 2))


def _threads(server: EmbeddedServer, model: str) -> int:
    """Threads of the process that serves the first instance of a model."""
    wanted = f"{server.repository}/{model}/"
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (path / "cmdline").read_text() and "triton_python" in (path / "comm").read_text():
                return sum(1 for _ in (path / "task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError(f"no process serves {model}")
