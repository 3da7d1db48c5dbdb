"""A model repository for the length of one ablation: copies of committed models under other names and settings."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from roadwork_deploy.repository import OUTPUTS, Kind, Model, members, read_models
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.shm import MIB, Budget
from tritonclient.grpc import model_config_pb2

from roadwork_bench.ablations.float_canvas import takes_floats
from roadwork_bench.errors import BenchError

SERVED_MODELS = Path(__file__).with_name("served_models")
START_SECONDS = 180.0
UINT8, FLOAT = "TYPE_UINT8", "TYPE_FP32"


class Workshop:
    """Builds a repository in `folder` out of the models of `source`. Every method returns the new model's name.

    Members get what the profile `cpu` gives them: one thread, and no batching.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.loaded: list[str] = []
        self._models = read_models(source)
        self.kinds: dict[str, Kind] = dict(members(self._models))
        self._instances = 0

    def of_kind(self, *kinds: Kind) -> list[str]:
        """Members of these kinds that the source has. Raises BenchError where there is none."""
        found = [name for name in self._models if self.kinds.get(name) in kinds]
        if not found:
            raise BenchError(f"the model repository has no model with weights of the kind {' or '.join(kinds)}")
        return found

    def member(self, source: str, name: str, *, instances: int = 1, cached: bool = False, floats: bool = False) -> str:
        """A copy of a network under another name."""
        model = self._source(source)
        if source not in self.kinds:
            raise BenchError(
                f"{source} is no detector, scene or distance model with weights; see roadwork-deploy models"
            )
        self.kinds[name] = self.kinds[source]
        (self.folder / name / "1").mkdir(parents=True)
        target = self.folder / name / "1" / "model.onnx"
        if floats:
            takes_floats(model.folder / "1" / "model.onnx", target)
        else:
            for path in (model.folder / "1").glob("model.onnx*"):
                shutil.copy(path, target.parent)

        def change(config: Any) -> None:
            config.ClearField("dynamic_batching")
            config.parameters["intra_op_thread_count"].string_value = "1"
            if floats:
                config.input[0].data_type = model_config_pb2.DataType.Value(FLOAT)

        return self._write(name, model, instances, cached, change)

    def decode(self, name: str = "decode", *, cached: bool = False, floats: bool = False) -> str:
        """The decoder, which makes a float32 canvas of it with `floats`."""
        model = self._source("decode")
        shutil.copytree(model.folder / "1", self.folder / name / "1", ignore=shutil.ignore_patterns("__pycache__"))
        if floats:
            (self.folder / name / "1" / "model.py").rename(self.folder / name / "1" / "decode_model.py")
            shutil.copy(SERVED_MODELS / "decode_to_float.py", self.folder / name / "1" / "model.py")

        def change(config: Any) -> None:
            config.ClearField("dynamic_batching")
            if floats:
                canvas = next(output for output in config.output if output.name == "canvas")
                canvas.data_type = model_config_pb2.DataType.Value(FLOAT)

        return self._write(name, model, 1, cached, change)

    def ensemble(self, name: str, parts: Sequence[str], *, decode: str | None = None, floats: bool = False) -> str:
        """All of `parts` in parallel on the canvas that comes in, or that `decode` makes of an image."""
        steps = [
            {"model": part, "in": {"canvas": "canvas"}, "out": {o: f"{part}_{o}" for o in OUTPUTS[self.kinds[part]]}}
            for part in parts
        ]
        if decode:
            steps.insert(0, {"model": decode, "in": {"image": "image"}, "out": {"canvas": "canvas"}})
        config = self._signature(name, parts, image=decode is not None, floats=floats)
        config.platform = "ensemble"
        for given in steps:
            step = config.ensemble_scheduling.step.add(model_name=given["model"], model_version=-1)
            step.input_map.update(given["in"])  # type: ignore[arg-type]
            step.output_map.update(given["out"])  # type: ignore[arg-type]
        return self._save(name, config)

    def glance(self, name: str, parts: Sequence[str], decode: str) -> str:
        """As `roadwork-deploy wire` writes it: decode, then `parts`, with canvas and geometry among the outputs."""
        config = self._signature(name, parts, image=True, floats=False)
        config.platform = "ensemble"
        _tensor(config.output, "canvas", UINT8, [640, 640, 3])
        _tensor(config.output, "geometry", FLOAT, [5])
        step = config.ensemble_scheduling.step.add(model_name=decode, model_version=-1)
        step.input_map["image"] = "image"
        step.output_map.update({"canvas": "canvas", "geometry": "geometry"})
        for part in parts:
            step = config.ensemble_scheduling.step.add(model_name=part, model_version=-1)
            step.input_map["canvas"] = "canvas"
            step.output_map.update({output: f"{part}_{output}" for output in OUTPUTS[self.kinds[part]]})
        return self._save(name, config)

    def fan_out(self, name: str, parts: Sequence[str], *, decode: str | None = None, instances: int = 4) -> str:
        """A Python model with the signature of `ensemble`, which asks the same models itself by BLS."""
        config = self._signature(name, parts, image=decode is not None, floats=False)
        config.backend = "python"
        config.instance_group.add(count=instances, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
        config.parameters["decode"].string_value = decode or ""
        asked = {part: list(OUTPUTS[self.kinds[part]]) for part in parts}
        config.parameters["members"].string_value = json.dumps(asked)
        self.python_file(name, "fan_out.py")
        self._instances += instances
        return self._save(name, config)

    def copy(self, source: str, name: str, change: Callable[[Any], None], instances: int = 1) -> str:
        """A whole folder of the source, its configuration changed."""
        model = self._source(source)
        ignored = shutil.ignore_patterns("__pycache__", "configs")
        shutil.copytree(model.folder, self.folder / name, ignore=ignored)
        return self._write(name, model, instances, False, change)

    def python_file(self, name: str, file: str) -> None:
        """One of `served_models` as the model's `model.py`."""
        (self.folder / name / "1").mkdir(parents=True, exist_ok=True)
        shutil.copy(SERVED_MODELS / file, self.folder / name / "1" / "model.py")

    def server(self, entries: Sequence[str], arguments: Sequence[str] = ()) -> EmbeddedServer:
        """A server of all that was built, not started; `entries` have to answer before it counts as started."""
        budget = Budget(instances=self._instances, instance_bytes=16 * MIB)
        return EmbeddedServer(
            self.folder, self.loaded, probes=entries, drain=2, budget=budget, arguments=arguments,
            startup_timeout=START_SECONDS,
        )  # fmt: skip

    def _source(self, name: str) -> Model:
        if name not in self._models:
            raise BenchError(f"model {name!r} is not in the model repository")
        return self._models[name]

    def _write(self, name: str, model: Model, instances: int, cached: bool, change: Callable[[Any], None]) -> str:
        config = model_config_pb2.ModelConfig()
        config.CopyFrom(model.config)
        config.name = name
        del config.instance_group[:]
        config.instance_group.add(count=instances, kind=model_config_pb2.ModelInstanceGroup.KIND_CPU)
        if cached:
            config.response_cache.enable = True
        change(config)
        self._instances += instances
        return self._save(name, config)

    def _signature(self, name: str, parts: Sequence[str], *, image: bool, floats: bool) -> Any:
        config = model_config_pb2.ModelConfig(name=name, max_batch_size=1)
        if image:
            _tensor(config.input, "image", "TYPE_STRING", [1])
        else:
            _tensor(config.input, "canvas", FLOAT if floats else UINT8, [640, 640, 3])
        for part in parts:
            for output, (data_type, dims) in OUTPUTS[self.kinds[part]].items():
                _tensor(config.output, f"{part}_{output}", data_type, dims)
        return config

    def _save(self, name: str, config: Any) -> str:
        (self.folder / name / "1").mkdir(parents=True, exist_ok=True)
        (self.folder / name / "config.pbtxt").write_text(text_format.MessageToString(config))
        self.loaded.append(name)
        return name


@contextmanager
def workshop(source: Path) -> Iterator[Workshop]:
    """An empty one, whose folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="roadwork-ablation-") as folder:
        yield Workshop(source, Path(folder))


def outputs_of(kind: Kind, name: str) -> list[str]:
    """Outputs of an ensemble that a part of it gives."""
    return [f"{name}_{output}" for output in OUTPUTS[kind]]


def set_parameters(config: Any, values: Mapping[str, str]) -> None:
    """Parameters of a `config.pbtxt`."""
    for key, value in values.items():
        config.parameters[key].string_value = value


def _tensor(tensors: Any, name: str, data_type: str, dims: Sequence[int]) -> None:
    tensors.add(name=name, data_type=model_config_pb2.DataType.Value(data_type), dims=dims)
