"""Where a pixel of the original lies on the canvas."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from decoding import PADDING, decode_image, decode_upright
from PIL import Image

from .pictures import encode, quarters, street

STORED_AS = {
    # EXIF orientation -> how the camera stored a picture that is upright.
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation: int, kind: str) -> None:
    upright = quarters(300, 200)
    stored = upright
    for turn in STORED_AS[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    canvas, geometry = decode_image(encode(stored, kind, exif=exif, **options))
    expected, _ = decode_image(encode(upright, "PNG"))
    assert geometry[:2].tolist() == [300, 200]
    # Away from the edges between the colours.
    for x, y in ((60, 130), (580, 130), (60, 500), (580, 500)):
        assert np.abs(canvas[y, x].astype(int) - expected[y, x]).max() <= 8


@pytest.mark.parametrize(
    "size", [(224, 224), (600, 337), (640, 640), (641, 480), (1920, 1080), (1080, 1920), (33, 900)]
)
def test_a_mark_is_found_where_the_geometry_says(size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = int(width * 0.6), int(height * 0.2), int(width * 0.9), int(height * 0.5)
    pixels[y1:y2, x1:x2] = 255
    canvas, geometry = decode_image(encode(Image.fromarray(pixels), "PNG"))
    original_width, original_height, scale, pad_x, pad_y = geometry.tolist()
    assert (original_width, original_height) == size
    rows, columns = np.nonzero((canvas == 255).all(axis=2))
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    back = (found - [pad_x, pad_y, pad_x, pad_y]) / scale
    assert np.abs(back - [x1, y1, x2, y2]).max() <= 1.5 / min(scale, 1)


def test_the_picture_is_centred_on_grey_and_fills_one_side() -> None:
    canvas, (width, height, scale, pad_x, pad_y) = decode_image(encode(Image.new("RGB", (200, 100), "white"), "PNG"))
    assert (width, height, scale, pad_x, pad_y) == (200, 100, pytest.approx(3.2), 0, 160)
    assert canvas.shape == (640, 640, 3)
    assert canvas.dtype == np.uint8
    assert (canvas[:160] == PADDING).all()
    assert (canvas[480:] == PADDING).all()
    assert (canvas[160:480] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (3, 2)])
def test_extreme_shapes_keep_at_least_one_row(size: tuple[int, int]) -> None:
    canvas, geometry = decode_image(encode(Image.new("RGB", size, "white"), "PNG"))
    assert geometry[:2].tolist() == list(size)
    assert (canvas == 255).any()


def test_another_canvas_size() -> None:
    canvas, geometry = decode_image(encode(street(100, 50), "PNG"), size=320)
    assert canvas.shape == (320, 320, 3)
    assert geometry[2] == pytest.approx(3.2)


def test_a_jpeg_scaled_while_decoding_looks_like_one_scaled_afterwards() -> None:
    picture = street(2000, 1600)
    jpeg, _ = decode_image(encode(picture, "JPEG", quality=95, subsampling=0))
    png, _ = decode_image(encode(picture, "PNG"))
    assert np.abs(jpeg.astype(int) - png).mean() < 2


def test_the_same_bytes_give_the_same_canvas_in_any_thread() -> None:
    data = encode(street(1300, 700), "JPEG")
    expected = decode_image(data)[0].tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert all(canvas.tobytes() == expected for canvas, _ in pool.map(decode_image, [data] * 16))


def test_upright_is_not_scaled_up_unless_asked() -> None:
    data = encode(street(100, 60), "PNG")
    assert decode_upright(data, longest_side=1920).rgb.shape == (60, 100, 3)
    assert decode_upright(data, longest_side=50).rgb.shape == (30, 50, 3)
    assert decode_upright(data, longest_side=200, upscale=True).rgb.shape == (120, 200, 3)
