"""What can be read: formats, colour models, wrappings."""

from __future__ import annotations

import base64

import cv2
import numpy as np
import pytest
from decoding import PADDING, decode_image
from PIL import Image

from .pictures import encode, quarters, street

CORNERS = {(100, 180): (255, 0, 0), (540, 180): (0, 255, 0), (100, 460): (0, 0, 255), (540, 460): (255, 255, 255)}


def colour(canvas: np.ndarray, x: int = 320, y: int = 320) -> tuple[int, ...]:
    return tuple(int(v) for v in canvas[y, x])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"quality": 95}),
    ],
)
def test_colours_and_places_survive(kind: str, options: dict) -> None:
    canvas, _ = decode_image(encode(quarters(800, 600), kind, **options))
    for (x, y), expected in CORNERS.items():
        assert np.abs(np.subtract(colour(canvas, x, y), expected)).max() <= 8


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpeg_of_other_colour_models(mode: str) -> None:
    grey = decode_image(encode(Image.new("RGB", (64, 64), (90, 90, 90)).convert(mode), "JPEG", quality=95))[0]
    assert np.abs(np.subtract(colour(grey), 90)).max() <= 3


def test_cmyk_jpeg_is_red_where_it_is_red() -> None:
    data = encode(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(np.subtract(colour(decode_image(data)[0]), (255, 0, 0))).max() <= 6


def test_ycck_jpeg() -> None:
    # YCCK is CMYK with its colours as YCbCr; the Adobe marker's last byte says which. Pillow writes CMYK only, so the
    # marker is rewritten, and the picture is then read as luma 255, chroma 128: a neutral one.
    data = bytearray(encode(Image.new("CMYK", (64, 64), (0, 127, 127, 0)), "JPEG", quality=100))
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data[at] = 2
    red, green, blue = colour(decode_image(bytes(data))[0])
    assert max(red, green, blue) - min(red, green, blue) <= 6


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    data = encode(Image.fromarray(np.full((48, 48), 40_000, np.uint16)), "PNG")
    assert colour(decode_image(data)[0]) == (156, 156, 156)


def test_sixteen_bit_colour() -> None:
    blue_green_red = np.full((48, 48, 3), (10_000, 30_000, 60_000), np.uint16)
    canvas, _ = decode_image(cv2.imencode(".png", blue_green_red)[1].tobytes())
    assert np.abs(np.subtract(colour(canvas), (234, 117, 39))).max() <= 1


def test_palette_and_one_bit() -> None:
    assert colour(decode_image(encode(Image.new("RGB", (48, 48), "red").quantize(), "PNG"))[0]) == (255, 0, 0)
    assert colour(decode_image(encode(Image.new("1", (48, 48), 1), "PNG"))[0]) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pixels_look_like_the_padding(kind: str) -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    canvas, _ = decode_image(encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert colour(canvas, x=500) == (PADDING,) * 3
    assert colour(canvas, x=100) == (255, 0, 0)


def test_transparent_grey_and_transparent_palette() -> None:
    assert colour(decode_image(encode(Image.new("LA", (48, 48), (255, 0)), "PNG"))[0]) == (PADDING,) * 3
    palette = Image.new("P", (48, 48), 0)
    palette.putpalette([255, 0, 0])
    assert colour(decode_image(encode(palette, "PNG", transparency=0))[0]) == (PADDING,) * 3


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    first, *others = (Image.new("RGB", (64, 64), name) for name in ("red", "lime", "blue"))
    red, green, blue = colour(decode_image(encode(first, kind, save_all=True, append_images=others))[0])
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_base64_and_data_urls_are_the_same_picture(kind: str) -> None:
    data = encode(street(), kind)
    expected = decode_image(data)[0]
    text = base64.b64encode(data)
    url_safe = base64.urlsafe_b64encode(data).rstrip(b"=")
    for wrapped in (text, base64.encodebytes(data), url_safe, b"data:image/x;base64," + text, b"DATA:;base64," + text):
        assert np.array_equal(decode_image(wrapped)[0], expected)


def test_camera_padding_before_the_end_of_a_jpeg_is_no_damage() -> None:
    data = encode(street(), "JPEG")
    padded = data[:-2] + bytes(9) + data[-2:] + b"trailing bytes"
    assert np.array_equal(decode_image(padded)[0], decode_image(data)[0])


def test_damaged_exif_beside_a_sound_picture() -> None:
    data = encode(street(), "JPEG")
    exif = b"Exif\0\0" + b"II*\0" + b"\xff" * 20
    broken = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert np.array_equal(decode_image(broken)[0], decode_image(data)[0])
