"""Writes down what follows from folders and profiles, so that adding a detector is adding a folder.

From the folders with a detector's, a scene model's or a distance model's signature, and weights:
`config.pbtxt` of the ensembles `perception`, `glance` and `everything` and of `networks`, and the members that
`roadwork/policy.yaml` lacks. From the profiles: `<model>/configs/<config_name>.pbtxt`.

`networks` is all ONNX networks in one process. In a profile that serves it the ensembles ask it once instead of each of
them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.profile import Profile, Share, known_profiles, load_profile
from roadwork_deploy.repository import (
    CANVAS,
    OUTPUTS,
    Kind,
    Model,
    Shape,
    members,
    parse_config,
    read_config,
    read_models,
)
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
WHOM: Mapping[str, str] = {
    "perception": "box detector and distance model",
    "glance": "scene model",
    "everything": "scene model, box detector and distance model",
}
TOGETHER = "networks"
DECODES_NOTE = (
    "# Ask for all outputs, or for two at least: asked for one alone, Triton leaves out the step that makes the",
    "# canvas and refuses the request at once (server issue 7482).",
)


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
    if TOGETHER in models:
        united = _networks(models, found)
        changes += united
        for change in united:  # its configurations for profiles are made of what it will be
            asked = dataclasses.replace(models[TOGETHER], config=parse_config(change.text, change.path))
            models = {**models, TOGETHER: asked}
    for profile in chosen:
        changes += _ensembles(repository, models, found, profile)
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


def _ensembles(
    repository: Path, models: Mapping[str, Model], found: Mapping[str, Kind], profile: Profile | None = None
) -> list[Change]:
    """What is to be written of the ensembles, or of their configurations for `profile`.

    Only a profile that serves `networks` has some of its own, or one that no longer does.
    """
    united = profile is not None and TOGETHER in profile.models and TOGETHER in models
    parts = {
        "perception": {name: kind for name, kind in found.items() if ENSEMBLES[kind] == "perception"},
        "glance": {name: kind for name, kind in found.items() if ENSEMBLES[kind] == "glance"},
    }
    if all(parts.values()):
        parts["everything"] = dict(found)
    changes = []
    for name, members_of in parts.items():
        if not members_of or (name != "perception" and "decode" not in models):
            continue
        path = repository / name / "config.pbtxt"
        if profile is not None:
            path = repository / name / "configs" / f"{profile.config_name}.pbtxt"
            if not united and not path.exists():
                continue
        text = ensemble_config(name, models, members_of, united=united)
        changes += _differing(path, text, ", ".join(members_of) if profile is None else f"profile {profile.name}")
    return changes


def ensemble_config(name: str, models: Mapping[str, Model], parts: Mapping[str, Kind], *, united: bool = False) -> str:
    """The ensemble `name`, which asks `parts` in parallel; with `united` one call to `networks` in place of all it has.

    `perception` takes a canvas, and asks all detectors and distance models. The others decode, and hand canvas and
    geometry on: `glance` asks every scene model, `everything` all members, for requests that want all of them anyway.
    """
    decodes = name != "perception"
    made = {**CANVAS, **GEOMETRY} if decodes else {}
    inside = {part: kind for part, kind in parts.items() if united and _unites(models[part])}
    step_outputs = {output: output for output in (*made, *_prefixed(inside))}
    if inside:
        source = "image" if decodes else "canvas"
        steps = [_step(TOGETHER, {source: source}, step_outputs)]
    else:
        steps = [_step("decode", {"image": "image"}, step_outputs)] if decodes else []
    steps += [_canvas_step(part, kind) for part, kind in parts.items() if part not in inside]
    asked = [TOGETHER] * bool(inside) + ["decode"] * (decodes and not inside) + [p for p in parts if p not in inside]
    hands = ", and hands the canvas on" if decodes else ""
    lines = [
        f"{GENERATED} It {'decodes, ' * decodes}asks every {WHOM[name]} that has weights, in parallel{hands}.",
        *(DECODES_NOTE if decodes else ()),
        *_head(name, [models[part] for part in asked], IMAGE if decodes else CANVAS),
        *_outputs({**made, **_prefixed(parts)}),
        *_steps(steps),
    ]
    return "\n".join(lines) + "\n"


def _unites(model: Model) -> bool:
    """Whether `networks` can run it: it knows ONNX files in ONNX Runtime's own way of running them on a CPU."""
    special = any(key.startswith("session.") for key in model.config.parameters)
    named = model.config.default_model_filename not in ("", "model.onnx")
    return (
        model.backend == "onnxruntime"
        and not special
        and not named
        and not model.config.optimization.HasField("execution_accelerators")
    )


def _networks(models: Mapping[str, Model], found: Mapping[str, Kind]) -> list[Change]:
    """`config.pbtxt` of `networks`: the outputs of all networks that it runs, and the decoder's limits."""
    inside = {name: kind for name, kind in found.items() if _unites(models[name])}
    if not inside or "decode" not in models:
        return []
    of_decode = models["decode"].config.parameters
    limits = {key: of_decode[key].string_value for key in ("max_mebibytes", "max_megapixels") if key in of_decode}
    parameters = {"models": ",".join(inside), **limits, "threads": "0"}
    optional = [_tensor(name, shape, " optional: true") for name, shape in {**IMAGE, **CANVAS}.items()]
    lines = [
        f"{GENERATED} It decodes and runs every network that has weights, in one process, for an image or a canvas.",
        f'name: "{TOGETHER}"',
        'backend: "python"',
        f"max_batch_size: {_batch([models[name] for name in ('decode', *inside)])}",
        "input [",
        *_comma(optional),
        "]",
        *_outputs({**CANVAS, **GEOMETRY, **_prefixed(inside)}),
        "instance_group [{ count: 1 kind: KIND_CPU }]",
        "# threads: 0 is as many as there are cores. The limits are those of decode.",
        *(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()),
    ]
    text = "\n".join(lines) + "\n"
    return _differing(models[TOGETHER].folder / "config.pbtxt", text, ", ".join(inside))


def _prefixed(parts: Mapping[str, Kind]) -> dict[str, Shape]:
    """Outputs of an ensemble: those of its parts, each under its model's name."""
    return {f"{name}_{output}": shape for name, kind in parts.items() for output, shape in OUTPUTS[kind].items()}


def _canvas_step(name: str, kind: Kind) -> str:
    return _step(name, {"canvas": "canvas"}, {output: f"{name}_{output}" for output in OUTPUTS[kind]})


def _head(name: str, parts: list[Model], inputs: Mapping[str, Shape]) -> list[str]:
    shown = [_tensor(tensor, shape) for tensor, shape in inputs.items()]
    head = [f'name: "{name}"', 'platform: "ensemble"', f"max_batch_size: {_batch(parts)}"]
    return [*head, "input [", *_comma(shown), "]"]


def _batch(parts: list[Model]) -> int:
    """The largest batch that could go through every step."""
    return min(part.config.max_batch_size for part in parts)


def _outputs(outputs: Mapping[str, Shape]) -> list[str]:
    return ["output [", *_comma([_tensor(name, shape) for name, shape in outputs.items()]), "]"]


def _tensor(name: str, shape: Shape, more: str = "") -> str:
    return f'  {{ name: "{name}" data_type: {shape[0]} dims: {shape[1]}{more} }}'


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
