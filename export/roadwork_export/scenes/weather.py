"""What light, air, lens and sensor do to the whole picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from roadwork_export.scenes import noise
from roadwork_export.scenes.brush import Colour, Image
from roadwork_export.scenes.camera import Camera
from roadwork_export.scenes.light import Light
from roadwork_export.scenes.palette import chance

Rng = np.random.Generator
Lamp = tuple[float, float, float, Colour]


def darken(
    image: Image, bright: NDArray[np.uint8], camera: Camera, light: Light, lamps: Sequence[Lamp], rng: Rng
) -> Image:
    """Dusk and night: less light, own headlamps, street light; `bright` marks what reflects back (0 to 255)."""
    level = 1 - 0.86 * light.night
    small = (camera.width // 8, camera.height // 8)
    u, v = np.meshgrid(np.linspace(-1, 1, small[0], dtype=np.float32), np.linspace(0, 1, small[1], dtype=np.float32))
    low = np.exp(-((u / 0.75) ** 2) - ((v - 0.82) / 0.26) ** 2) * 0.55 * light.night
    field = level + low + 0.12 * light.night * noise.crop("cloud", small[1], small[0], rng, 2)
    wide = cv2.resize(np.maximum(field, 0.05).astype(np.float32), (camera.width, camera.height))
    wide = wide + bright.astype(np.float32) * (float(rng.uniform(0.3, 0.75)) * light.night / 255)
    tint = np.array([1.06, 0.98, 0.88] if chance(rng, 0.6) else [0.92, 0.98, 1.1], np.float32)
    return np.clip(image * (wide[..., None] * (1 + (tint - 1) * light.night)), 0, 255).astype(np.uint8)


def glow(image: Image, lamps: Sequence[Lamp], light: Light) -> None:
    """Halos of lamps, in place: strong at night, faint by day."""
    layer = np.zeros((image.shape[0] // 2, image.shape[1] // 2, 3), np.uint8)
    for x, y, radius, colour in lamps:
        size = max(1, min(11, int(radius * (0.6 + 0.7 * light.night))))
        cv2.circle(layer, (int(x / 2), int(y / 2)), size, colour, -1)
    sigma = 2.0 + 5.0 * light.night
    share = 0.25 + 1.2 * light.night
    halo = cv2.GaussianBlur(layer, (0, 0), sigma)
    halo = cv2.resize(cv2.addWeighted(halo, share, layer, 0.3 * light.night, 0), (image.shape[1], image.shape[0]))
    cv2.add(image, halo, image)


def precipitation(image: Image, light: Light, rng: Rng) -> None:
    if light.kind not in ("rain", "snow"):
        return
    layer = np.zeros(image.shape, np.uint8)
    count = int(rng.integers(40, 260))
    x, y = rng.uniform(0, image.shape[1], count), rng.uniform(0, image.shape[0], count)
    slant = float(rng.normal(0, 2))
    for a, b, size in zip(x, y, rng.uniform(0.5, 1.5, count), strict=True):
        if light.kind == "rain":
            cv2.line(layer, (int(a), int(b)), (int(a + slant * size), int(b + 9 * size)), (70, 72, 76), 1, cv2.LINE_AA)
        else:
            cv2.circle(layer, (int(a * 8), int(b * 8)), int(9 * size), (190, 190, 194), -1, cv2.LINE_AA, 3)
    cv2.add(image, layer, image)


def bonnet(image: Image, rng: Rng) -> int:
    """The own car's bonnet at the lower edge; returns the row where it begins."""
    rows, columns = image.shape[:2]
    rise = float(rng.uniform(0.03, 0.13)) * rows
    x = np.linspace(0, columns, 24)
    arch = rows - rise * (1 - ((x / columns - float(rng.uniform(0.4, 0.6))) * float(rng.uniform(1.0, 1.9))) ** 2)
    outline = np.vstack([np.stack([x, arch], 1), [[columns, rows], [0, rows]]]).astype(np.int32)
    level = float(rng.choice([18, 30, 60, 150, 210]))
    tone = np.clip(np.array([level, level, level]) + rng.normal(0, 8, 3), 0, 255)
    cv2.fillPoly(image, [outline], tuple(float(c) for c in tone), cv2.LINE_AA)
    cv2.polylines(image, [outline[:24]], False, tuple(float(c) for c in np.minimum(tone + 50, 255)), 2, cv2.LINE_AA)
    return int(arch.min())


