"""A folder of the model repository that serves a TensorRT plan of its ONNX file."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from .errors import ExportError
from .family import Kind
from .folder import OUTPUTS, config, draft
from .making import Precision, look_at
from .tensorrt import IMAGE, Settings, Tell, at_hand, container_command, gpu_name, plan_name


def make_plan(folder: Path, precision: Precision, settings: Settings, tell: Tell = print) -> Path:
    """Build a plan of `folder`/1/model.onnx, put it beside that file and let `config.pbtxt` serve it; its path.

    The folder changes in one step or not at all. The ONNX file stays: the next GPU's plan is made of it.

    Raises:
        ExportError: there is no such file, it cannot be had in this precision, or TensorRT cannot build it.
    """
    model = folder / "1" / "model.onnx"
    if not model.is_file():
        raise ExportError(f"{model}: not there; roadwork-export onnx {folder.name} writes it")
    kind, facts = read_folder(folder)
    have = precision_of(model)
    maker = at_hand()
    if maker is None:
        raise ExportError(missing(model, have, precision, settings))
    gpu = gpu_name()
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=folder.parent) as scratch:
        typed = in_precision(model, have, precision, Path(scratch) / "model.onnx")
        tell(f"{folder.name}: TensorRT builds {precision} for {gpu}, which takes minutes")
        plan = maker(typed, settings, tell)
    name = plan_name(plan.version, gpu, precision)
    return place(folder, plan.data, name, settings.profile.high, kind, facts)


def use_plan(folder: Path, plan: Path, batch: int) -> Path:
    """Let a folder serve a plan that was built elsewhere, for batches up to `batch`; its path in the folder.

    Raises:
        ExportError: the plan is not there, or the folder is not a model's.
    """
    kind, facts = read_folder(folder)
    try:
        data = plan.read_bytes()
    except OSError as error:
        raise ExportError(f"{plan}: {error.strerror}") from None
    return place(folder, data, plan.name, batch, kind, facts)


def missing(model: Path, have: str, precision: Precision, settings: Settings) -> str:
    """What to do where TensorRT is not installed."""
    folder = model.parents[1]
    first = f"  {convert_command(folder, precision)}\n" if have != precision else ""
    plan = f"model_{IMAGE.rsplit(':')[-1]}_{precision}.plan"
    batches = ",".join(str(n) for n in (1, settings.profile.best, settings.profile.high))
    use = ["roadwork-export", "tensorrt", folder.name, "--repository", str(folder.parent), "--batch", batches]
    return (
        "TensorRT is not installed here: there is neither the Python package tensorrt nor trtexec. Run this on the "
        "machine that serves; its container has the TensorRT that Triton serves with:\n"
        f"{first}  {container_command(model, plan, settings)}\n"
        f"  {shlex.join([*use, '--plan', str(model.parent / plan)])}"
    )


def place(folder: Path, plan: bytes, name: str, batch: int, kind: Kind, facts: dict[str, str]) -> Path:
    """The folder anew, with the plan in it under this name, and served."""
    with draft(folder, len(plan)) as new:
        shutil.copytree(folder, new, copy_function=_link, dirs_exist_ok=True)
        (new / "1" / name).unlink(missing_ok=True)
        (new / "1" / name).write_bytes(plan)
        text = config(folder.name, kind, facts, backend="tensorrt", batch=batch, file=name)
        # A link would be written through, into the folder that is still served.
        (new / "config.pbtxt").unlink()
        (new / "config.pbtxt").write_text(text, encoding="utf-8")
    return folder / "1" / name


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copy2(source, target)


def in_precision(model: Path, have: str, precision: Precision, scratch: Path) -> Path:
    """`model` where what it has is this precision, else `scratch` with what it was converted to.

    Raises:
        ExportError: it cannot be converted: only float32 to float16 needs nothing but the file.
    """
    if have == precision:
        return model
    if have == "fp32" and precision == "fp16" and _joined(model):
        from .graph.precision import to_half

        to_half(model, scratch, look_at(None))
        return scratch
    again = convert_command(model.parents[1], precision)
    raise ExportError(f"{model} is {have} and cannot be made {precision}; write it so first:\n  {again}")


def convert_command(folder: Path, precision: Precision) -> str:
    """What writes the folder in another precision. The words in capitals are for the user to fill in."""
    images = " --images FOLDER" if precision == "int8" else ""
    where = shlex.join(["--as", folder.name, "--repository", str(folder.parent)])
    return f"roadwork-export onnx MODEL --weights WEIGHTS --precision {precision}{images} {where}"


def precision_of(model: Path) -> str:
    """What the file's recipe says; fp32 where it has none, as the project's own networks."""
    graph = onnx.load(str(model), load_external_data=False)
    found = {prop.key: prop.value for prop in graph.metadata_props}
    recipe: dict[str, Any] = json.loads(found.get("recipe", "{}"))
    return str(recipe.get("precision", "fp32"))


def _joined(model: Path) -> bool:
    from .graph.precision import CORE

    return any(node.name.startswith(CORE) for node in onnx.load(str(model), load_external_data=False).graph.node)


def read_folder(folder: Path) -> tuple[Kind, dict[str, str]]:
    """What kind of model a folder's `config.pbtxt` says it is, and its parameters.

    Raises:
        ExportError: it is not a model's configuration, or not one with the contract's outputs.
    """
    path = folder / "config.pbtxt"
    try:
        read = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except FileNotFoundError:
        raise ExportError(f"{path}: not there") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: {error}") from None
    outputs = {output.name for output in read.output}
    for kind, wanted in OUTPUTS.items():
        if outputs == {name for name, _, _ in wanted}:
            return kind, {key: value.string_value for key, value in read.parameters.items()}
    raise ExportError(f"{path}: its outputs are {', '.join(sorted(outputs))}, which are no detector's or scene model's")
