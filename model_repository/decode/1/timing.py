"""Milliseconds from JPEG bytes to canvas: this decoder, OpenCV and Pillow. Run it: python timing.py"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from decoding import CANVAS_SIZE, PADDING, Pixels, decode_image
from PIL import Image, ImageOps

SIZES = ((600, 337), (1920, 1080), (4000, 3000))
SECONDS = 2.0


def main() -> None:
    cv2.setNumThreads(1)
    print("| JPEG | KiB | decode | OpenCV | Pillow |\n| --- | --- | --- | --- | --- |")
    for width, height in SIZES:
        data = simplejpeg.encode_jpeg(_picture(width, height), quality=90, colorsubsampling="420")
        times = _interleaved([lambda: decode_image(data), lambda: _opencv(data), lambda: _pillow(data)])  # noqa: B023
        cells = " | ".join(f"{milliseconds:.1f}" for milliseconds in times)
        print(f"| {width} x {height} | {len(data) // 1024} | {cells} |")


def _picture(width: int, height: int) -> Pixels:
    """Blobs with a little noise: about as many bytes a pixel as a sharp photograph."""
    random = np.random.default_rng(0)
    blobs = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + random.integers(-6, 6, smooth.shape), 0, 255).astype(np.uint8)


def _interleaved(functions: list[Callable[[], object]]) -> list[float]:
    """Median milliseconds of each, called in turn, so that whatever else the machine does falls on all of them."""
    times: list[list[float]] = [[] for _ in functions]
    stop = time.perf_counter() + SECONDS * len(functions)
    while time.perf_counter() < stop:
        for function, taken in zip(functions, times, strict=True):
            begun = time.perf_counter()
            function()
            taken.append((time.perf_counter() - begun) * 1000)
    return [float(np.median(taken)) for taken in times]


def _opencv(data: bytes) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    scale = CANVAS_SIZE / max(width, height)
    size = round(width * scale), round(height * scale)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.full((CANVAS_SIZE, CANVAS_SIZE, 3), PADDING, np.uint8)
    top, left = (CANVAS_SIZE - size[1]) // 2, (CANVAS_SIZE - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = small[..., ::-1]
    return canvas


def _pillow(data: bytes) -> Pixels:
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return np.asarray(ImageOps.pad(upright, (CANVAS_SIZE,) * 2, Image.Resampling.BILINEAR, color=(PADDING,) * 3))


if __name__ == "__main__":
    main()
