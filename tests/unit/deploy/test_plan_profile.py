"""A plan becomes a profile, a profile becomes configurations, and the backend does what they say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import vllm_overlay
from roadwork_deploy import claim
from roadwork_deploy.cli import main
from roadwork_deploy.errors import PlatformError, ProfileError
from roadwork_deploy.gpu import Device
from roadwork_deploy.profile import Profile, load_profile, read_profile
from roadwork_deploy.repository import default_repository, read_config, read_models
from roadwork_deploy.tiers import find_tiers
from roadwork_deploy.wire import pending
from vllm_settings import SettingsError, read_settings

GB = 10**9
HEAD = "base: gpu\nconfig_name: mine\nhardware: 2x80\n"


def written(path: Path, *arguments: str) -> Profile:
    assert main(["plan", *arguments, "--write", str(path)]) == 0
    return load_profile(str(path))


@pytest.fixture
def tiny(repository: Path) -> Path:
    """The small repository with a tier whose weights are there."""
    target = repository / "tiny_vlm_s"
    shutil.copytree(default_repository() / "tiny_vlm_s", target, ignore=shutil.ignore_patterns("weights", "configs"))
    (target / "1" / "weights").mkdir()
    for name in ("config.json", "model.safetensors"):
        (target / "1" / "weights" / name).write_text("{}")
    return repository


def wired(repository: Path, profile: Profile, model: str) -> Any:
    for change in pending(repository, [profile]):
        change.write()
    assert pending(repository, [profile]) == []
    return read_config(repository / model / "configs" / f"{profile.config_name}.pbtxt")


def test_a_plan_reaches_the_engine(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    given = ["--gpus", "1x24", "--detectors", "", "--tiers", "tiny_vlm_s", "--max-images", "8", "--image-side", "288"]
    profile = written(path, *given)
    share = profile.tier_shares["tiny_vlm_s"]
    assert profile.tiers == ("tiny_vlm_s",)
    config = wired(tiny, profile, "tiny_vlm_s")
    assert config.parameters["gpus"].string_value == "0"
    parameters = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
    as_json = {"parameters": parameters, "model_transaction_policy": {"decoupled": True}}
    folder = tiny / "tiny_vlm_s" / "1"
    settings = read_settings("tiny_vlm_s", folder, as_json, lambda: {*share.engine, *json.loads(model_json(folder))})
    before = json.loads(model_json(folder))
    assert settings.engine == {**before, **share.engine, "model": str(folder / "weights")}
    assert settings.engine["max_num_seqs"] == 8
    assert settings.engine["enforce_eager"] is True  # of model.json, which the plan says nothing of


def model_json(folder: Path) -> str:
    return (folder / "model.json").read_text()


def test_for_the_stock_backend_the_plan_is_in_model_json(tiny: Path, tmp_path: Path) -> None:
    before = json.loads(model_json(tiny / "tiny_vlm_s" / "1"))
    given = ["--gpus", "1x24", "--detectors", "", "--tiers", "tiny_vlm_s", "--model-repository", str(tiny)]
    profile = written(tmp_path / "mine.yaml", *given)
    after = json.loads(model_json(tiny / "tiny_vlm_s" / "1"))
    assert after == {**before, **profile.tier_shares["tiny_vlm_s"].engine}
    assert after["kv_cache_memory_bytes"] != before["kv_cache_memory_bytes"]


def test_a_tier_without_a_folder_is_not_written_to(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = model_json(tiny / "tiny_vlm_s" / "1")
    given = [
        "--gpus",
        "1x24",
        "--detectors",
        "",
        "--tiers",
        "tiny_vlm_s,tiny_reasoner",
        "--model-repository",
        str(tiny),
    ]
    assert main(["plan", *given, "--write", str(tmp_path / "mine.yaml")]) == 2
    assert "tiny_reasoner/1/model.json is missing or names no model; make it with" in capsys.readouterr().err
    assert model_json(tiny / "tiny_vlm_s" / "1") == before


def test_networks_go_where_the_plan_says_and_batch_no_larger(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "placement:\n  first: {gpus: [1], batch: 2}\n  second: {gpus: [0, 1], batch: 64}\n")
    profile = load_profile(str(path))
    config = wired(repository, profile, "first")
    (group,) = config.instance_group
    assert (group.Kind.Name(group.kind), list(group.gpus), group.count) == ("KIND_GPU", [1], 1)
    assert list(config.dynamic_batching.preferred_batch_size) == [2]
    second = wired(repository, profile, "second")
    assert list(second.instance_group[0].gpus) == [0, 1]
    assert list(second.dynamic_batching.preferred_batch_size) == [8]  # its max_batch_size
    assert not wired(repository, profile, "sight").instance_group[0].gpus  # on every GPU
    assert not (repository / "absent").exists()


def test_wire_takes_a_file(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD)
    given = ["wire", "--profile", str(path), "--model-repository", str(repository)]
    assert main([*given, "--check"]) == 1
    assert main(given) == 0
    assert main([*given, "--check"]) == 0
    assert (repository / "first" / "configs" / "mine.pbtxt").is_file()
    assert not (repository / "first" / "configs" / "cpu.pbtxt").exists()


def test_settings_of_an_engine_for_another_backend_are_refused(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "tiers:\n  sign_text: {gpus: [0]}\n".replace("sign_text", "other"))
    shutil.copytree(repository / "sign_text", repository / "other")
    assert main(["wire", "--profile", str(path), "--model-repository", str(repository)]) == 2
    assert "backend is 'python', and profile mine has settings of a vLLM engine" in capsys.readouterr().err


def test_weights_that_the_profile_names_are_looked_for(tiny: Path) -> None:
    assert "weights" not in find_tiers(tiny, ["tiny_vlm_s"])["tiny_vlm_s"].reason
    checkpoints = {"tiny_vlm_s": "tiny_vlm_s/1/other"}
    found = find_tiers(tiny, ["tiny_vlm_s"], checkpoints=checkpoints)["tiny_vlm_s"]
    assert found.state == "absent"
    assert "tiny_vlm_s/1/other is missing" in found.reason


LINES = [
    ("tiers:\n  a:\n    gpu: [0]\n", r"line 6: tiers\.a\.gpu: is unknown; did you mean 'gpus'\?"),
    ("tiers:\n  a: {gpus: [0, 0]}\n", r"line 5: tiers\.a\.gpus: is a list of numbers of GPUs, each once, got \[0, 0\]"),
    ("tiers:\n  a: {gpus: [2]}\n", r"line 5: tiers\.a\.gpus: GPU 2 is not among hardware 2x80 \(0 to 1\)"),
    ("tiers:\n  a: {gpus: 0}\n", r"line 5: tiers\.a\.gpus: is a list of numbers"),
    ("tiers:\n  a:\n    gpus: [0]\n    engine: {tensor_parallel_size: 2}\n",
     r"line 7: tiers\.a\.engine\.tensor_parallel_size: is 2, and gpus names 1"),
    ("tiers:\n  a:\n    memory_gb: lots\n", r"line 6: tiers\.a\.memory_gb: is a number of GB"),
    ("tiers:\n  a: {}\n  b: {}\n  a: {}\n", r"line 7: tiers\.a: is there twice, first in line 5"),
    ("tiers:\n  roadwork: {}\n", r"line 4: tiers\[0\]: 'roadwork' is named twice"),
    ("placement:\n  a: {batch: 2}\n", r"line 5: placement\.a\.gpus: is missing"),
    ("placement:\n  a: {gpus: []}\n", r"line 5: placement\.a\.gpus: is a list of numbers"),
    ("placement:\n  a: {gpus: [0], batch: 0}\n", r"line 5: placement\.a\.batch: is a whole number of at least 1"),
    ("placement:\n  a: {gpus: [0], memory_gb: 50}\ntiers:\n  b:\n    gpus: [0]\n    memory_gb: 40\n",
     r"line 9: tiers\.b\.memory_gb: GPU 0 has 84\.9 GB, and b, a claim 90\.0 GB together"),
    ("device: tpu\n", r"line 4: device: can be cpu or gpu"),
    ("suits: [a]\n", r"line 4: suits: is unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), LINES)
def test_a_mistake_of_a_hand_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(ProfileError, match=rf"^mine\.yaml, {message}"):
        read_profile(path)


def test_hardware_that_does_not_exist_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: gpu\nhardware: 1x81\n")
    with pytest.raises(ProfileError, match=r"^mine\.yaml, line 2: hardware: there is no GPU of 81 GB"):
        read_profile(path)
    with pytest.raises(ProfileError, match=r"none\.yaml: No such file or directory; roadwork-deploy plan --write"):
        load_profile(str(tmp_path / "none.yaml"))


def devices(*sizes: float) -> list[Device]:
    return [Device(f"GPU-{index}", int(size * GB)) for index, size in enumerate(sizes)]


def test_a_machine_that_is_too_small_is_refused() -> None:
    profile = load_profile("gpu-2x80g")
    claim.check_room(profile, devices(84.9, 84.9))
    with pytest.raises(PlatformError, match=r"places models on GPU 1, the driver shows 1; plan for what there is"):
        claim.check_room(profile, devices(84.9))
    with pytest.raises(
        PlatformError, match=r"was planned for 2x80: it gives away 7\d\.\d GB of GPU 0, which has 24\.0"
    ):
        claim.check_room(profile, devices(24, 84.9))
    claim.check_room(load_profile("gpu"), [])  # has no plan


def test_two_profiles_do_not_claim_one_gpu(tmp_path: Path) -> None:
    one, two = load_profile("gpu-80g"), load_profile("gpu-2x80g")
    with claim.claimed(one, devices(84.9, 84.9), tmp_path):
        held = claim.claimed(two, devices(84.9, 84.9), tmp_path)
        with pytest.raises(PlatformError, match=r"gpu-2x80g was planned for all of GPU-0, and profile gpu-80g \(proc"):
            held.__enter__()
        with claim.claimed(load_profile("gpu"), devices(84.9), tmp_path):
            pass
        with claim.claimed(one, devices(84.9, 84.9)[1:], tmp_path):
            pass
    with claim.claimed(two, devices(84.9, 84.9), tmp_path):
        pass


def test_settings_come_over_model_json_and_null_takes_one_out() -> None:
    engine = {"model": "a", "dtype": "float32", "max_num_seqs": 32}
    over = {"engine": json.dumps({"dtype": None, "max_num_seqs": 8, "quantization": "fp8"})}
    assert vllm_overlay.overlaid("t", engine, over) == {"model": "a", "max_num_seqs": 8, "quantization": "fp8"}
    assert vllm_overlay.overlaid("t", engine, {}) == engine
    for text, message in (("[1]", "is a JSON object, got list"), ("{", "is not JSON")):
        with pytest.raises(vllm_overlay.OverlayError, match=f"^t: parameter engine in config.pbtxt {message}"):
            vllm_overlay.overlaid("t", engine, {"engine": text})


def test_a_bad_overlay_is_the_models_load_error(tiny: Path) -> None:
    config = {"parameters": {"engine": {"string_value": "{"}}, "model_transaction_policy": {"decoupled": True}}
    with pytest.raises(SettingsError, match=r"tiny_vlm_s: parameter engine in config\.pbtxt is not JSON"):
        read_settings("tiny_vlm_s", tiny / "tiny_vlm_s" / "1", config, lambda: [])


def test_an_engine_sees_its_own_gpus() -> None:
    def seen(gpus: str, ranks: int, **variables: str) -> str:
        vllm_overlay.show_only("t", vllm_overlay.read_gpus("t", {"gpus": gpus}, ranks), variables)
        return variables["CUDA_VISIBLE_DEVICES"]

    assert seen("1", 1) == "1"
    assert seen("0, 3", 2) == "0,3"
    assert seen("1", 1, CUDA_VISIBLE_DEVICES="4,5") == "5"
    assert seen("0", 1, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b") == "GPU-a"
    assert vllm_overlay.read_gpus("t", {}, 2) == ()
    for gpus, ranks, message in (
        ("x", 1, "is numbers joined by commas, got 'x'"),
        ("0,0", 2, "is numbers joined by commas"),
        ("0,1", 1, r"names 2 GPUs, and the engine has 1 processes"),
    ):
        with pytest.raises(vllm_overlay.OverlayError, match=message):
            seen(gpus, ranks)
    with pytest.raises(vllm_overlay.OverlayError, match=r"GPU 2 is not among those that the server sees \(CUDA_VIS"):
        seen("2", 1, CUDA_VISIBLE_DEVICES="4,5")


def test_every_planned_profile_is_wired() -> None:
    """Tiers of the catalogue whose folders are here have the configuration of each profile that places them."""
    models = read_models(default_repository())
    for name in ("gpu-24g", "gpu-80g", "gpu-2x80g", "gpu-4x80g"):
        profile = load_profile(name)
        placed = [*profile.tier_shares, *profile.placement]
        assert all(max(profile.tier_shares[tier].gpus) < 4 for tier in profile.tiers)
        for model in placed:
            if model in models and (
                models[model].backend == "vllm" or (models[model].folder / "1" / "model.onnx").exists()
            ):
                assert (models[model].folder / "configs" / f"{name}.pbtxt").is_file()
