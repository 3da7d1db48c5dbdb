"""RF-DETR as the rfdetr package of Roboflow builds it, up to size L: these sizes are under Apache-2.0."""

from __future__ import annotations

import contextlib
import copy
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import some_canvases
from ..classes import ClassMap, taxonomy_labels
from ..detr import Decode
from ..errors import WeightsError, cannot_fetch, first_line
from ..family import Family, Found, Kind, Source, Weights
from ..graph.boxes import FLOOR
from ..graph.resize import Normalise
from ..random_weights import liven, seeded, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

CLASSES = {
    "nano": "RFDETRNano",
    "small": "RFDETRSmall",
    "medium": "RFDETRMedium",
    "base": "RFDETRBase",
    "large": "RFDETRLarge",
}
"""What rfdetr calls each size."""
PREFIXES = ("model.", "_orig_mod.")
"""Of tensors in a checkpoint of PyTorch Lightning, the second where the model was compiled."""


class RfDetr(Family):
    """Sizes nano to large.

    Weights are a checkpoint that rfdetr wrote (checkpoint_best_total.pth, last.ckpt and their like), or a released file
    by its name, such as rf-detr-nano.pth, which is then fetched. Labels are those in the checkpoint, else COCO's.
    """

    name: ClassVar[str] = "rfdetr"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("rfdetr",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        size = entry.arguments["size"]
        if weights.source is None:
            return RfDetrSource(fresh(size, weights.seed))
        path = find(weights.source)
        return RfDetrSource(load(size, path, weights.source, entry.name))


class RfDetrSource(Source):
    """One of rfdetr's models with boxes alone."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector
        network = detector.model.model.eval()
        self.labels = labels_of(detector, network.class_embed.out_features)
        self.pre = resize(detector)
        with quiet():
            exported = copy.deepcopy(network)
            exported.export()  # rfdetr's own form for tracing: no masks of padding, fixed position embeddings
        self.core = Answers(exported)

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes)

    def look(self, canvas: np.ndarray) -> Found:
        with quiet():
            said = self.detector.predict(canvas, threshold=FLOOR, include_source_image=False)
        return Found(said.xyxy, said.confidence, said.class_id.astype(np.int64))


class Answers(nn.Module):
    """Pixels [B, 3, S, S] -> class logits [B, N, labels] and boxes [B, N, 4] as centre and size in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        boxes, logits = self.network(pixels)
        return logits, boxes


def resize(detector: Any) -> Normalise:
    """As predict() does it: of floats, without smoothing."""
    return Normalise(detector.model.resolution, detector.means, detector.stds, rounded=False, antialias=False)


def labels_of(detector: Any, columns: int) -> tuple[str, ...]:
    """A name for each column of the head. COCO's have gaps, and a trained head has one column more, which never wins.

    rfdetr's predict() numbers classes by column, and so does the graph.
    """
    names = list(detector.class_names)
    known = importlib.import_module("rfdetr.assets.coco_classes")
    if names == list(known.COCO_CLASS_NAMES) and columns > len(names) + 1:
        return tuple(known.COCO_CLASSES.get(i, f"column {i}") for i in range(columns))
    return tuple(names[i] if i < len(names) else f"column {i}" for i in range(columns))


def build(size: str, **settings: Any) -> Any:
    """rfdetr's model of this size on the CPU; nothing is fetched unless `pretrain_weights` says so."""
    with quiet():
        variant = getattr(importlib.import_module("rfdetr"), CLASSES[size])
        return variant(**{"pretrain_weights": None, "device": "cpu", **settings})


def fresh(size: str, seed: int) -> Any:
    """The model with the taxonomy's labels and lively random weights."""
    labels = list(taxonomy_labels())
    with seeded(seed), without_hub():
        detector = build(size, num_classes=len(labels))
    detector.model.class_names = labels
    network = detector.model.model.eval()
    pixels = resize(detector)(some_canvases())
    liven(network, lambda: network(pixels), seed)
    transformer = network.transformer
    scores = [network.class_embed, *transformer.enc_out_class_embed]
    spread(*scores, seed=seed, bias=-3.0)
    boxes = [head.layers[-1] for head in (network.bbox_embed, *transformer.enc_out_bbox_embed)]
    spread(*boxes, seed=seed, gain=0.5)
    with seeded(seed), torch.no_grad():
        for embedding in (network.refpoint_embed, network.query_feat):
            embedding.weight.normal_(0.0, 0.5)
    return detector


def load(size: str, path: Path, source: str, name: str) -> Any:
    """The model of a checkpoint, with its labels and the side of its input.

    Raises:
        WeightsError: not a checkpoint of rfdetr, or of another of its models.
    """
    state, settings = read(path, source)
    head = state.get("class_embed.bias")
    if head is None:
        raise WeightsError(f"{source}: not a checkpoint of rfdetr: it has no class_embed")
    settings = {"num_classes": len(head) - 1, **settings}
    try:
        with seeded(0), without_hub():
            wanted = {key: value.shape for key, value in build(size, **settings).model.model.state_dict().items()}
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{source}: not weights of {name}: {first_line(error)}") from error
    have = {key: value.shape for key, value in state.items()}
    wrong = sorted(k for k in wanted.keys() | have.keys() if wanted.get(k) != have.get(k) and not reconciled(k))
    if wrong:
        raise WeightsError(
            f"{source}: not weights of {name}: {len(wrong)} tensors are missing, left over or of another shape, first "
            f"{wrong[0]}"
        )
    try:
        return build(size, pretrain_weights=str(path), **settings)
    except Exception as error:  # whatever its readers raise
        raise WeightsError(f"{source}: rfdetr cannot read it as {name}: {first_line(error)}") from error


def read(path: Path, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a checkpoint and what it says about its input; nothing in the file is run.

    Raises:
        WeightsError: not a checkpoint.
    """
    loading = importlib.import_module("rfdetr.utilities.io")
    try:
        checkpoint = loading._safe_torch_load(path)
    except Exception as error:  # torch raises whatever the file leads it to
        raise WeightsError(f"{source}: not a checkpoint of rfdetr: {first_line(error)}") from error
    state = checkpoint.get("model", checkpoint.get("state_dict")) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise WeightsError(f"{source}: not a checkpoint of rfdetr: it has neither `model` nor `state_dict`")
    if "model" not in checkpoint:
        for prefix in PREFIXES:
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    config = checkpoint.get("model_config")
    resolution = config.get("resolution") if isinstance(config, dict) else None
    return state, {"resolution": resolution} if isinstance(resolution, int) else {}


def reconciled(key: str) -> bool:
    """Whether rfdetr itself fits this tensor to the model when it loads it: queries by group, and a mask of keypoints
    that old checkpoints lack. Position embeddings are resampled to the side of the input."""
    return key.endswith(
        ("refpoint_embed.weight", "query_feat.weight", "_kp_active_mask", "embeddings.position_embeddings")
    )


def find(source: str) -> Path:
    """The file, or a released one by its name, fetched to where rfdetr keeps such files.

    Raises:
        WeightsError: there is none of this name, or it cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    released = importlib.import_module("rfdetr.assets.model_weights")
    if released.ModelWeights.from_filename(source) is None:
        raise WeightsError(f"{source}: no such file, and not the name of a file that rfdetr has released")
    path = Path(released.get_model_cache_dir()) / source
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            released.download_pretrain_weights(str(path))
        why = "" if path.is_file() else "nothing came"
    except Exception as error:  # whatever requests raises
        why = first_line(error)
    if why:
        raise cannot_fetch(source, why, "the path of the file")
    return path


@contextlib.contextmanager
def without_hub() -> Iterator[None]:
    """Size base starts from DINOv2 on the hub, unless told otherwise: here it starts from nothing."""
    backbone = importlib.import_module("rfdetr.models.backbone.dinov2_with_windowed_attn")
    network = backbone.WindowedDinov2WithRegistersBackbone

    def made(name: str, *, config: Any) -> Any:
        return network(config)

    with mock.patch.object(network, "from_pretrained", made):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what rfdetr says about speed and about weights that are given another way."""
    logger = logging.getLogger("rf-detr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
