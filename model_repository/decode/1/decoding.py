"""An encoded street image becomes pixels: JPEG, PNG or WebP bytes, or the base64 text of them.

Plain Python without Triton. `decode_image` makes the canvas that every model takes; `decode_upright` makes a picture of
any size for models that need more detail. Both raise `InvalidImage`, and nothing else, for data that cannot be used.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

CANVAS_SIZE = 640
PADDING = 114
"""Grey of the letterbox and under transparent pixels: neither holds any picture, so both look alike to a model."""

Pixels = NDArray[np.uint8]


class InvalidImage(ValueError):
    """The data cannot be used as an image; the message says why and what would do instead."""


@dataclass(frozen=True)
class Limits:
    """What is refused before any pixel is decoded.

    max_bytes: of the encoded file, after base64 has been undone.
    max_pixels: width times height. Above 178 million Pillow refuses by itself.
    max_scan_pixels: pixels times scans of a progressive JPEG. Each scan costs a pass over all pixels and may be a few
        bytes long, so a small file could keep a decoder busy for hours. Encoders write about ten scans.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 80_000_000
    max_scan_pixels: int = 1_600_000_000


@dataclass(frozen=True)
class Upright:
    """rgb: uint8 [h, w, 3], turned as EXIF asks; width, height: of the upright original in pixels, before scaling."""

    rgb: Pixels
    width: int
    height: int


DEFAULT_LIMITS = Limits()

# EXIF orientation -> what turns the stored picture upright.
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: rgb.transpose(1, 0, 2)[:, ::-1],
    7: lambda rgb: rgb.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda rgb: rgb.transpose(1, 0, 2)[::-1],
}
_EXIF_ORIENTATION = 0x0112

_OTHER_TYPES = (
    (re.compile(rb"GIF8"), "a GIF image"),
    (re.compile(rb"BM"), "a BMP image"),
    (re.compile(rb"II\*\0|MM\0\*"), "a TIFF image"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "an AVIF image"),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1)", re.DOTALL), "a HEIC image"),
    (re.compile(rb"....ftyp", re.DOTALL), "a video"),
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"\s*<(\?xml|svg)", re.IGNORECASE), "an XML or SVG document"),
    (re.compile(rb"\s*[{\[]"), "JSON"),
    (re.compile(rb"https?://"), "a URL"),
)
_BASE64_MAGIC = (b"/9j/", b"iVBORw0KGgo", b"UklGR")  # JPEG, PNG, WebP
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_SEND = "send the bytes of a JPEG, PNG or WebP file, or the base64 text of them"


def decode_image(
    data: bytes, *, size: int = CANVAS_SIZE, limits: Limits = DEFAULT_LIMITS
) -> tuple[Pixels, NDArray[np.float32]]:
    """Decode, turn upright, scale so that the longest side is `size`, centre on grey.

    Returns canvas uint8 [size, size, 3] RGB and geometry float32 [5]: width and height of the upright original in
    pixels, scale, pad_x, pad_y, so that x_canvas = x * scale + pad_x. Smaller images are scaled up. The same bytes
    give the same canvas, whatever the batch or the thread.
    """
    upright = decode_upright(data, longest_side=size, upscale=True, limits=limits)
    height, width = upright.rgb.shape[:2]
    left, top = (size - width) // 2, (size - height) // 2
    canvas = np.full((size, size, 3), PADDING, np.uint8)
    canvas[top : top + height, left : left + width] = upright.rgb
    scale = size / max(upright.width, upright.height)
    return canvas, np.array([upright.width, upright.height, scale, left, top], np.float32)


def decode_upright(
    data: bytes, *, longest_side: int, upscale: bool = False, limits: Limits = DEFAULT_LIMITS
) -> Upright:
    """Decode, scale so that the longest side is `longest_side` pixels (`upscale` false: at most that), turn upright."""
    encoded = unwrap(data, limits)
    kind = _kind(encoded)
    if kind == "WebP":
        # Pillow reserves the whole canvas when it opens a WebP file, so its size is read here first.
        _check_pixels(kind, *_webp_size(encoded), limits)
    image = _open(encoded, kind)
    width, height = image.size
    _check_pixels(kind, width, height, limits)
    scale = longest_side / max(width, height)
    if not upscale:
        scale = min(scale, 1.0)
    target = max(1, round(width * scale)), max(1, round(height * scale))
    if kind == "JPEG" and image.mode in ("RGB", "L"):
        if "progressive" in image.info:
            _check_scans(encoded, width * height, limits)
        rgb = _decode_jpeg(encoded, target)
    else:
        rgb = _decode_other(image, kind)
    rgb = _resize(rgb, target)
    orientation = _orientation(image)
    if orientation >= 5:
        width, height = height, width
    return Upright(np.ascontiguousarray(_TURNS[orientation](rgb)), width, height)


