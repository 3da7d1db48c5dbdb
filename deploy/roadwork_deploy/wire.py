"""Writes down what follows from folders and profiles, so that adding a detector is adding a folder.

From the folders with a detector's or a scene model's signature: `perception/config.pbtxt`, `glance/config.pbtxt` and
the members that `roadwork/policy.yaml` lacks. From the profiles: `<model>/configs/<config_name>.pbtxt`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.profile import Profile, Share, known_profiles, load_profile
from roadwork_deploy.repository import CANVAS, OUTPUTS, Kind, Model, Shape, members, read_config, read_models

GENERATED = "# Written by `roadwork-deploy wire`: do not edit."
IMAGE: Mapping[str, Shape] = {"image": ("TYPE_STRING", [1])}
GEOMETRY: Mapping[str, Shape] = {"geometry": ("TYPE_FP32", [5])}
# What a member gets that nobody has fitted yet. A boxes member that sees nothing speaks against roadwork.
UNFITTED: Mapping[Kind, dict[str, Any]] = {
    "boxes": {"kind": "boxes", "weight": 1.0, "a": 1.0, "b": 0.0, "nothing": 0.1},
    "scene": {"kind": "scene", "weight": 1.0, "a": 1.0, "b": 0.0, "nothing": None},
}
ENSEMBLES: Mapping[Kind, str] = {"boxes": "perception", "scene": "glance"}


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
    changes = [*_ensembles(repository, models, found), *_policy(repository, found)]
    for profile in chosen:
        for name, share in profile.plan(models).items():
            model = models.get(name)
            if model is None or model.ensemble:
                continue  # a model that a profile names and nobody has made is reported at serve
            path = model.folder / "configs" / f"{profile.config_name}.pbtxt"
            changes += _differing(path, profile_config(model, profile, share), f"profile {profile.name}")
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
    groups = list(config.instance_group) or [model_config_pb2.ModelInstanceGroup(count=1)]
    if share.instances is not None and len(groups) > 1:
        raise RepositoryError(
            f"{model.folder / 'config.pbtxt'}: it has {len(groups)} instance groups; profile {profile.name} "
            "sets instances, which needs one"
        )
    for group in groups:
        if share.instances is not None:
            group.count = share.instances
        if profile.device == "cpu":
            group.kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
            group.ClearField("gpus")
    del config.instance_group[:]
    config.instance_group.extend(groups)
    if share.batching is False:
        config.ClearField("dynamic_batching")
    if share.threads is not None:
        # The name that each backend has for it.
        key = "intra_op_thread_count" if model.backend == "onnxruntime" else "threads"
        config.parameters[key].string_value = str(share.threads)
    for key, value in share.parameters.items():
        config.parameters[key].string_value = value
    header = f"{GENERATED} It is ../config.pbtxt with profile {profile.name}."
    return f"{header}\n{text_format.MessageToString(config)}"


def _ensembles(repository: Path, models: Mapping[str, Model], found: Mapping[str, Kind]) -> list[Change]:
    detectors = [models[name] for name, kind in found.items() if kind == "boxes"]
    scenes = [models[name] for name, kind in found.items() if kind == "scene"]
    changes = []
    if detectors:
        path = repository / ENSEMBLES["boxes"] / "config.pbtxt"
        changes += _differing(path, perception_config(detectors), _named(detectors))
    if scenes and "decode" in models:
        path = repository / ENSEMBLES["scene"] / "config.pbtxt"
        changes += _differing(path, glance_config(models["decode"], scenes), _named(scenes))
    return changes


def perception_config(detectors: list[Model]) -> str:
    """An ensemble of all detectors on one canvas, in parallel."""
    lines = [
        f"{GENERATED} It asks every folder with a box detector's signature, in parallel.",
        *_head("perception", detectors, CANVAS),
        *_outputs({f"{d.name}_{name}": shape for d in detectors for name, shape in OUTPUTS["boxes"].items()}),
        *_steps([_step(d.name, {"canvas": "canvas"}, _own(d, "boxes")) for d in detectors]),
    ]
    return "\n".join(lines) + "\n"


def glance_config(decode: Model, scenes: list[Model]) -> str:
    """Decode, then every scene model; canvas and geometry are handed on."""
    shared = {**CANVAS, **GEOMETRY}
    lines = [
        f"{GENERATED} It decodes, asks every folder with a scene model's signature, and hands the canvas on.",
        "# Ask for all outputs, or for two at least: asked for one alone, Triton leaves out the step that makes the",
        "# canvas and refuses the request at once (server issue 7482).",
        *_head("glance", [decode, *scenes], IMAGE),
        *_outputs({**shared, **{f"{s.name}_{name}": v for s in scenes for name, v in OUTPUTS["scene"].items()}}),
        *_steps(
            [
                _step(decode.name, {"image": "image"}, {name: name for name in shared}),
                *(_step(s.name, {"canvas": "canvas"}, _own(s, "scene")) for s in scenes),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def _own(model: Model, kind: Kind) -> dict[str, str]:
    return {name: f"{model.name}_{name}" for name in OUTPUTS[kind]}


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


def _policy(repository: Path, found: Mapping[str, Kind]) -> list[Change]:
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
        parse_policy(data)
        return [Change(path, policy_text(data), f"new: {', '.join(lacking)}")]
    except PolicyError as error:
        raise RepositoryError(str(error)) from None


def _named(models: list[Model]) -> str:
    return ", ".join(model.name for model in models)


def _differing(path: Path, text: str, why: str) -> list[Change]:
    """The change, unless the file already says the same: how it is laid out and commented does not matter."""
    if path.exists() and read_config(path) == text_format.Parse(text, model_config_pb2.ModelConfig()):
        return []
    return [Change(path, text, why)]
