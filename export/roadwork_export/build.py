"""Weights into a checked ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from roadwork_cascade.taxonomy import load_taxonomy

from .nets.graph import FORMS, to_onnx

TOLERANCE = {"boxes": 0.05, "scores": 1e-3, "presence": 1e-3}
"""Largest difference to PyTorch: pixels for boxes, probability for the rest."""


class ParityError(ValueError):
    """The ONNX file does not compute what the network computes."""


def build(name: str, weights: Path, target: Path) -> str:
    """Write `<weights>/<name>.pt` as ONNX to `target`, compare both on scenes, and return one line on the result.

    Raises ParityError past TOLERANCE; FileNotFoundError without weights.
    """
    source = weights / f"{name}.pt"
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such weights; make them with: roadwork-export train --out {weights} ...")
    form = FORMS[name]
    taxonomy = load_taxonomy()
    network = form.network() if name == "scene" else form.network(len(taxonomy.classes))
    network.load_state_dict(torch.load(source, map_location="cpu", weights_only=True))
    graph = form.graph(network.eval()).eval()
    recipe = json.loads((weights / "recipe.json").read_text())
    metadata = {
        "title": form.title,
        "licence": "Apache-2.0",
        "started_from": "YOLOX-nano COCO weights, Apache-2.0, Megvii Inc.",
        "taxonomy_version": str(taxonomy.version),
        "held_out": ", ".join(recipe["held_out"]) or "nothing",
        "command": f"roadwork-export build {name}",
    }
    with torch.no_grad():
        to_onnx(graph, form.outputs, target, metadata)
        worst = parity(graph, form.outputs, target)
    for output, difference in worst.items():
        if difference > TOLERANCE[output]:
            raise ParityError(f"{target}: {output} differs from PyTorch by {difference:.3g}, over {TOLERANCE[output]}")
    differences = ", ".join(f"{k} {v:.1e}" for k, v in worst.items())
    return f"{target}: {target.stat().st_size / 1e6:.1f} MB, largest difference to PyTorch: {differences}"


def parity(graph: torch.nn.Module, outputs: tuple[str, ...], path: Path) -> dict[str, float]:
    """Largest differences on a batch of rendered scenes; detections of equal score may change places, so boxes are
    compared where the scores stand apart."""
    import cv2
    import onnxruntime

    from .scenes import render_scene

    canvases = []
    for seed in range(4):
        canvas = np.full((640, 640, 3), 114, np.uint8)
        canvas[120:520] = cv2.resize(render_scene(9_000_000 + seed, width=640, height=400).image, (640, 400))
        canvases.append(canvas)
    batch = np.stack(canvases)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = dict(zip(outputs, session.run(list(outputs), {"canvas": batch}), strict=True))
    result = graph(torch.from_numpy(batch))
    tensors = (result,) if isinstance(result, torch.Tensor) else result
    expected = {name: tensor.numpy() for name, tensor in zip(outputs, tensors, strict=True)}
    if "presence" in outputs:
        return {"presence": float(np.abs(got["presence"] - expected["presence"]).max())}
    scores = expected["scores"]
    gaps = np.minimum(np.abs(np.diff(scores, prepend=2.0)), np.abs(np.diff(scores, append=-1.0)))
    clear = (gaps > 1e-5) & (scores > 0.02)
    boxes = np.abs(got["boxes"] - expected["boxes"]).max(-1)
    return {"scores": float(np.abs(got["scores"] - scores).max()), "boxes": float(boxes[clear].max(initial=0.0))}
