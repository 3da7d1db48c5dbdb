"""Adding a detector is adding a folder: what `wire` derives from it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from roadwork_cascade.policy import load_policy, parse_policy, write_policy
from roadwork_deploy.cli import main
from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.profile import known_profiles, load_profile
from roadwork_deploy.repository import default_repository, is_complete, members, read_config, read_models
from roadwork_deploy.serve import prepare
from roadwork_deploy.wire import pending, wire

DEPTH = """
backend: "onnxruntime" max_batch_size: 4
input [{ name: "canvas" data_type: TYPE_UINT8 dims: [640, 640, 3] }]
output [{ name: "nearness" data_type: TYPE_FP32 dims: [80, 80] }]
"""
# What a new folder beside the detectors changes.
OF_PERCEPTION = {
    f"{model}/{config}"
    for model in ("perception", "everything", "networks")
    for config in ("config.pbtxt", "configs/cpu.pbtxt")
}


def config_names() -> set[str]:
    return {load_profile(name).config_name for name in known_profiles()}


def add_depth(repository: Path, config: str = DEPTH) -> None:
    (repository / "depth" / "1").mkdir(parents=True)
    (repository / "depth" / "config.pbtxt").write_text(config)
    (repository / "depth" / "1" / "model.onnx").touch()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_members_are_known_by_their_signature_alone(repository: Path) -> None:
    assert members(read_models(repository)) == {"first": "boxes", "second": "boxes", "sight": "scene"}


def test_the_committed_repository_is_wired() -> None:
    assert [str(change.path) for change in pending(default_repository())] == []


def test_perception_asks_every_detector_on_the_same_canvas(repository: Path) -> None:
    wire(repository)
    config = read_config(repository / "perception" / "config.pbtxt")
    assert config.max_batch_size == 8
    steps = config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["first", "second"]
    assert all(dict(step.input_map) == {"canvas": "canvas"} for step in steps)
    assert [o.name for o in config.output] == [
        f"{m}_{t}" for m in ("first", "second") for t in ("boxes", "scores", "classes")
    ]
    assert dict(steps[1].output_map)["scores"] == "second_scores"


def test_glance_decodes_once_and_hands_the_canvas_on(repository: Path) -> None:
    wire(repository)
    config = read_config(repository / "glance" / "config.pbtxt")
    assert config.max_batch_size == 4  # the scene model's: no larger batch could pass
    assert [output.name for output in config.output] == ["canvas", "geometry", "sight_presence"]
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["decode", "sight"]


def test_everything_decodes_once_and_asks_all_members(repository: Path) -> None:
    wire(repository)
    config = read_config(repository / "everything" / "config.pbtxt")
    assert config.max_batch_size == 4
    decode, *members = config.ensemble_scheduling.step
    assert (decode.model_name, dict(decode.input_map)) == ("decode", {"image": "image"})
    assert [step.model_name for step in members] == ["first", "second", "sight"]
    assert all(dict(step.input_map) == {"canvas": "canvas"} for step in members)
    produced = [name for step in config.ensemble_scheduling.step for name in step.output_map.values()]
    assert {output.name for output in config.output} == set(produced)


def test_the_profile_sets_instances_threads_and_device(repository: Path) -> None:
    wire(repository)
    config = read_config(repository / "first" / "configs" / "cpu.pbtxt")
    assert config.name == "first"
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert [(group.count, group.Kind.Name(group.kind)) for group in config.instance_group] == [(1, "KIND_CPU")]
    cascade = read_config(repository / "roadwork" / "configs" / "cpu.pbtxt")
    assert cascade.instance_group[0].count == load_profile("cpu").models["roadwork"].instances == 3


def steps(path: Path) -> list[str]:
    return [step.model_name for step in read_config(path).ensemble_scheduling.step]


def test_where_networks_are_served_the_ensembles_ask_them_in_one_call(repository: Path) -> None:
    wire(repository)
    assert pending(repository) == []
    assert [path.name for path in (repository / "perception" / "configs").iterdir()] == ["cpu.pbtxt"]
    for ensemble, source, outputs in (
        ("perception", "canvas", ["first_boxes", "first_scores", "first_classes", "second_boxes"]),
        ("glance", "image", ["canvas", "geometry", "sight_presence"]),
        ("everything", "image", ["canvas", "geometry", "first_boxes"]),
    ):
        config = read_config(repository / ensemble / "configs" / "cpu.pbtxt")
        plain = read_config(repository / ensemble / "config.pbtxt")
        assert (config.input, config.output) == (plain.input, plain.output)  # the callers need not know
        assert config.max_batch_size <= plain.max_batch_size
        (step,) = config.ensemble_scheduling.step
        assert (step.model_name, dict(step.input_map)) == ("networks", {source: source})
        assert set(outputs) <= set(step.output_map)
        assert all(key == value for key, value in step.output_map.items())
        assert set(step.output_map) == {output.name for output in config.output}


def test_networks_have_the_outputs_of_all_and_the_limits_of_the_decoder(repository: Path) -> None:
    wire(repository)
    config = read_config(repository / "networks" / "config.pbtxt")
    assert {(tensor.name, tensor.optional) for tensor in config.input} == {("image", True), ("canvas", True)}
    everything = read_config(repository / "everything" / "config.pbtxt")
    assert list(config.output) == list(everything.output)
    assert config.max_batch_size == 4
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {"models": "first,second,sight", "threads": "0", "max_mebibytes": "7", "max_megapixels": "9"}


@pytest.mark.parametrize(
    "special",
    [
        'parameters { key: "session.intra_op.allow_spinning" value { string_value: "1" } }',
        'optimization { execution_accelerators { cpu_execution_accelerator [{ name: "openvino" }] } }',
        'default_model_filename: "other.onnx"',
    ],
)
def test_a_network_with_settings_of_its_own_keeps_its_process(repository: Path, special: str) -> None:
    path = repository / "second" / "config.pbtxt"
    path.write_text(path.read_text() + special)
    (repository / "second" / "1" / "other.onnx").touch()
    wire(repository)
    assert read_config(repository / "networks" / "config.pbtxt").parameters["models"].string_value == "first,sight"
    path = repository / "everything" / "configs" / "cpu.pbtxt"
    assert steps(path) == ["networks", "second"]
    assert dict(read_config(path).ensemble_scheduling.step[1].input_map) == {"canvas": "canvas"}


def test_a_glance_without_onnx_networks_decodes_by_itself(repository: Path) -> None:
    edit(repository / "sight" / "config.pbtxt", 'platform: "onnxruntime_onnx"', 'backend: "python"')
    (repository / "sight" / "1" / "model.py").touch()
    wire(repository)
    assert steps(repository / "glance" / "configs" / "cpu.pbtxt") == ["decode", "sight"]
    assert steps(repository / "perception" / "configs" / "cpu.pbtxt") == ["networks"]


def test_a_profile_that_no_longer_serves_networks_asks_each_of_them(repository: Path) -> None:
    wire(repository)
    profile = load_profile("cpu")
    without = replace(profile, models={name: share for name, share in profile.models.items() if name != "networks"})
    for change in pending(repository, [without]):
        change.write()
    assert steps(repository / "perception" / "configs" / "cpu.pbtxt") == ["first", "second"]
    assert steps(repository / "everything" / "configs" / "cpu.pbtxt") == ["decode", "first", "second", "sight"]


def test_on_a_gpu_host_networks_alone_go_to_the_gpu(repository: Path) -> None:
    wire(repository)
    kinds = {}
    for name in ("first", "sight", "decode", "roadwork"):
        (group,) = read_config(repository / name / "configs" / "gpu.pbtxt").instance_group
        kinds[name] = group.Kind.Name(group.kind)
    assert kinds == {"first": "KIND_GPU", "sight": "KIND_GPU", "decode": "KIND_CPU", "roadwork": "KIND_CPU"}


def test_a_python_model_that_asks_for_the_gpu_gets_it_where_there_is_one(repository: Path) -> None:
    path = repository / "decode" / "config.pbtxt"
    config = read_config(path)
    del config.instance_group[:]
    group = config.instance_group.add(count=1)
    group.kind = group.KIND_GPU
    path.write_text(str(config))
    wire(repository)
    kinds = []
    for profile in ("gpu", "cpu"):
        (group,) = read_config(repository / "decode" / "configs" / f"{profile}.pbtxt").instance_group
        kinds.append(group.Kind.Name(group.kind))
    assert kinds == ["KIND_GPU", "KIND_CPU"]


def test_a_plan_of_tensorrt_has_no_threads(repository: Path) -> None:
    edit(repository / "first" / "config.pbtxt", 'backend: "onnxruntime"', 'platform: "tensorrt_plan"')
    (repository / "first" / "1" / "model.onnx").rename(repository / "first" / "1" / "model.plan")
    wire(repository)
    assert "threads" not in read_config(repository / "first" / "configs" / "cpu.pbtxt").parameters


@pytest.mark.parametrize(("given", "weight"), [("0.7", 0.7), ("0", None), ("much", None)])
def test_a_folder_says_its_weight_in_the_pool(repository: Path, given: str, weight: float | None) -> None:
    shutil.copy(default_repository() / "roadwork" / "policy.yaml", repository / "roadwork" / "policy.yaml")
    path = repository / "first" / "config.pbtxt"
    path.write_text(path.read_text() + f'\nparameters {{ key: "pool_weight" value: {{ string_value: "{given}" }} }}\n')
    if weight is None:
        with pytest.raises(RepositoryError, match=f"pool_weight is '{given}', must be a number over 0"):
            wire(repository)
        return
    wire(repository)
    members = {member.name: member for _, member in load_policy(repository / "roadwork" / "policy.yaml").members()}
    assert members["first"].weight == weight


def test_wiring_twice_changes_nothing_and_layout_does_not_count(repository: Path) -> None:
    assert wire(repository)
    assert pending(repository) == []
    path = repository / "glance" / "config.pbtxt"
    path.write_text("# by hand\n" + text_format.MessageToString(read_config(path)))
    assert pending(repository) == []


def test_a_new_folder_is_wired_everywhere(repository: Path) -> None:
    shutil.copy(default_repository() / "roadwork" / "policy.yaml", repository / "roadwork" / "policy.yaml")
    wire(repository)
    before = load_policy(repository / "roadwork" / "policy.yaml")
    shutil.copytree(repository / "first", repository / "third")
    shutil.rmtree(repository / "third" / "configs")
    changed = {str(change.path.relative_to(repository)) for change in wire(repository)}
    configs = {f"third/configs/{name}.pbtxt" for name in config_names()}
    assert changed == {*OF_PERCEPTION, "roadwork/policy.yaml", *configs}
    after = load_policy(repository / "roadwork" / "policy.yaml")
    added = {member.name: (stage.model, member) for stage, member in after.members()}["third"]
    assert added[0] == "perception"
    assert (added[1].kind, added[1].weight, added[1].a, added[1].b) == ("boxes", 1.0, 1.0, 0.0)
    kept = [(stage.name, member) for stage, member in after.members() if member.name != "third"]
    assert kept == [(stage.name, member) for stage, member in before.members()]


def test_a_distance_model_joins_perception_and_gets_no_vote(repository: Path) -> None:
    shutil.copy(default_repository() / "roadwork" / "policy.yaml", repository / "roadwork" / "policy.yaml")
    wire(repository)
    before = load_policy(repository / "roadwork" / "policy.yaml").to_dict()
    add_depth(repository)
    assert members(read_models(repository))["depth"] == "distance"
    changed = {str(change.path.relative_to(repository)) for change in wire(repository)}
    configs = {f"depth/configs/{name}.pbtxt" for name in config_names()}
    assert changed == {*OF_PERCEPTION, "roadwork/policy.yaml", *configs}
    assert pending(repository) == []

    config = read_config(repository / "perception" / "config.pbtxt")
    assert config.max_batch_size == 4
    step = next(step for step in config.ensemble_scheduling.step if step.model_name == "depth")
    assert dict(step.input_map) == {"canvas": "canvas"}
    assert dict(step.output_map) == {"nearness": "depth_nearness"}
    assert [list(o.dims) for o in config.output if o.name == "depth_nearness"] == [[80, 80]]
    after = load_policy(repository / "roadwork" / "policy.yaml").to_dict()
    stage = next(stage for stage in after["stages"] if stage["model"] == "perception")
    assert stage["members"].pop("depth") == {"kind": "distance"}
    assert after == before
    assert "depth" in prepare(repository).server.models


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[80, 80]",
            "[1, 80, 80]",
            r"output 'nearness' is TYPE_FP32 \[1, 80, 80\], a distance model has TYPE_FP32 \[80, ",
        ),
        ("TYPE_FP32", "TYPE_FP16", r"output 'nearness' is TYPE_FP16 \[80, 80\], a distance model has TYPE_FP32"),
        ("max_batch_size: 4", "max_batch_size: 0", "max_batch_size is 0; a distance model needs at least 1"),
    ],
)
def test_a_distance_model_that_is_almost_one_is_refused(repository: Path, old: str, new: str, message: str) -> None:
    assert old in DEPTH
    add_depth(repository, DEPTH.replace(old, new))
    with pytest.raises(RepositoryError, match=message):
        pending(repository)


def test_check_reports_and_writes_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wire", "--check", "--model-repository", str(repository)]) == 1
    assert "differs: perception/config.pbtxt (first, second)" in capsys.readouterr().out
    assert not (repository / "perception").exists()
    assert main(["wire", "--model-repository", str(repository)]) == 0
    assert main(["wire", "--check", "--model-repository", str(repository)]) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("TYPE_INT32", "TYPE_INT64", r"output 'classes' is TYPE_INT64 \[100\], a detector has TYPE_INT32 \[100\]"),
        ("dims: [100, 4]", "dims: [300, 4]", r"output 'boxes' is TYPE_FP32 \[300, 4\]"),
        ("[640, 640, 3]", "[3, 640, 640]", r"input 'canvas' is TYPE_UINT8 \[3, 640, 640\]"),
        ("max_batch_size: 8", "max_batch_size: 0", "max_batch_size is 0"),
        ("dims: [100]", "dims: 100]", r"first/config.pbtxt: \d+:\d+"),
    ],
)
def test_a_detector_that_is_almost_one_is_refused(repository: Path, old: str, new: str, message: str) -> None:
    edit(repository / "first" / "config.pbtxt", old, new)
    with pytest.raises(RepositoryError, match=message):
        pending(repository)


def test_serve_refuses_drift_and_missing_files(repository: Path) -> None:
    with pytest.raises(RepositoryError, match="run: roadwork-deploy wire"):
        prepare(repository)
    wire(repository)
    (repository / "second" / "1" / "model.onnx").unlink()
    with pytest.raises(
        RepositoryError, match=r"second/1/model.onnx is missing; build it with: roadwork-export build second"
    ):
        prepare(repository)


def test_serve_loads_what_the_profile_and_the_folders_name(repository: Path) -> None:
    wire(repository)
    server = prepare(repository).server
    assert set(server.models) == {*load_profile("cpu").models, "first", "second", "sight"}
    assert server.config_name == "cpu"
    assert server.budget.instances == 10


def test_completeness_looks_through_ensembles(repository: Path) -> None:
    wire(repository)
    assert is_complete(repository, ["perception"])
    edit(repository / "first" / "config.pbtxt", "max_batch_size: 8", "max_batch_size: 8 #")
    (repository / "first" / "config.pbtxt").write_text('backend: "onnxruntime"')
    assert not is_complete(repository, ["perception"])


def make_rare(repository: Path, rare: dict[str, object] | None) -> None:
    """The committed policy, whose tier of `tiny_vlm_s` is rare."""
    data = load_policy(default_repository() / "roadwork" / "policy.yaml").to_dict()
    tier = next(tier for tier in data["tiers"] if "tiny_vlm_s" in tier["members"])
    tier["rare"] = rare
    write_policy(parse_policy(data), repository / "roadwork" / "policy.yaml")


def test_the_policy_decides_which_tiers_sleep_where_there_is_a_gpu(repository: Path) -> None:
    shutil.copytree(default_repository() / "tiny_vlm_s", repository / "tiny_vlm_s", symlinks=True)
    make_rare(repository, {"sleep_after_seconds": 90, "wake_ms": 3000, "level": 2})
    wire(repository)
    assert pending(repository) == []
    config = read_config(repository / "tiny_vlm_s" / "configs" / "gpu.pbtxt")
    assert config.parameters["SLEEP_AFTER_SECONDS"].string_value == "90"
    assert config.parameters["SLEEP_LEVEL"].string_value == "2"
    assert config.parameters["REPORT_CUSTOM_METRICS"].string_value == "true"
    (group,) = config.instance_group
    assert group.Kind.Name(group.kind) == "KIND_MODEL"
    assert not (repository / "tiny_vlm_s" / "configs" / "cpu.pbtxt").exists()

    make_rare(repository, None)
    wire(repository)
    assert "SLEEP_AFTER_SECONDS" not in read_config(repository / "tiny_vlm_s" / "configs" / "gpu.pbtxt").parameters
    assert pending(repository) == []


def test_a_tier_of_another_backend_does_not_sleep(repository: Path) -> None:
    shutil.copytree(repository / "sign_text", repository / "tiny_vlm_s")
    make_rare(repository, {"sleep_after_seconds": 90, "wake_ms": 3000})
    with pytest.raises(RepositoryError, match="only engines of vllm sleep; take rare out of its tier"):
        wire(repository)
