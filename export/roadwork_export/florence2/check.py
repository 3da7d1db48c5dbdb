"""The folder's code against transformers' own processor, generation and post-processing, on the same images."""

from __future__ import annotations

import importlib.util
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..canvas import IMAGES, SCENE_SEED
from ..errors import CheckError
from .folder import CODE

TASK = "<OCR_WITH_REGION>"
CHECKED_ON = 3
TOKENS = 96
"""Written for each image of a check: some lines of text."""
PATIENCE = 3600.0
"""Seconds for one image: a check is not about time."""
MOST_PX = 1.0

Lines = list[tuple[str, tuple[float, ...]]]
"""Text and quadrilateral (x and y of four corners) of each."""


@dataclass(frozen=True)
class Agreement:
    """Lines that both read on `images` images, lines that only one did or reads otherwise, and the largest difference
    of a corner in pixels."""

    images: int
    lines: int
    unmatched: int
    corner_px: float

    @property
    def passed(self) -> bool:
        return self.unmatched == 0 and self.corner_px <= MOST_PX

    def __str__(self) -> str:
        said = f"{self.lines} lines on {self.images} images, {self.unmatched} without counterpart, corners differ by "
        said += f"{self.corner_px:.2f} px at most: " + ("passed" if self.passed else "FAILED")
        return said + ("" if self.lines else " (no line was read: that both say nothing is all that is shown)")


def compare(target: Path, network: Any, processor: Any, images: Path | None) -> Agreement:
    """Compare a folder with its source, on the CPU in float32.

    Args:
        network, processor: of transformers, as they were opened from the source.
        images: folder of images, of which the first few are taken; None for rendered scenes.

    Raises:
        CheckError: no images, or one cannot be read.
    """
    module = _load(target)
    settings = module.Settings(max_new_tokens=TOKENS)
    reader = module.FlorenceReader(target / "1" / "weights", settings=settings)
    pictures = _pictures(images, settings.read_side)
    both = unmatched = 0
    worst = 0.0
    for data in pictures:
        upright = module.decode_upright(data, longest_side=settings.read_side)
        page = reader.look(upright.rgb, (upright.width, upright.height), time.monotonic() + PATIENCE)
        served: Lines = [(line.text, line.quad) for line in page.lines]
        matched, apart, px = difference(served, plain(network, processor, Image.open(io.BytesIO(data))))
        both, unmatched, worst = both + matched, unmatched + apart, max(worst, px)
    return Agreement(len(pictures), both, unmatched, worst)


def plain(network: Any, processor: Any, image: Image.Image) -> Lines:
    """What the library says of an image when it is called as its documentation does, but for beams."""
    inputs = processor(text=TASK, images=np.array(image), return_tensors="pt")
    with torch.inference_mode():
        written = network.generate(**inputs, max_new_tokens=TOKENS, num_beams=1, do_sample=False, early_stopping=False)
    text = processor.batch_decode(written, skip_special_tokens=False)[0]
    found = processor.post_process_generation(text=text, task=TASK, image_size=image.size)[TASK]
    return [(label, tuple(quad)) for label, quad in zip(found["labels"], found["quad_boxes"], strict=True)]


def difference(served: Lines, source: Lines) -> tuple[int, int, float]:
    """Lines with the same text in the same order, those without counterpart, largest difference of a corner in px."""
    same = [(a, b) for a, b in zip(served, source, strict=False) if a[0] == b[0]]
    apart = len(served) + len(source) - 2 * len(same)
    worst = max((abs(x - y) for a, b in same for x, y in zip(a[1], b[1], strict=True)), default=0.0)
    return len(same), apart, worst


def _load(target: Path) -> ModuleType:
    """The folder's own `florence_reading.py`, which is what the server runs."""
    path = target / "1" / CODE[1]
    name = f"roadwork_florence_{abs(hash(str(path.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CheckError(f"{path}: not there")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _pictures(folder: Path | None, longest_side: int) -> list[bytes]:
    """PNG files, upright and no larger than the folder's picture, so that decoding has no part in what is compared."""
    if folder is None:
        from ..scenes import render_scene

        found = [render_scene(SCENE_SEED + at, width=640, height=400).image for at in range(CHECKED_ON)]
        return [_png(Image.fromarray(np.asarray(image))) for image in found]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)[:CHECKED_ON] if folder.is_dir() else []
    if not paths:
        raise CheckError(f"{folder}: holds no image ({', '.join(IMAGES)})")
    pictures = []
    for path in paths:
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except OSError as error:
            raise CheckError(f"{path}: not an image that can be read: {error}") from None
        image.thumbnail((longest_side, longest_side))
        pictures.append(_png(image))
    return pictures


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
