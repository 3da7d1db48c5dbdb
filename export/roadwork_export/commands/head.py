"""`fit-head`: a presence head for a backbone, from labelled images."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone import BackboneSource
from ..errors import ExportError
from ..family import Weights
from ..head import FEATURES, Head, probe_canvas, write_head
from ..head_fit import Fit, fit
from ..labelled import Labelled, read_labelled
from ..making import find, permit

BATCH = 8


def add(commands: Any) -> None:
    """Register the commands of this group."""
    new = commands.add_parser("fit-head", help="fit a presence head for a backbone on labelled images")
    new.add_argument(
        "images", type=Path,
        help="folder with the sub-folders roadwork and none (folders in those are groups: drives, places), or a CSV "
        "file with the columns file,label,group",
    )  # fmt: skip
    new.add_argument("--model", required=True, help="a backbone of the catalogue: dinov2_small, dinov3_vits16, ...")
    where = new.add_mutually_exclusive_group()
    where.add_argument("--weights", help="folder or hub id (default: what the catalogue names)")
    where.add_argument("--random-weights", action="store_true", help="to try the command out")
    new.add_argument("--seed", type=int, default=0, help="of the folds, and of random weights")
    new.add_argument("--out", type=Path, required=True, help="file for the head: HEAD.safetensors")
    new.add_argument("--feature", choices=FEATURES, default=FEATURES[0], help="what the head looks at")
    new.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    new.add_argument("--accept-licence", help="name of the licence that you accept, where it restricts use")
    new.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    images = read_labelled(arguments.images)
    entry, family = find(arguments.model)
    permit(entry, arguments.accept_licence)
    weights = Weights(None if arguments.random_weights else arguments.weights or entry.source, arguments.seed)
    source = family.open(entry, weights)
    if not isinstance(source, BackboneSource):
        raise ExportError(f"{entry.name} is not a backbone: it answers without a head")
    print(f"{entry.name}: features of {len(images.paths)} images", flush=True)
    features = seen(source, images, arguments.device)
    used = features if arguments.feature == FEATURES[0] else features[:, : features.shape[1] // 2]
    found = fit(used, images.labels, images.groups, arguments.seed)
    facts = dataclasses.asdict(Figures.of(images, found)) | {
        "weights": str(weights),
        "command": shlex.join(["roadwork-export", *sys.argv[1:]]),
    }
    probe = source.features_of(probe_canvas()[None])[0]
    write_head(arguments.out, Head(found.weight, found.bias, arguments.feature, entry.name, probe, facts))
    print(Figures.of(images, found))
    print(f"{arguments.out}: written. Next: {next_command(arguments)}")
    return 0


def seen(source: BackboneSource, images: Labelled, device: str) -> np.ndarray:
    """Features float32 [N, 2 D], told of every few hundred images."""
    source.move(device)
    found: list[np.ndarray] = []
    try:
        for i, batch in enumerate(images.canvases(BATCH)):
            found.append(source.features_of(batch))
            if i % 50 == 49:
                print(f"  {(i + 1) * BATCH} of {len(images.paths)}", flush=True)
    finally:
        source.move("cpu")
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True)
class Figures:
    """What the file's metadata keeps; the figures are of images that the head did not learn from."""

    images: int
    roadwork: int
    groups: int | None
    folds: int
    C: float
    mcc: float
    auroc: float
    auroc_95: tuple[float, float]

    @staticmethod
    def of(images: Labelled, found: Fit) -> Figures:
        groups = None if images.groups is None else len(np.unique(images.groups))
        low, high = found.auroc_95
        return Figures(
            len(images.paths), int(images.labels.sum()), groups, found.folds, found.strength, round(found.mcc, 4),
            round(found.auroc, 4), (round(low, 4), round(high, 4)),
        )  # fmt: skip

    def __str__(self) -> str:
        kept = (
            "no groups: near-duplicates make these figures too good" if self.groups is None else f"{self.groups} groups"
        )
        low, high = self.auroc_95
        return (
            f"{self.images} images ({self.roadwork} with roadwork, {kept}), {self.folds} folds, C {self.C:g}. "
            f"Held out: MCC {self.mcc:.3f}, AUROC {self.auroc:.3f} (95% {low:.3f} to {high:.3f})"
        )


def next_command(arguments: argparse.Namespace) -> str:
    """The command that exports with the head."""
    words = ["roadwork-export", "onnx", arguments.model]
    if arguments.random_weights:
        words += ["--random-weights", "--seed", str(arguments.seed)]
    elif arguments.weights:
        words += ["--weights", arguments.weights]
    words += ["--head", str(arguments.out)]
    if arguments.accept_licence:
        words += ["--accept-licence", arguments.accept_licence]
    return shlex.join(words)
