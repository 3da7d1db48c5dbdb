"""Requests that cannot be used, sent to the server without the client's own checks in between.

Each gets one clear error, soon; the good requests that are in flight with them get their verdicts.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from PIL import Image
from roadwork_deploy.server import EmbeddedServer
from tritonclient.utils import InferenceServerException

# Seconds for one request on a machine that others use too.
PATIENCE = 60.0


def encode(kind: str, **options: Any) -> bytes:
    """Noise of 256 x 192 pixels: a file of any length can be cut in its picture."""
    pixels = np.random.default_rng(1).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A small file whose header promises a picture that fits into no memory."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    data = bytearray(JPEG)
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def webp_bomb() -> bytes:
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


JPEG = encode("JPEG")
PNG = encode("PNG")
WEBP = encode("WEBP")

# What is sent -> a word of the error that tells what is wrong with it.
BAD_IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"this is no image", "text"),
    "web page": (b"<!DOCTYPE html><html></html>", "HTML"),
    "GIF": (encode("GIF"), "GIF"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "JPEG is truncated"),
    "truncated PNG": (PNG[: len(PNG) // 2], "PNG image is truncated"),
    "truncated WebP": (WEBP[: len(WEBP) // 2], "WebP"),
    "header only": (JPEG[:20], "JPEG image is damaged"),
    "PNG bomb": (png_bomb(30_000, 30_000), "pixels"),
    "PNG of the largest numbers": (png_bomb(2**31 - 1, 2**31 - 1), "pixels"),
    "JPEG bomb": (jpeg_bomb(), "pixels"),
    "WebP bomb": (webp_bomb(), "pixels"),
    "too many bytes": (JPEG + bytes(33 * 2**20), "MiB"),
    "damaged base64": (base64.b64encode(JPEG)[:-8] + b"!!!!", "base64"),
    "base64 of a GIF": (base64.b64encode(encode("GIF")), "GIF"),
    "base64 of a truncated JPEG": (base64.b64encode(JPEG[: len(JPEG) // 2]), "JPEG is truncated"),
}
BAD_OPTIONS = {
    "no JSON": (b"deadline 5 s", "must be JSON"),
    "half JSON": (b'{"deadline_ms": ', "must be JSON"),
    "no UTF-8": (b"\xff\xfe\x00", "must be JSON"),
    "nested without end": (b"[" * 100_000, "must be JSON"),
    "a list": (b"[1, 2]", "object"),
    "unknown key": (b'{"deadline": 5}', "did you mean 'deadline_ms'"),
    "NaN deadline": (b'{"deadline_ms": NaN}', "deadline_ms"),
    "infinite deadline": (b'{"deadline_ms": Infinity}', "deadline_ms"),
    "negative deadline": (b'{"deadline_ms": -1}', "deadline_ms"),
    "deadline 0": (b'{"deadline_ms": 0}', "deadline_ms"),
    "endless number": (b'{"deadline_ms": ' + b"9" * 5000 + b"}", ""),
    "deadline as text": (b'{"deadline_ms": "soon"}', "deadline_ms"),
    "deadline true": (b'{"deadline_ms": true}', "deadline_ms"),
    "stages as number": (b'{"all_stages": 1}', "all_stages"),
}


@pytest.fixture(scope="module")
def triton(server: EmbeddedServer) -> Iterator[grpc.InferenceServerClient]:
    """Triton's own client, which checks nothing."""
    with grpc.InferenceServerClient(server.grpc_url) as client:
        yield client


def tensor(name: str, value: Any, kind: str = "BYTES") -> grpc.InferInput:
    """A tensor of any shape and type; bytes become the STRING [1] that the cascade takes."""
    if kind == "BYTES":
        array = np.empty(1, dtype=object) if isinstance(value, bytes) else np.asarray(value, dtype=object)
        if isinstance(value, bytes):
            array[0] = value
    else:
        array = np.asarray(value)
    made = grpc.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def refused(triton: grpc.InferenceServerClient, inputs: list[grpc.InferInput], model: str = "roadwork") -> str:
    """Send a request that has to fail, soon; the error's text."""
    began = time.monotonic()
    with pytest.raises(InferenceServerException) as raised:
        triton.infer(model, inputs, client_timeout=PATIENCE)
    assert time.monotonic() - began < 10
    return raised.value.message()


def check_clear(text: str, prefix: str, word: str) -> None:
    """One line that names the error once and tells nothing of the server's insides."""
    assert text.count(prefix) == 1, text
    assert word in text
    assert "Traceback" not in text
    assert "\n" not in text.strip()
    assert len(text) < 500


