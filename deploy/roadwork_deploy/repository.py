"""Reads the model repository: which folders hold models, and what each is by its signature alone.

A repository has a folder for every model of the catalogue. One whose weights nobody has brought is no member: it is not
wired, not served and not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.weights import Lack, lack, missing_file, network_command

Kind = Literal["boxes", "scene", "distance"]
Shape = tuple[str, list[int]]

CANVAS: Mapping[str, Shape] = {"canvas": ("TYPE_UINT8", [640, 640, 3])}
OUTPUTS: Mapping[Kind, Mapping[str, Shape]] = {
    "boxes": {"boxes": ("TYPE_FP32", [100, 4]), "scores": ("TYPE_FP32", [100]), "classes": ("TYPE_INT32", [100])},
    "scene": {"presence": ("TYPE_FP32", [1])},
    "distance": {"nearness": ("TYPE_FP32", [80, 80])},
}
NOUNS: Mapping[Kind, str] = {"boxes": "detector", "scene": "scene model", "distance": "distance model"}


@dataclass(frozen=True)
class Model:
    """A folder of the repository with a `config.pbtxt`."""

    name: str
    folder: Path
    config: Any  # model_config_pb2.ModelConfig

    @property
    def ensemble(self) -> bool:
        return self.config.platform == "ensemble"

    @property
    def backend(self) -> str:
        """Backend as Triton would find it, "ensemble" for an ensemble."""
        if self.ensemble:
            return "ensemble"
        if self.config.backend:
            return str(self.config.backend)
        return {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}.get(self.config.platform, "")

    @property
    def kind(self) -> Kind | None:
        """What the signature makes it: a box detector, a scene model, a distance model, or none of them."""
        if self.ensemble or set(_tensors(self.config.input)) != set(CANVAS):
            return None
        names = set(_tensors(self.config.output))
        return next((kind for kind, outputs in OUTPUTS.items() if names == set(outputs)), None)


def default_repository() -> Path:
    """`model_repository` of the checkout that this package is in, else of the current folder."""
    beside = Path(__file__).resolve().parents[2] / "model_repository"
    return beside if beside.is_dir() else Path("model_repository")


def read_models(repository: Path) -> dict[str, Model]:
    """Every folder with a `config.pbtxt`, by name, in the order of names."""
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is not a folder; give --model-repository the folder of models")
    paths = sorted(repository.glob("*/config.pbtxt"))
    return {path.parent.name: Model(path.parent.name, path.parent, read_config(path)) for path in paths}


def read_config(path: Path) -> Any:
    """A parsed `config.pbtxt`.

    Raises:
        RepositoryError: not a model configuration; the message has file and line.
    """
    return parse_config(path.read_text(), path)


def parse_config(text: str, path: Path) -> Any:
    """The same of what `path` is to hold."""
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise RepositoryError(f"{path}: {error}") from None


def without_weights(models: Mapping[str, Model]) -> dict[str, str]:
    """Name -> command that brings the weights, of every network and tier whose weights are not here."""
    lacks = {name: lack(model) for name, model in models.items()}
    return {name: found.command for name, found in lacks.items() if found is not None}


def members(models: Mapping[str, Model]) -> dict[str, Kind]:
    """Name -> kind of every box detector, scene model and distance model whose weights are here.

    Raises:
        RepositoryError: tensors are named as those of one of these kinds, but one differs in type or shape, or the
            model does not batch.
    """
    found: dict[str, Kind] = {}
    for model in models.values():
        kind = model.kind
        if kind is None or missing_file(model) is not None:
            continue
        _check_tensors(model, kind, "input", _tensors(model.config.input), CANVAS)
        _check_tensors(model, kind, "output", _tensors(model.config.output), OUTPUTS[kind])
        if model.config.max_batch_size < 1:
            raise RepositoryError(
                f"{model.folder / 'config.pbtxt'}: max_batch_size is {model.config.max_batch_size}; "
                f"a {NOUNS[kind]} needs at least 1"
            )
        found[model.name] = kind
    return found


def check_files(models: Mapping[str, Model], names: Sequence[str]) -> None:
    """Raise RepositoryError for the first model that is not there or has no file, naming the command that builds it."""
    for name in names:
        model = models.get(name)
        if model is None:
            raise RepositoryError(
                f"model {name!r} has no config.pbtxt in the repository; known are {', '.join(models)}"
            )
        missing = None if model.ensemble else missing_file(model)
        if missing is None:
            continue
        if model.backend == "python":
            raise RepositoryError(f"{missing} is missing")
        raise RepositoryError(str(Lack(f"{missing} is missing", network_command(model))))


def check_wired(models: Mapping[str, Model], names: Sequence[str]) -> None:
    """Raise RepositoryError where an ensemble among `names` asks a model whose file has gone, naming both ways out."""
    for ensemble in (models[name] for name in names if name in models):
        for step in ensemble.config.ensemble_scheduling.step:
            model = models.get(step.model_name)
            found = None if model is None else lack(model)
            if found is not None:
                raise RepositoryError(f"{found} (or leave it out of {ensemble.name} with: roadwork-deploy wire)")


def is_complete(repository: Path, names: Iterable[str]) -> bool:
    """Whether each of these models, and each that an ensemble among them asks, spells out its inputs and outputs."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        path = repository / name / "config.pbtxt"
        if name in seen:
            continue
        if not path.exists():
            return False
        seen.add(name)
        config = read_config(path)
        if not (config.input and config.output and (config.backend or config.platform)):
            return False
        waiting += [step.model_name for step in config.ensemble_scheduling.step]
    return True


def _tensors(tensors: Any) -> dict[str, Shape]:
    return {t.name: (model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in tensors}


def _check_tensors(model: Model, kind: Kind, side: str, have: Mapping[str, Shape], want: Mapping[str, Shape]) -> None:
    for name, (data_type, dims) in want.items():
        if have[name] != (data_type, dims):
            got_type, got_dims = have[name]
            raise RepositoryError(
                f"{model.folder / 'config.pbtxt'}: {side} '{name}' is {got_type} {got_dims}, "
                f"a {NOUNS[kind]} has {data_type} {dims}"
            )