def lens(picture: Image, light: Light, rng: Rng) -> Image:
    """Vignette, glare, dirt, colour cast, exposure, blur, noise and compression."""
    image: NDArray[Any] = picture
    rows, columns = image.shape[:2]
    if chance(rng, 0.15) and light.kind != "night":
        glare = np.zeros((rows // 8, columns // 8), np.float32)
        cv2.circle(
            glare,
            (int(rng.uniform(0, columns // 8)), int(rng.uniform(0, rows // 14))),
            int(rng.uniform(3, 16)),
            (1.0,),
            -1,
        )
        glare = cv2.GaussianBlur(glare, (0, 0), float(rng.uniform(6, 18))) * float(rng.uniform(60, 190))
        wide = cv2.resize(glare, (columns, rows))[..., None]
        image = np.clip(image + wide * np.array([1, 0.96, 0.86], np.float32), 0, 255).astype(np.uint8)
    if chance(rng, 0.12):
        dirt = noise.crop("cloud", rows // 4, columns // 4, rng, 0.8)
        haze = np.clip(dirt - 0.8, 0, 1) * 60
        image = cv2.add(image, cv2.cvtColor(cv2.resize(haze, (columns, rows)).astype(np.uint8), cv2.COLOR_GRAY2RGB))
    # Exposure, contrast and cast are one table for each channel.
    ramp = np.arange(256, dtype=np.float32) / 255
    gamma, gain, lift = float(rng.uniform(0.8, 1.25)), float(rng.uniform(0.85, 1.12)), float(rng.uniform(0, 0.06))
    cast = 1 + rng.normal(0, 0.018, 3)
    curve = [np.clip(255 * (lift + (1 - lift) * gain * float(c) * ramp**gamma), 0, 255) for c in cast]
    image = cv2.LUT(image, np.stack(curve, 1).astype(np.uint8).reshape(1, 256, 3))
    if chance(rng, 0.5):
        u, v = np.linspace(-1, 1, columns, dtype=np.float32)[None], np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
        shade = (255 * (1 - float(rng.uniform(0.05, 0.3)) * (u * u + v * v) / 2)).astype(np.uint8)
        image = cv2.multiply(image, cv2.cvtColor(shade, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    if chance(rng, 0.85):
        image = cv2.GaussianBlur(
            image, (0, 0), float(rng.uniform(0.35, 0.75)) if chance(rng, 0.85) else float(rng.uniform(0.8, 1.7))
        )
    if chance(rng, 0.06):
        length = int(rng.integers(3, 8))
        kernel = np.full((1, length), 1 / length, np.float32)
        image = cv2.filter2D(image, -1, kernel)
    if chance(rng, 0.2):
        image = cv2.addWeighted(image, 1.6, cv2.GaussianBlur(image, (0, 0), 1.2), -0.6, 0)
    amount = (float(rng.uniform(0.5, 3.5)) + 5 * light.night * float(rng.random())) / 32
    top, left = (int(rng.integers(0, max(1, noise.SIZE - side))) for side in (rows, columns))
    grain = cv2.resize(noise.bank8("fine")[top : top + rows, left : left + columns], (columns, rows))
    image = cv2.addWeighted(image, 1.0, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB), amount, -128 * amount)
    if chance(rng, 0.75):
        quality = int(rng.integers(45, 96))
        done, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done:
            image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.asarray(image, np.uint8)
