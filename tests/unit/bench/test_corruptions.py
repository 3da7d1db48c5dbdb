from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from roadwork_bench.corruptions import CORRUPTIONS, SMALL


def picture(width: int = 320, height: int = 200) -> np.ndarray:
    rng = np.random.default_rng(2)
    coarse = rng.integers(30, 220, (10, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def encoded(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", **options)
    return buffer.getvalue()


def changed(name: str, image: np.ndarray, file: str = "a.jpg") -> np.ndarray:
    with Image.open(io.BytesIO(CORRUPTIONS[name](file, encoded(image)))) as opened:
        return np.asarray(opened.convert("RGB"))


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_change_is_the_same_whenever_it_is_made_and_leaves_the_generator_alone(name: str) -> None:
    data = encoded(picture())
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = CORRUPTIONS[name]("a.jpg", data)
    assert torch.rand(1) == expected
    assert CORRUPTIONS[name]("a.jpg", data) == first
    assert first != data


@pytest.mark.parametrize("name", ["noise_10", "night", "validator_1", "validator_3"])
def test_two_images_get_two_noises_and_cuts(name: str) -> None:
    assert not np.array_equal(changed(name, picture(), "a.jpg"), changed(name, picture(), "b.jpg"))


def test_jpegs_have_the_quality_that_their_name_says() -> None:
    for quality in (75, 40, 15):
        expected = io.BytesIO()
        Image.fromarray(picture()).save(expected, "JPEG", quality=quality)
        with Image.open(io.BytesIO(CORRUPTIONS[f"jpeg_{quality}"]("a", encoded(picture())))) as opened:
            assert opened.format == "JPEG"
            tables = opened.quantization  # type: ignore[attr-defined]
        with Image.open(expected) as reference:
            assert tables == reference.quantization  # type: ignore[attr-defined]


def test_blur_is_the_same_share_of_a_large_and_of_a_small_image() -> None:
    sharp = [sharpness(picture()), *(sharpness(changed(f"blur_{s}", picture())) for s in (1, 2, 4))]
    assert sharp == sorted(sharp, reverse=True)
    large = changed("blur_4", picture(640, 400))
    expected = cv2.GaussianBlur(picture(640, 400), (0, 0), 4)
    assert np.abs(large[20:-20, 20:-20].astype(int) - expected[20:-20, 20:-20]).mean() < 1


def test_noise_has_the_strength_that_its_name_says() -> None:
    grey = np.full((200, 320, 3), 128, np.uint8)
    for percent in (5, 10, 20):
        assert changed(f"noise_{percent}", grey).std() / 255 == pytest.approx(percent / 100, rel=0.05)


def test_small_sizes_keep_the_whole_or_the_middle() -> None:
    assert changed("small_224", picture()).shape == (140, 224, 3)
    middle = changed("crop_224", picture())
    assert middle.shape == (SMALL, SMALL, 3)
    expected = cv2.resize(picture()[:, 60:260], (SMALL, SMALL), interpolation=cv2.INTER_LINEAR)
    assert np.abs(middle.astype(int) - expected).mean() < 6
    for strength in (1, 2, 3):
        assert changed(f"validator_{strength}", picture()).shape == (SMALL, SMALL, 3)


def test_little_light_is_dark_and_night_is_darker() -> None:
    light = [picture().mean(), changed("dim", picture()).mean(), changed("night", picture()).mean()]
    assert light[1] < 0.5 * light[0]
    assert light[2] < 0.6 * light[1]


def test_a_photograph_that_lies_on_its_side_is_set_upright_first() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    data = encoded(picture(320, 200), exif=exif)
    with Image.open(io.BytesIO(CORRUPTIONS["noise_5"]("a", data))) as opened:
        assert opened.size == (200, 320)
