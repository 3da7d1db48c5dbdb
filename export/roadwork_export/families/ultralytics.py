"""YOLO11, YOLO12 and YOLO26 as ultralytics builds them. The package is under AGPL-3.0 and imported only when used."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ..canvas import LOOK_SEED, rendered
from ..classes import ClassMap, taxonomy_labels
from ..errors import WeightsError, cannot_fetch, first_line
from ..family import SIDE, Family, Found, Kind, Source, Weights
from ..graph.boxes import FLOOR, TOP, BestBoxes, BestPairs
from ..graph.resize import RGB_ONE, Normalise
from ..random_weights import liven, seeded, spread

if TYPE_CHECKING:
    from ..catalogue import Entry

IOU = 0.7
"""Overlap over which ultralytics' predictor drops the weaker box of a class: its default `iou`."""
MOST = 300
"""Boxes of an image that its predictor keeps: its default `max_det`."""
PATCHED = {"PIL.Image": ("open",), "cv2": ("imread", "imwrite", "imshow"), "torch": ("save",)}
"""What importing ultralytics replaces for the whole process."""
CANDIDATES = 600
"""Boxes that enter the suppression here; the predictor takes all over the score. 600 leave 100 unless each object is
seen by more than six of the network's cells, and cost a 600 x 600 table an image."""


class Ultralytics(Family):
    """Sizes n to x of each generation; `config` is the file name by which ultralytics knows the architecture.

    Weights are a `.pt` that ultralytics wrote (a training's best.pt, or a released file by its name, such as
    yolo11n.pt, which is then fetched). Labels are those that the network was trained with.
    """

    name: ClassVar[str] = "ultralytics"
    kind: ClassVar[Kind] = "boxes"
    packages: ClassVar[tuple[str, ...]] = ("ultralytics",)

    def open(self, entry: Entry, weights: Weights) -> Source:
        config = entry.arguments["config"]
        if weights.source is None:
            return YoloSource(fresh(config, weights.seed))
        yolo = load(weights.source)
        belongs(yolo, config, weights.source, entry.name)
        return YoloSource(yolo)


class YoloSource(Source):
    """A YOLO of ultralytics that answers boxes; YOLO26 does so by its one-to-one head, without suppression."""

    def __init__(self, yolo: Any) -> None:
        self.yolo = yolo
        network = copy.deepcopy(yolo.model).eval()
        head = network.model[-1]
        self.pairs = getattr(head, "one2one_cv2", None) is not None
        head.end2end = self.pairs
        self.labels = tuple(yolo.model.names[i] for i in range(head.nc))
        self.strides = tuple(int(stride) for stride in head.stride)
        self.bins = int(head.reg_max)
        self.pre = Normalise(SIDE, *RGB_ONE)
        self.core = Answers(network.fuse(verbose=False), self.pairs)

    def decode(self, classes: ClassMap) -> nn.Module:
        return Decode(classes, len(self.labels), self.strides, self.bins, pairs=self.pairs)

    def look(self, canvas: np.ndarray) -> Found:
        bgr = np.ascontiguousarray(canvas[..., ::-1])  # an array is taken as OpenCV reads images
        with suppression():
            said = self.yolo.predict(
                bgr, imgsz=SIDE, conf=FLOOR, iou=IOU, max_det=MOST, device="cpu", verbose=False, save=False,
                nms=False if self.pairs else None,
            )[0].boxes  # fmt: skip
        return Found(said.xyxy.numpy(), said.conf.numpy(), said.cls.numpy().astype(np.int64))


class Answers(nn.Module):
    """Pixels [B, 3, 640, 640] -> distances [B, 4 * bins, N] and class logits [B, labels, N] of the head's N cells."""

    def __init__(self, network: nn.Module, pairs: bool) -> None:
        super().__init__()
        self.network, self.pairs = network, pairs

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.network(pixels)[1]
        raw = raw["one2one"] if self.pairs else raw
        return raw["boxes"], raw["scores"]


