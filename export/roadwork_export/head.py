"""Presence heads: a logistic regression on the features of a frozen backbone, as a file of safetensors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ExportError, WeightsError
from .family import SIDE

FORMAT = "roadwork-head/1"
FEATURES = ("cls+patches", "cls")
"""What a head looks at: the pooled token beside the mean of the patches, or the pooled token alone."""
APART = 0.02
"""Relative distance of the probe's features from which on a backbone is another one; exporters differ by 1e-5."""


@dataclass(frozen=True)
class Head:
    """presence = sigmoid(features @ weight + bias).

    Attributes:
        weight: float32 [D], or [2 D] with the mean of the patches; standardisation is folded in.
        feature: one of FEATURES.
        model: name of the backbone in the catalogue.
        probe: float32 [2 D], what that backbone said of `probe_canvas`.
        facts: what the file's metadata says beside: images, groups, figures, the command.
    """

    weight: np.ndarray
    bias: float
    feature: str
    model: str
    probe: np.ndarray
    facts: dict[str, Any]

    def presence(self, features: np.ndarray) -> np.ndarray:
        """float32 [B] in [0, 1] of features [B, 2 D]."""
        logits = features[:, : len(self.weight)].astype(np.float64) @ self.weight + self.bias
        return (1 / (1 + np.exp(-logits))).astype(np.float32)


def probe_canvas() -> np.ndarray:
    """uint8 [640, 640, 3]: slopes, stripes and a disc, by which a head knows its backbone again."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    disc = (np.hypot(x - 400, y - 260) < 130) * 255
    return np.stack([x * 255 / SIDE, (y // 20 % 2) * 255, disc], -1).astype(np.uint8)


def same_backbone(head: Head, path: Path, name: str, probe: np.ndarray) -> None:
    """Raises WeightsError where `head` was fitted on other features than those of model `name`.

    Args:
        probe: float [2 D], what the model says of `probe_canvas`.
    """
    if head.model != name:
        raise WeightsError(f"{path}: a head for {head.model}, not for {name}")
    if head.probe.shape != probe.shape:
        raise WeightsError(f"{path}: fitted on features of {len(head.probe)} numbers, {name} gives {len(probe)}")
    distance = float(np.linalg.norm(head.probe - probe) / max(float(np.linalg.norm(probe)), 1e-9))
    if distance > APART:
        raise WeightsError(
            f"{path}: fitted on other weights of {name} ({head.facts.get('weights')}); give those, or fit again"
        )


def read_head(path: Path) -> Head:
    """Raises WeightsError where the file is not there or is no head."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path}: no such head; roadwork-export fit-head writes one")
    try:
        with safe_open(str(path), "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise WeightsError(f"{path}: not a head that roadwork-export fit-head wrote")
            weight, bias, probe = (file.get_tensor(name) for name in ("weight", "bias", "probe"))
            facts = json.loads(metadata["facts"])
            return Head(weight, float(bias[0]), metadata["feature"], metadata["model"], probe, facts)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: not a head that roadwork-export fit-head wrote: {error}") from error


def write_head(path: Path, head: Head) -> None:
    """In one step or not at all. Raises ExportError where it cannot be written."""
    from safetensors.numpy import save

    content = save(
        {
            "weight": head.weight.astype(np.float32),
            "bias": np.array([head.bias], np.float32),
            "probe": head.probe.astype(np.float32),
        },
        {"format": FORMAT, "feature": head.feature, "model": head.model, "facts": json.dumps(head.facts)},
    )
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content)
        new.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        new.unlink(missing_ok=True)