def unwrap(data: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The encoded file itself: `data`, or what its base64 text or data: URL holds. Checks `limits.max_bytes`."""
    if not data:
        raise InvalidImage(f"the image is empty (0 bytes): {_SEND}")
    if _kind_or_none(data) is None and len(data) <= 2 * limits.max_bytes:
        data = _from_base64(data)  # base64 is a third longer, line ends included still less than twice as long
    if len(data) > limits.max_bytes:
        raise InvalidImage(
            f"the image has {len(data) / 2**20:.1f} MiB, over the limit of {limits.max_bytes / 2**20:g} MiB: "
            "send it smaller or more compressed"
        )
    return data


def _from_base64(data: bytes) -> bytes:
    """What base64 text or a data: URL holds; white space, the URL-safe alphabet and missing padding are accepted."""
    text, is_url = data, data[:5].lower() == b"data:"
    if is_url:
        head, _, text = data.partition(b",")
        if not head.lower().endswith(b";base64"):
            raise InvalidImage(f"the data: URL does not hold base64: {_SEND}")
    text = b"".join(text.split()).translate(_URL_SAFE).rstrip(b"=")
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        if is_url or text.startswith(_BASE64_MAGIC):
            raise InvalidImage(f"the base64 text is damaged ({_reason(error)}): {_SEND}") from None
        raise InvalidImage(_unknown(data)) from None
    if not decoded:
        raise InvalidImage(f"the base64 text is empty: {_SEND}")
    if _kind_or_none(decoded) or _other_type(decoded) or is_url:
        return decoded
    raise InvalidImage(_unknown(data))  # plain text may be valid base64 by chance: name what was sent


def _kind_or_none(data: bytes) -> str | None:
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    return None


def _kind(data: bytes) -> str:
    kind = _kind_or_none(data)
    if kind is None:
        raise InvalidImage(_unknown(data))
    return kind


def _other_type(data: bytes) -> str | None:
    return next((name for pattern, name in _OTHER_TYPES if pattern.match(data)), None)


def _unknown(data: bytes) -> str:
    found = _other_type(data)
    if found is None:
        printable = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:64])
        found = "text" if printable else f"unknown data beginning with {data[:8].hex(' ')}"
    return f"this is {found} of {len(data)} bytes, not an image that can be read: {_SEND}"


def _open(data: bytes, kind: str) -> Image.Image:
    """Read the header only; the picture is decoded later."""
    try:
        return Image.open(io.BytesIO(data), formats=[kind.upper()])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidImage(f"the {kind} image has too many pixels: {error}") from None
    except Exception as error:  # a hostile header may raise anything
        raise InvalidImage(f"the header of the {kind} image is damaged ({_reason(error)}): encode it again") from None


def _check_pixels(kind: str, width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise InvalidImage(f"the {kind} image has no pixels ({width} x {height})")
    if width * height > limits.max_pixels:
        raise InvalidImage(
            f"the {kind} image has {width} x {height} = {width * height / 1e6:.1f} megapixels, over the limit of "
            f"{limits.max_pixels / 1e6:g}: scale it down"
        )


def _check_scans(data: bytes, pixels: int, limits: Limits) -> None:
    # Inside picture data 0xFF is always followed by 0x00 or a restart marker, so this finds starts of scan, and at
    # most a few more in thumbnails.
    scans = data.count(b"\xff\xda")
    if scans * pixels > limits.max_scan_pixels:
        raise InvalidImage(f"the JPEG has {scans} scans of {pixels / 1e6:.1f} megapixels: encode it again")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk (RFC 9649)."""
    chunk, body = data[12:16], data[20:30]
    if len(body) == 10 and chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if len(body) == 10 and chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    if len(body) >= 5 and chunk == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise InvalidImage("the header of the WebP image is damaged: encode it again")


def _decode_jpeg(data: bytes, target: tuple[int, int]) -> Pixels:
    """RGB of at least the target's size: the inverse DCT itself scales down, which saves most of the work."""
    width, height = target
    options = {"colorspace": "RGB", "min_width": width, "min_height": height}
    try:
        try:
            return simplejpeg.decode_jpeg(data, strict=True, **options)
        except ValueError as error:
            # Cameras pad the end of the picture. Nothing was amiss before its end marker, so the picture is whole.
            if not re.search(r"extraneous bytes before marker 0xd9", str(error)):
                raise
            return simplejpeg.decode_jpeg(data, strict=False, **options)
    except Exception as error:
        raise InvalidImage(f"the JPEG is truncated or damaged ({_reason(error)}): send the whole file") from None


def _decode_other(image: Image.Image, kind: str) -> Pixels:
    """RGB of PNG, WebP and four-colour JPEG through Pillow, the first frame of an animation."""
    try:
        image.load()
        if image.mode.startswith("I"):  # 16 bit grey: Pillow's own conversion clips instead of scaling
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[..., np.newaxis], 3, axis=2)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            ground = Image.new("RGBA", rgba.size, (PADDING, PADDING, PADDING, 255))
            return np.asarray(Image.alpha_composite(ground, rgba).convert("RGB"))
        return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise InvalidImage(
            f"the {kind} image is truncated or damaged ({_reason(error)}): send the whole file"
        ) from None


def _resize(rgb: Pixels, target: tuple[int, int]) -> Pixels:
    height, width = rgb.shape[:2]
    if (width, height) == target:
        return rgb
    # Bilinear reads two pixels a side: enough below a factor of 2, where it is five times as fast as the area mean.
    interpolation = cv2.INTER_AREA if max(width / target[0], height / target[1]) >= 2 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, target, interpolation=interpolation), np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF beside a sound picture: viewers show it as stored, and so do we
        return 1
    return value if value in _TURNS else 1


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own text is the address of a buffer
        return "no picture found in it"
    return str(error).strip().rstrip(".") or type(error).__name__