def check_serves(triton: grpc.InferenceServerClient) -> None:
    result = triton.infer("roadwork", [tensor("image", JPEG)], client_timeout=PATIENCE)
    check_verdict(result)


def check_verdict(result: grpc.InferResult) -> None:
    verdict = json.loads(result.as_numpy("verdict")[0])
    assert verdict["image"] == {"width": 256, "height": 192}
    assert verdict["status"] in ("ok", "degraded", "timed_out")  # a machine in a hurry is no matter of this test
    assert 0.0 <= float(result.as_numpy("probability")[0]) <= 1.0


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_an_image_that_cannot_be_used_is_one_clear_error(triton: grpc.InferenceServerClient, name: str) -> None:
    data, word = BAD_IMAGES[name]
    check_clear(refused(triton, [tensor("image", data)]), "INVALID_IMAGE: ", word)


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_that_cannot_be_used_are_one_clear_error(triton: grpc.InferenceServerClient, name: str) -> None:
    data, word = BAD_OPTIONS[name]
    text = refused(triton, [tensor("image", JPEG), tensor("options", data)])
    check_clear(text, "INVALID_OPTIONS: ", word)


def test_tensors_of_another_type_or_shape_are_named(triton: grpc.InferenceServerClient) -> None:
    image, two = tensor("image", JPEG), tensor("image", [JPEG, JPEG])
    cases = {
        "is FP32 and not BYTES": ([tensor("image", np.zeros(1, np.float32), "FP32")], "image"),
        "is pixels": ([tensor("image", np.zeros((64, 64, 3), np.uint8), "UINT8")], "image"),
        "holds two images": ([two], "image"),
        "holds none": ([tensor("image", np.empty(0, object))], "image"),
        "has a batch dimension": ([tensor("image", [[JPEG]])], "image"),
        "is missing": ([tensor("options", b"{}")], "image"),
        "has options of a number": ([image, tensor("options", np.ones(1, np.float32), "FP32")], "options"),
        "has two options": ([image, tensor("options", [b"{}", b"{}"])], "options"),
        "has one tensor more": ([image, tensor("prompt", b"?")], "prompt"),
    }
    for case, (inputs, word) in cases.items():
        text = refused(triton, inputs)
        assert word in text, f"a request that {case}: {text}"
        assert "Traceback" not in text, f"a request that {case}: {text}"
    check_serves(triton)


def test_a_bad_image_fails_its_own_request_inside_the_ensemble_too(triton: grpc.InferenceServerClient) -> None:
    text = refused(triton, [tensor("image", [[JPEG], [b"this is no image"]])], "decode")
    check_clear(text, "INVALID_IMAGE: ", "text")
    text = refused(triton, [tensor("image", [[b"this is no image"]])], "glance")
    assert text.count("INVALID_IMAGE: ") == 1


def test_good_images_in_flight_with_every_bad_one_get_their_verdicts(triton: grpc.InferenceServerClient) -> None:
    """All at once: the server decodes them in one batch where it can."""
    requests: list[tuple[str | None, list[grpc.InferInput]]] = []
    for number, (data, _) in enumerate(BAD_IMAGES.values()):
        requests.append(("INVALID_IMAGE: ", [tensor("image", data)]))
        if number % 4 == 0:
            requests.append((None, [tensor("image", (JPEG, PNG, WEBP, base64.b64encode(JPEG))[number // 4])]))
    for data, _ in BAD_OPTIONS.values():
        requests.append(("INVALID_OPTIONS: ", [tensor("image", JPEG), tensor("options", data)]))
    outcomes: list[Any] = [None] * len(requests)
    left = threading.Semaphore(0)

    def receive(index: int, result: Any, error: Any) -> None:
        outcomes[index] = error or result
        left.release()

    for index, (_, inputs) in enumerate(requests):
        triton.async_infer(
            "roadwork",
            inputs,
            callback=lambda result, error, index=index: receive(index, result, error),
            client_timeout=PATIENCE,
        )
    for _ in requests:
        assert left.acquire(timeout=PATIENCE + 10)
    for (prefix, _), outcome in zip(requests, outcomes, strict=True):
        if prefix is None:
            assert isinstance(outcome, grpc.InferResult), outcome
            check_verdict(outcome)
        else:
            assert isinstance(outcome, InferenceServerException)
            check_clear(outcome.message(), prefix, "")
