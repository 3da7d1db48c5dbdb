"""What cannot be read is refused with InvalidImage, quickly, and nothing else ever comes out."""

from __future__ import annotations

import base64
import io
import struct
import time
import zlib

import numpy as np
import pytest
from decoding import InvalidImage, Limits, decode_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from .pictures import encode, street

SOUND = {
    "JPEG": encode(street(), "JPEG"),
    "progressive": encode(street(), "JPEG", progressive=True),
    "CMYK": encode(street().convert("CMYK"), "JPEG"),
    "PNG": encode(street(), "PNG"),
    "WebP": encode(street(), "WEBP"),
    "lossless": encode(street(64, 48), "WEBP", lossless=True),
    "animated": encode(
        street(64, 48), "WEBP", save_all=True, append_images=[street(64, 48, seed) for seed in range(1, 4)]
    ),
}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello, street", "text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b'{"image": "..."}', "JSON"),
        (b"https://example.org/street.jpg", "URL"),
        (b"%PDF-1.7 ...", "PDF"),
        (encode(street(), "GIF"), "GIF"),
        (encode(street(), "BMP"), "BMP"),
        (encode(street(), "TIFF"), "TIFF"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "AVIF"),
        (b"\0\0\0\x1cftypheic" + bytes(20), "HEIC"),
        (b"\0\0\0\x1cftypisom" + bytes(20), "video"),
        (bytes(100), "00 00"),
        (base64.b64encode(encode(street(), "GIF")), "GIF"),
        (b"data:image/jpeg,raw", "base64"),
        (b"data:image/jpeg;base64,", "empty"),
        (b"data:image/jpeg;base64,!!!!", "base64"),
        (b"data:text/plain;base64,aGVsbG8=", "text"),
        (b"/9j/4AAQ!!!!", "base64"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, says: str) -> None:
    with pytest.raises(InvalidImage, match=says) as refused:
        decode_image(data)
    assert "JPEG, PNG or WebP" in str(refused.value)


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    data = SOUND[kind]
    with pytest.raises(InvalidImage, match=r"truncated|damaged"):
        decode_image(data[: int(len(data) * share)])


def test_a_jpeg_cut_short_and_closed_again_is_refused() -> None:
    data = SOUND["JPEG"]
    with pytest.raises(InvalidImage, match="premature end"):
        decode_image(data[: len(data) // 2] + b"\xff\xd9")


def test_bytes_over_the_limit() -> None:
    data = SOUND["JPEG"]
    with pytest.raises(InvalidImage, match="MiB"):
        decode_image(data, limits=Limits(max_bytes=len(data) - 1))
    decode_image(data, limits=Limits(max_bytes=len(data)))
    decode_image(base64.encodebytes(data), limits=Limits(max_bytes=len(data)))
    with pytest.raises(InvalidImage, match="MiB"):
        decode_image(base64.b64encode(data), limits=Limits(max_bytes=len(data) - 1))


@pytest.mark.parametrize("kind", SOUND)
def test_pixels_over_the_limit(kind: str) -> None:
    with pytest.raises(InvalidImage, match="megapixels"):
        decode_image(SOUND[kind], limits=Limits(max_pixels=3_000))


@pytest.mark.parametrize("size", [(12_000, 12_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_png_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")
    began = time.perf_counter()
    with pytest.raises(InvalidImage, match="pixels"):
        decode_image(bomb)
    assert time.perf_counter() - began < 1


def test_a_jpeg_that_claims_to_be_huge_is_refused_from_its_header() -> None:
    data = bytearray(SOUND["JPEG"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(InvalidImage, match="pixels"):
        decode_image(bytes(data))


def test_a_webp_that_claims_to_be_huge_is_refused_from_its_header() -> None:
    data = bytearray(SOUND["animated"])
    assert data[12:16] == b"VP8X"
    data[24:30] = (16_383).to_bytes(3, "little") * 2
    with pytest.raises(InvalidImage, match="megapixels"):
        decode_image(bytes(data))


def test_a_jpeg_without_height_is_refused() -> None:
    data = bytearray(SOUND["JPEG"])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = bytes(4)
    with pytest.raises(InvalidImage):
        decode_image(bytes(data))


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encode(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    began = time.perf_counter()
    with pytest.raises(InvalidImage, match="scans"):
        decode_image(data[:-2] + last_scan * 5_000 + b"\xff\xd9")
    assert time.perf_counter() - began < 1


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(SOUND["PNG"])
    data[data.index(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(InvalidImage):
        decode_image(bytes(data))


def test_a_bomb_in_a_text_chunk_is_refused_or_ignored() -> None:
    from PIL.PngImagePlugin import PngInfo

    notes = PngInfo()
    notes.add_text("Comment", "x" * 30_000_000, zip=True)
    buffer = io.BytesIO()
    street().save(buffer, "PNG", pnginfo=notes)
    with pytest.raises(InvalidImage):
        decode_image(buffer.getvalue())


def outcome(data: bytes) -> str:
    """`decode_image` either answers as it promises or raises InvalidImage; whatever else it raises fails the test."""
    try:
        canvas, geometry = decode_image(data, limits=Limits(max_pixels=2_000_000))
    except InvalidImage as error:
        return "refused" if str(error) and " at 0x" not in str(error) else f"badly explained: {error}"
    assert canvas.shape == (640, 640, 3)
    assert canvas.dtype == np.uint8
    assert np.isfinite(geometry).all()
    return "read"


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_files_are_read_or_refused(kind: str, data: st.DataObject) -> None:
    sound = SOUND[kind]
    mutated = bytearray(sound)
    # Half of the changes fall into the headers, where they do most.
    places = st.one_of(st.integers(0, min(700, len(sound) - 1)), st.integers(0, len(sound) - 1))
    for at, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        mutated[at] = value
    stop = data.draw(st.one_of(st.just(len(mutated)), st.integers(0, len(mutated))))
    assert outcome(bytes(mutated[:stop])) in ("read", "refused")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    prefix=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8X", b"/9j/", b"data:"]),
    rest=st.binary(max_size=300),
)
def test_noise_is_refused(prefix: bytes, rest: bytes) -> None:
    assert outcome(prefix + rest) == "refused"
