"""What happens to street images on their way: compression, blur, noise, small sizes, little light, and the validators.

The changes are torchvision's (transforms v2): maintained, under a BSD licence, and what the miners' validators use
themselves. (albumentations is archived and its successor under the AGPL; imagecorruptions brings a second OpenCV.)
Every change is the same for an image whenever it is made, as its random numbers come from the image's name.

Images go in and out as encoded files. Only where compression is what is looked at do they come out as JPEG; else as
PNG, so that nothing is measured but the change.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

SMALL = 224
"""Pixels of the square images that the validators sent until May 2026."""
JPEG_QUALITY = 75
"""What the validators' images are saved with."""

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Corruption:
    """One change.

    what: in words, for people. step: of a picture FP32 [3, height, width] in [0, 1]. quality: of the JPEG that comes
    out, None for a PNG.
    """

    name: str
    what: str
    step: Step
    quality: int | None = None

    def __call__(self, file: str, data: bytes) -> bytes:
        """The changed image of encoded bytes. `file` seeds it. Raises OSError for what is no image."""
        with Image.open(io.BytesIO(data)) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{self.name}/{file}".encode()))
            changed = self.step(F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True))
        result = F.to_pil_image(F.to_dtype(changed.clamp(0, 1), torch.uint8, scale=True))
        buffer = io.BytesIO()
        if self.quality is None:
            result.save(buffer, "PNG", compress_level=1)
        else:
            result.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def _same(picture: torch.Tensor) -> torch.Tensor:
    return picture


def _blur(sigma: float) -> Step:
    """Gaussian; sigma in pixels of a picture whose longer side is 640."""

    def step(picture: torch.Tensor) -> torch.Tensor:
        own = sigma * max(picture.shape[1:]) / 640
        return F.gaussian_blur(picture, [2 * max(1, round(3 * own)) + 1] * 2, [own] * 2)

    return step


def _noise(sigma: float) -> Step:
    """Gaussian on each colour of each pixel; sigma as a share of the full range."""
    return lambda picture: F.gaussian_noise(picture, sigma=sigma)


def _dim(gain: float, gamma: float, noise: float) -> Step:
    """Light taken away, dark parts more than bright ones, and the noise of a sensor that has little of it."""

    def step(picture: torch.Tensor) -> torch.Tensor:
        return F.gaussian_noise(F.adjust_gamma(picture, gamma, gain), sigma=noise)

    return step


def _longer_side(pixels: int) -> Step:
    def step(picture: torch.Tensor) -> torch.Tensor:
        height, width = picture.shape[1:]
        scale = pixels / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        return F.resize(picture, size, antialias=True)

    return step


def _middle(picture: torch.Tensor) -> torch.Tensor:
    """The square middle, scaled to 224 pixels: what a validator sends of an image that it does not change."""
    side = min(picture.shape[1:])
    return F.resize(F.center_crop(picture, [side, side]), [SMALL, SMALL], antialias=True)


def _validator(strength: int) -> Step:
    """One of the validators' strengths 1 to 3, as `natix/utils/image_transforms.py` has them at commit 28a1755c6ec9.

    (https://github.com/natixnetwork/streetvision-subnet.) All turn the image by up to 20 degrees and cut a square of
    20% to 100% of its area out of it, which is scaled to 224 pixels; flips are listed there and never happen.
    From 2 on, each with a level drawn from 0 to `strength` - 1: colour taken away, darkened, scaled down by 2 or 3 and
    up again. At 3 also noise and blur. A cut may lose the works and keep the label, there as here.
    """
    turn = v2.RandomRotation(20, interpolation=InterpolationMode.NEAREST)
    cut = v2.RandomResizedCrop(SMALL, scale=(0.2, 1.0), ratio=(1.0, 1.0), antialias=True)

    def step(picture: torch.Tensor) -> torch.Tensor:
        changed = cut(turn(picture))
        if strength == 1:
            return changed
        distortions: list[Callable[[torch.Tensor, int], torch.Tensor]] = [_less_colour, _darker, _coarser]
        if strength == 3:
            distortions += [_coloured_noise, _soft]
        for distortion in distortions:
            level = int(torch.randint(0, strength, ()))
            if level:
                changed = distortion(changed, level).clamp(0, 1)
        return changed

    return step


def _less_colour(picture: torch.Tensor, level: int) -> torch.Tensor:
    return F.adjust_saturation(picture, (0.4, 0.3)[level - 1])


def _darker(picture: torch.Tensor, level: int) -> torch.Tensor:
    """Called contrast there; it multiplies every value."""
    return F.adjust_brightness(picture, (0.85, 0.725)[level - 1])


def _coarser(picture: torch.Tensor, level: int) -> torch.Tensor:
    """Called JPEG there; it scales down and up again."""
    small = F.resize(picture, [SMALL // (level + 1)] * 2, antialias=False)
    return F.resize(small, [SMALL, SMALL], antialias=False)


def _coloured_noise(picture: torch.Tensor, level: int) -> torch.Tensor:
    """Of variance 0.001 or 0.002. Theirs is drawn in luma and chroma; drawn in red, green and blue it is as strong."""
    return F.gaussian_noise(picture, sigma=(0.001, 0.002)[level - 1] ** 0.5)


def _soft(picture: torch.Tensor, level: int) -> torch.Tensor:
    kernel = (7, 9)[level - 1]
    return F.gaussian_blur(picture, [kernel, kernel], [kernel / 6] * 2)


CLEAN = "clean"
CORRUPTIONS: dict[str, Corruption] = {
    one.name: one
    for one in (
        *(Corruption(f"jpeg_{q}", f"JPEG of quality {q}", _same, q) for q in (75, 40, 15)),
        *(Corruption(f"blur_{s}", f"Gaussian blur, sigma {s} px at 640", _blur(s)) for s in (1, 2, 4)),
        *(Corruption(f"noise_{p}", f"Gaussian noise, sigma {p}%", _noise(p / 100)) for p in (5, 10, 20)),
        Corruption("small_224", "longer side 224 px", _longer_side(SMALL)),
        Corruption("crop_224", "square middle, 224 px, JPEG 75", _middle, JPEG_QUALITY),
        Corruption("dim", "little light: half the light, gamma 1.5, noise 2%", _dim(0.5, 1.5, 0.02)),
        Corruption("night", "night as a model: a third of the light, gamma 2.2, noise 4%", _dim(0.33, 2.2, 0.04)),
        *(
            Corruption(f"validator_{n}", f"the miners' validators, strength {n}", _validator(n), JPEG_QUALITY)
            for n in (1, 2, 3)
        ),
    )
}
"""By name; the order is the report's."""
VALIDATORS = ("crop_224", "validator_1", "validator_2", "validator_3")
"""The validators' strengths 0 to 3, of which each met a quarter of the images."""
