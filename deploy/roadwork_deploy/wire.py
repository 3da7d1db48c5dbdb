"""Writes down what follows from folders and profiles, so that adding a detector is adding a folder.

From the folders with a detector's, a scene model's or a distance model's signature, and weights:
`config.pbtxt` of the ensembles `perception`, `glance` and `everything`, and the members that `roadwork/policy.yaml`
lacks. From the profiles: `<model>/configs/<config_name>.pbtxt`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.profile import Profile, Share, known_profiles, load_profile
from roadwork_deploy.repository import CANVAS, OUTPUTS, Kind, Model, Shape, members, read_config, read_models
from roadwork_deploy.tier_config import rare_tiers, tier_configs

GENERATED = "# Written by `roadwork-deploy wire`: do not edit."
IMAGE: Mapping[str, Shape] = {"image": ("TYPE_STRING", [1])}
GEOMETRY: Mapping[str, Shape] = {"geometry": ("TYPE_FP32", [5])}
# What a member gets that nobody has fitted yet. A boxes member that sees nothing speaks against roadwork; a distance
# member has no vote, so there is nothing to fit.
UNFITTED: Mapping[Kind, dict[str, Any]] = {
    "boxes": {"kind": "boxes", "a": 1.0, "b": 0.0, "nothing": 0.1},
    "scene": {"kind": "scene", "a": 1.0, "b": 0.0, "nothing": None},
    "distance": {"kind": "distance"},
}
ENSEMBLES: Mapping[Kind, str] = {"boxes": "perception", "scene": "glance", "distance": "perception"}
WHOM: Mapping[str, str] = {"glance": "scene model", "everything": "scene model, box detector and distance model"}


@dataclass(frozen=True)
class Change:
    """A file that is not as it should be: what it should hold, and why in a few words."""

    path: Path
    text: str
    why: str

    def write(self) -> None:
        """Write the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(self.path.name + ".new")
        draft.write_text(self.text, encoding="utf-8")
        draft.replace(self.path)


def pending(repository: Path, profiles: Iterable[Profile] | None = None) -> list[Change]:
    """What `wire` would write; nothing when folders, profiles and files agree.

    Raises:
        RepositoryError: a folder or the policy is malformed.
        ProfileError: a profile is.
    """
    chosen = list(profiles) if profiles is not None else [load_profile(name) for name in known_profiles()]
    models = read_models(repository)
    found = members(models)
    rare = rare_tiers(repository)
    changes = [*_ensembles(repository, models, found), *_policy(repository, models, found)]
    for profile in chosen:
        for name, share in profile.plan(models).items():
            model = models.get(name)
            if model is None or model.ensemble:
                continue  # a model that a profile names and nobody has made is reported at serve
            path = model.folder / "configs" / f"{profile.config_name}.pbtxt"
            changes += _differing(path, profile_config(model, profile, share), f"profile {profile.name}")
        for path, text in tier_configs(models, profile, rare, GENERATED).items():
            changes += _differing(path, text, f"profile {profile.name}")
    return changes


def wire(repository: Path) -> list[Change]:
    """Write all that is pending; what was written."""
    changes = pending(repository)
    for change in changes:
        change.write()
    return changes


