"""Average precision by class on the groups that each fold's networks never saw."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from roadwork_cascade.taxonomy import load_taxonomy

from .canvas import letterbox
from .train.photos import BOXED_SOURCE, Photo, load_photos, read_rows

DETECTORS = ("yolox_nano", "centernet_nano")


def detections(session: onnxruntime.InferenceSession, photo: Photo, image_id: int) -> list[dict[str, Any]]:
    """COCO result rows in pixels of the photograph."""
    canvas, size, x, y = letterbox(photo.image)
    scale = max(size) / max(photo.image.shape[:2])
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"canvas": canvas[None]})
    boxes = (boxes[0] - np.array([x, y, x, y])) / scale
    return [
        {
            "image_id": image_id,
            "category_id": int(c) + 1,
            "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            "score": float(s),
        }
        for b, s, c in zip(boxes, scores[0], classes[0], strict=True)
        if s > 0
    ]


def truth(photos: list[Photo]) -> COCO:
    """Photographs and their boxes as a COCO data set; category ids are taxonomy ids plus 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, photo in enumerate(photos):
        images.append({"id": image_id, "width": photo.image.shape[1], "height": photo.image.shape[0]})
        for box, c in zip(photo.boxes, photo.classes, strict=True):
            w, h = float(box[2] - box[0]), float(box[3] - box[1])
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image_id, "category_id": int(c) + 1, "iscrowd": 0,
                    "bbox": [float(box[0]), float(box[1]), w, h], "area": w * h,
                }
            )  # fmt: skip
    coco = COCO()
    categories = [{"id": c.id + 1, "name": c.name} for c in load_taxonomy().classes]
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def score(coco: COCO, rows: list[dict[str, Any]], categories: list[int]) -> dict[str, float]:
    """AP at IoU 0.5 and over 0.5 to 0.95 by pycocotools, and the largest recall at IoU 0.5; NaN without boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(coco, coco.loadRes(rows), "bbox")
        run.params.catIds = categories
        run.evaluate()
        run.accumulate()
    precision, recall = run.eval["precision"][..., 0, 2], run.eval["recall"][..., 0, 2]
    half, all_ious = precision[0][precision[0] > -1], precision[precision > -1]
    reached = recall[0][recall[0] > -1]
    return {
        "ap50": round(float(half.mean()), 3) if half.size else float("nan"),
        "ap": round(float(all_ious.mean()), 3) if all_ious.size else float("nan"),
        "recall50": round(float(reached.mean()), 3) if reached.size else float("nan"),
    }


def evaluate(data: Path, folds: Path) -> dict[str, Any]:
    """Figures of each detector over all boxed photographs, each scored by the fold that held its group out."""
    if not (folds / "folds.json").is_file():
        raise FileNotFoundError(f"{folds / 'folds.json'}: not there; write it with: roadwork-export build-folds")
    held: dict[str, list[str]] = json.loads((folds / "folds.json").read_text())
    loaded = load_photos(data, set(), cut=False)
    empty = [p for p in loaded.empty if p.source == BOXED_SOURCE]
    photos = loaded.annotated + empty
    coco = truth(photos)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    taxonomy = load_taxonomy()
    counts = np.bincount(np.concatenate([p.classes for p in photos]), minlength=len(taxonomy))
    present = [c.id + 1 for c in taxonomy.classes if counts[c.id]]
    detectors: dict[str, Any] = {}
    for name in DETECTORS:
        rows: list[dict[str, Any]] = []
        for fold, groups in held.items():
            session = onnxruntime.InferenceSession(str(folds / fold / name / "model.onnx"), options)
            for image_id, photo in enumerate(photos):
                if photo.group in groups:
                    rows += detections(session, photo, image_id)
        by_class = {c.name: score(coco, rows, [c.id + 1]) for c in taxonomy.classes if counts[c.id]}
        detectors[name] = {"all": score(coco, rows, present), "by_class": by_class}
    return {
        "photographs": len(photos),
        "groups": len({p.group for p in photos}),
        "publishable_rows": len(read_rows(data)),
        "boxes": {c.name: int(counts[c.id]) for c in taxonomy.classes if counts[c.id]},
        "held_out": held,
        "detectors": detectors,
    }