class Decode(nn.Module):
    """Those answers -> the contract's boxes, scores, classes.

    A cell's four distances, in cells from its middle to the left, upper, right and lower side, are each the mean of
    `bins` probabilities over 0 to bins - 1 (Li et al., 2020, arXiv:2006.04388), or the value itself where bins is 1.
    """

    cells: Tensor
    strides: Tensor
    values: Tensor

    def __init__(self, classes: ClassMap, labels: int, strides: Sequence[int], bins: int, *, pairs: bool) -> None:
        super().__init__()
        self.bins = bins
        middles = [cell_middles(SIDE // stride) for stride in strides]
        sizes = [torch.full((len(m),), float(s)) for m, s in zip(middles, strides, strict=True)]
        self.register_buffer("cells", torch.cat(middles).T[None])
        self.register_buffer("strides", torch.cat(sizes)[None, None])
        self.register_buffer("values", torch.arange(bins, dtype=torch.float32).view(1, 1, bins, 1))
        self.best: nn.Module = (
            FirstPairs(classes) if pairs else BestBoxes(classes, labels, iou=IOU, candidates=CANDIDATES)
        )

    def forward(self, distances: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.bins > 1:
            split = distances.unflatten(1, (4, self.bins)).softmax(2)
            distances = (split * self.values).sum(2)
        low = self.cells - distances[:, :2]
        high = self.cells + distances[:, 2:]
        boxes = torch.cat([low, high], 1) * self.strides
        return self.best(boxes.transpose(1, 2), logits.sigmoid().transpose(1, 2))


class FirstPairs(BestPairs):
    """`BestPairs` among the TOP boxes with the best scores: no other can be among the best TOP pairs."""

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order = self.to_taxonomy(scores).amax(-1).topk(TOP, 1).indices[..., None]
        boxes = boxes.gather(1, order.expand(-1, -1, 4))
        return super().forward(boxes, scores.gather(1, order.expand(-1, -1, scores.shape[-1])))


def cell_middles(side: int) -> Tensor:
    """Float [side * side, 2] of x and y, in cells, row by row."""
    at = torch.arange(side, dtype=torch.float32) + 0.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def build(config: str, labels: Sequence[str]) -> Any:
    """The network of a configuration that comes with ultralytics, for these labels, as torch initialises it."""
    tasks = package("ultralytics.nn.tasks")
    network = tasks.DetectionModel(config, nc=len(labels), verbose=False)
    network.names = dict(enumerate(labels))
    return network


def fresh(config: str, seed: int) -> Any:
    """ultralytics' YOLO of this configuration with the taxonomy's labels and lively random weights."""
    with seeded(seed):
        yolo = package("ultralytics").YOLO(config, task="detect")
        network = build(config, taxonomy_labels()).eval()
    network.args, network.task = yolo.model.args, yolo.model.task
    yolo.model = network
    head = network.model[-1]
    bins = copy.deepcopy(head.dfl.state_dict())
    for layer in network.modules():
        if hasattr(layer, "qkv"):
            # Random attention is otherwise so sharp that the last digit of a pixel moves boxes by pixels.
            nn.init.constant_(layer.qkv.bn.weight, 0.3)
    pixels = Normalise(SIDE, *RGB_ONE)(varied(torch.from_numpy(np.stack(rendered(8, LOOK_SEED)))))
    liven(network, lambda: network(pixels), seed)
    head.dfl.load_state_dict(bins)  # its convolution is the mean over the bins, not learnt
    pairs = getattr(head, "one2one_cv2", None) is not None
    boxes, scores = (head.one2one_cv2, head.one2one_cv3) if pairs else (head.cv2, head.cv3)
    spread(*(level[-1] for level in scores), seed=seed, gain=0.6, bias=-4.5)
    # Bins are voted on by softmax, where a common bias does nothing; plain distances must be over 0.
    spread(*(level[-1] for level in boxes), seed=seed, gain=0.5 if head.reg_max == 1 else 1.0, bias=4.0)
    return yolo


def varied(canvases: Tensor) -> Tensor:
    """Canvases and their negatives, halves of their brightness, other colours: nothing in these networks evens out the
    contrast of an image, and norms that know few images let answers grow tenfold on others."""
    return torch.cat([canvases, 255 - canvases, canvases // 2, canvases.roll(1, 3)])


def load(source: str) -> Any:
    """ultralytics' YOLO of a file that it wrote.

    Raises:
        WeightsError: not there, not to be fetched, or not such a file.
    """
    yolo = package("ultralytics").YOLO
    path = Path(source).expanduser()
    if not path.is_file():
        path = fetch(source)
    if path.suffix != ".pt":
        raise WeightsError(f"{source}: not a .pt file of ultralytics")
    tasks = package("ultralytics.nn.tasks")
    try:
        # Nothing in the file is run, whoever imported ultralytics first.
        with mock.patch.object(tasks, "SAFE_LOAD", os.environ.get("ULTRALYTICS_SAFE_LOAD", "true") == "true"):
            return yolo(str(path))
    except Exception as error:  # it raises whatever its readers raise
        raise WeightsError(f"{source}: not a checkpoint that ultralytics can read: {first_line(error)}") from error


def fetch(source: str) -> Path:
    """A released file by its name, kept where torch keeps such files.

    Raises:
        WeightsError: there is none of this name, or it cannot be fetched.
    """
    downloads = package("ultralytics.utils.downloads")
    if source not in downloads.GITHUB_ASSETS_NAMES or not source.endswith(".pt"):
        raise WeightsError(f"{source}: no such file, and not the name of a file that ultralytics has released")
    path = Path(torch.hub.get_dir()) / "checkpoints" / source
    try:
        downloads.attempt_download_asset(path)
    except Exception as error:  # whatever requests raises
        raise cannot_fetch(source, first_line(error), "the path of the file") from error
    if not path.is_file():
        raise cannot_fetch(source, "nothing came", "the path of the file")
    return path


def belongs(yolo: Any, config: str, source: str, name: str) -> None:
    """Raises WeightsError unless the network is that of `config` but for its labels."""
    if yolo.task != "detect" or not isinstance(getattr(yolo.model, "names", None), dict):
        raise WeightsError(f"{source}: a model that does {yolo.task}; {name} is one that does detect")
    labels = list(yolo.model.names.values())
    with seeded(0):
        wanted = {key: tensor.shape for key, tensor in build(config, labels).state_dict().items()}
    have = {key: tensor.shape for key, tensor in yolo.model.state_dict().items()}
    if have == wanted:
        return
    wrong = sorted(key for key in wanted.keys() | have.keys() if wanted.get(key) != have.get(key))
    made = Path(str(getattr(yolo.model, "yaml", {}).get("yaml_file", "another network"))).stem
    raise WeightsError(
        f"{source}: not weights of {name} but of {made}: {len(wrong)} tensors are missing, left over or of another "
        f"shape, first {wrong[0]}"
    )


def package(module: str) -> ModuleType:
    """A module of ultralytics, which is imported without what it otherwise does then: settings in the user's folder,
    a look for a network, telemetry, installing packages, messages, its own functions in the place of others'."""
    places = [(importlib.import_module(owner), name) for owner, names in PATCHED.items() for name in names]
    before = [getattr(owner, name) for owner, name in places]
    try:
        with alone():
            return importlib.import_module(module)
    finally:
        for (owner, name), function in zip(places, before, strict=True):
            setattr(owner, name, function)


@contextlib.contextmanager
def suppression() -> Iterator[None]:
    """ultralytics suppresses with its own code where nobody has imported torchvision. So it does here where torchvision
    came without its compiled operators, as its wheel for CUDA does beside a torch for CPUs."""
    nms = package("ultralytics.utils.nms")
    try:
        operators = importlib.import_module("torchvision.extension")._has_ops()
    except (ImportError, RuntimeError):
        operators = True  # then it is not imported by ultralytics either
    if operators:
        yield
        return
    with mock.patch.object(nms, "sys", SimpleNamespace(modules={})):
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Environment variables of ultralytics; those that are set already stay, and none is left behind."""
    wanted = {
        "YOLO_CONFIG_DIR": scratch(), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in (*wanted, "OMP_NUM_THREADS")}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@functools.lru_cache(maxsize=1)
def scratch() -> str:
    """A folder that is gone when the program ends."""
    folder = tempfile.mkdtemp(prefix="roadwork-ultralytics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