def profile_config(model: Model, profile: Profile, share: Share) -> str:
    """Text of `configs/<config_name>.pbtxt`: `config.pbtxt` with the profile's share of the machine."""
    config = copy.deepcopy(model.config)
    config.name = model.name
    placed = profile.placement.get(model.name)
    groups = list(config.instance_group) or [model_config_pb2.ModelInstanceGroup(count=1)]
    if share.instances is not None and len(groups) > 1:
        raise RepositoryError(
            f"{model.folder / 'config.pbtxt'}: it has {len(groups)} instance groups; profile {profile.name} "
            "sets instances, which needs one"
        )
    for group in groups:
        if share.instances is not None:
            group.count = share.instances
        kinds = model_config_pb2.ModelInstanceGroup
        # On a GPU host only networks go to the GPU, and what says so itself: Triton would put every Python model there,
        # one a GPU.
        wants = model.kind is not None or group.kind == kinds.KIND_GPU
        on_gpu = profile.device == "gpu" and wants
        group.kind = kinds.KIND_GPU if on_gpu else kinds.KIND_CPU
        if not on_gpu:
            group.ClearField("gpus")
        elif placed is not None:
            group.gpus[:] = placed.gpus
    del config.instance_group[:]
    config.instance_group.extend(groups)
    if share.batching is False:
        config.ClearField("dynamic_batching")
    elif placed is not None and placed.batch is not None:
        # Triton makes no batch larger than the largest preferred one; max_batch_size is the ensembles' affair too.
        config.dynamic_batching.preferred_batch_size[:] = [min(placed.batch, config.max_batch_size)]
    if share.batching is not False and share.batch is not None:
        config.dynamic_batching.preferred_batch_size[:] = [min(share.batch, max(1, config.max_batch_size))]
    if share.batching is not False and share.delay_ms is not None:
        config.dynamic_batching.max_queue_delay_microseconds = round(share.delay_ms * 1000)
    if share.threads is not None and model.backend != "tensorrt":  # a plan runs on the GPU
        # The name that each backend has for it.
        key = "intra_op_thread_count" if model.backend == "onnxruntime" else "threads"
        config.parameters[key].string_value = str(share.threads)
    for key, value in share.parameters.items():
        config.parameters[key].string_value = value
    header = f"{GENERATED} It is ../config.pbtxt with profile {profile.name}."
    return f"{header}\n{text_format.MessageToString(config)}"


def _ensembles(repository: Path, models: Mapping[str, Model], found: Mapping[str, Kind]) -> list[Change]:
    def parts(ensemble: str) -> dict[str, Kind]:
        return {name: kind for name, kind in found.items() if ENSEMBLES[kind] == ensemble}

    looking, glancing = parts("perception"), parts("glance")
    changes = []
    if looking:
        path = repository / "perception" / "config.pbtxt"
        changes += _differing(path, perception_config(models, looking), ", ".join(looking))
    if glancing and "decode" in models:
        path = repository / "glance" / "config.pbtxt"
        changes += _differing(path, decoded_config("glance", models, glancing), ", ".join(glancing))
    if looking and glancing and "decode" in models:
        path = repository / "everything" / "config.pbtxt"
        changes += _differing(path, decoded_config("everything", models, found), ", ".join(found))
    return changes


def perception_config(models: Mapping[str, Model], parts: Mapping[str, Kind]) -> str:
    """An ensemble of `parts` (all detectors and distance models) on one canvas, in parallel."""
    lines = [
        f"{GENERATED} It asks every box detector and distance model that has weights, in parallel.",
        *_head("perception", [models[name] for name in parts], CANVAS),
        *_outputs(_prefixed(parts)),
        *_steps([_canvas_step(name, kind) for name, kind in parts.items()]),
    ]
    return "\n".join(lines) + "\n"


