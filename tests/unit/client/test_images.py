"""What is sent for bytes, files, PIL images and arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from roadwork_client import InvalidImage
from roadwork_client.images import encode


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_bytes_and_files_go_as_they_are(jpeg: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg)
    for given in (jpeg, bytearray(jpeg), memoryview(jpeg), path, str(path)):
        assert encode(given) == jpeg


def test_pixels_go_as_jpeg_that_hardly_differs(photo: Image.Image) -> None:
    for given in (photo, np.asarray(photo)):
        image = decoded(encode(given))
        assert image.format == "JPEG"
        difference = np.abs(np.asarray(image, np.int16) - np.asarray(photo, np.int16))
        assert difference.mean() < 4.0  # of noise of 50 grey levels, the worst case


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "I"])
def test_every_mode_is_sent_as_something_readable(mode: str) -> None:
    image = decoded(encode(Image.new(mode, (20, 10))))
    assert image.size == (20, 10)
    assert image.mode in ("RGB", "L", "RGBA", "LA", "I;16", "I")


def test_alpha_and_16_bit_stay_lossless() -> None:
    rgba = np.random.default_rng(1).integers(0, 255, (8, 9, 4), np.uint8)
    assert np.array_equal(np.asarray(decoded(encode(rgba))), rgba)
    deep = np.random.default_rng(1).integers(0, 65535, (8, 9), np.uint16)
    assert np.array_equal(np.asarray(decoded(encode(deep))), deep)
    # Pillow opens 16-bit PNG as mode I in some releases.
    assert np.array_equal(np.asarray(decoded(encode(Image.fromarray(deep.astype(np.int32))))), deep)


def test_pixels_are_turned_upright(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", exif=exif)
    assert decoded(encode(Image.open(buffer))).size == (photo.height, photo.width)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 3), np.uint16), "uint8"),
        (np.zeros((4,), np.uint8), "shape"),
        (np.zeros((3, 4, 4), np.uint8)[..., :2], "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_images_say_what_would_be(array: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidImage, match=said):
        encode(array)


def test_unusable_images_say_why(tmp_path: Path, jpeg: bytes) -> None:
    with pytest.raises(InvalidImage, match="No such file"):
        encode(tmp_path / "absent.jpg")
    with pytest.raises(InvalidImage, match="Is a directory"):
        encode(tmp_path)
    with pytest.raises(InvalidImage, match="empty"):
        encode(b"")
    with pytest.raises(InvalidImage, match="cannot send a int"):
        encode(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidImage, match="floating"):
        encode(Image.new("F", (2, 2)))
    with pytest.raises(InvalidImage, match="cannot encode"):
        encode(Image.open(io.BytesIO(jpeg[: len(jpeg) // 2])))