def decoded_config(name: str, models: Mapping[str, Model], parts: Mapping[str, Kind]) -> str:
    """An ensemble `name` that decodes, then asks `parts` in parallel; canvas and geometry are handed on.

    `glance` is that with every scene model, `everything` with all members, for requests that want all of them anyway.
    """
    shared = {**CANVAS, **GEOMETRY}
    lines = [
        f"{GENERATED} It decodes, asks every {WHOM[name]} that has weights, in parallel, and hands the canvas on.",
        "# Ask for all outputs, or for two at least: asked for one alone, Triton leaves out the step that makes the",
        "# canvas and refuses the request at once (server issue 7482).",
        *_head(name, [models[part] for part in ("decode", *parts)], IMAGE),
        *_outputs({**shared, **_prefixed(parts)}),
        *_steps(
            [
                _step("decode", {"image": "image"}, {tensor: tensor for tensor in shared}),
                *(_canvas_step(part, kind) for part, kind in parts.items()),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def _prefixed(parts: Mapping[str, Kind]) -> dict[str, Shape]:
    """Outputs of an ensemble: those of its parts, each under its model's name."""
    return {f"{name}_{output}": shape for name, kind in parts.items() for output, shape in OUTPUTS[kind].items()}


def _canvas_step(name: str, kind: Kind) -> str:
    return _step(name, {"canvas": "canvas"}, {output: f"{name}_{output}" for output in OUTPUTS[kind]})


def _head(name: str, parts: list[Model], inputs: Mapping[str, Shape]) -> list[str]:
    batch = min(part.config.max_batch_size for part in parts)  # no larger batch could go through every step
    shown = [_tensor(tensor, shape) for tensor, shape in inputs.items()]
    return [f'name: "{name}"', 'platform: "ensemble"', f"max_batch_size: {batch}", "input [", *_comma(shown), "]"]


def _outputs(outputs: Mapping[str, Shape]) -> list[str]:
    return ["output [", *_comma([_tensor(name, shape) for name, shape in outputs.items()]), "]"]


def _tensor(name: str, shape: Shape) -> str:
    return f'  {{ name: "{name}" data_type: {shape[0]} dims: {shape[1]} }}'


def _steps(steps: list[str]) -> list[str]:
    return ["ensemble_scheduling {", "  step [", *_comma(steps), "  ]", "}"]


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    maps = [
        f'      {side} {{ key: "{key}" value: "{value}" }}'
        for side, pairs in (("input_map", inputs), ("output_map", outputs))
        for key, value in pairs.items()
    ]
    return "\n".join(["    {", f'      model_name: "{model}"', "      model_version: -1", *maps, "    }"])


def _comma(parts: list[str]) -> list[str]:
    return [part + "," for part in parts[:-1]] + parts[-1:]


def _policy(repository: Path, models: Mapping[str, Model], found: Mapping[str, Kind]) -> list[Change]:
    """Members that the policy lacks, unfitted, in the stage that asks their ensemble."""
    path = repository / "roadwork" / "policy.yaml"
    if not path.exists():
        return []
    from roadwork_cascade.policy import PolicyError, load_policy, parse_policy
    from roadwork_cascade.policy_text import policy_text

    try:
        policy = load_policy(path)
        have = {member.name for _, member in policy.members()}
        lacking = {name: kind for name, kind in found.items() if name not in have}
        if not lacking:
            return []
        data = policy.to_dict()
        for name, kind in lacking.items():
            stage = next((stage for stage in data["stages"] if stage["model"] == ENSEMBLES[kind]), None)
            if stage is None:
                raise RepositoryError(
                    f"{path}: no stage asks model {ENSEMBLES[kind]!r}, where {name!r} would belong; add one"
                )
            stage["members"][name] = dict(UNFITTED[kind])
            if kind != "distance":
                stage["members"][name]["weight"] = _pool_weight(models[name])
        parse_policy(data)
        return [Change(path, policy_text(data), f"new: {', '.join(lacking)}")]
    except PolicyError as error:
        raise RepositoryError(str(error)) from None


def _pool_weight(model: Model) -> float:
    """The weight that the folder asks for: parameter `pool_weight` of its configuration, which exports write."""
    given = model.config.parameters["pool_weight"].string_value if "pool_weight" in model.config.parameters else "1"
    try:
        weight = float(given)
    except ValueError:
        weight = -1.0
    if not 0 < weight < math.inf:
        raise RepositoryError(f"{model.folder / 'config.pbtxt'}: pool_weight is {given!r}, must be a number over 0")
    return weight


def _differing(path: Path, text: str, why: str) -> list[Change]:
    """The change, unless the file already says the same: how it is laid out and commented does not matter."""
    if path.exists() and read_config(path) == text_format.Parse(text, model_config_pb2.ModelConfig()):
        return []
    return [Change(path, text, why)]
