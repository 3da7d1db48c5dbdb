"""What a model is sent: real images in perf_analyzer's own JSON, built from the model's configuration.

A STRING tensor is given as base64 of a 4-byte little-endian length and then the bytes, any other as base64 of its raw
little-endian content.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from roadwork_cascade.prompts import Prompt, load_prompt
from roadwork_cascade.tier_image import encoded
from tritonclient.grpc import model_config_pb2

from roadwork_bench.errors import BenchError
from roadwork_bench.opening import load_module

LARGE_ELEMENTS = 16_384
"""Of a tensor of numbers. perf_analyzer keeps every tensor that travels in a message for its export, 16 bytes and more
a number: a second of canvases is gigabytes. What it exchanges through shared memory it does not keep."""

STRING = model_config_pb2.TYPE_STRING
Row = dict[str, Any]


@dataclass(frozen=True)
class Feed:
    """Input data of one model.

    Attributes:
        rows: what each request carries, in the order of the images.
        large: whether it has tensors that must not be kept (see `LARGE_ELEMENTS`).
        texts: whether an input is STRING. perf_analyzer 2.60 mixes those up in shared memory when requests overlap
            ("unexpected number of string elements 2"), so that they always travel in messages.
        decoupled: whether an answer comes in parts, so that the model can only be asked over a stream.
    """

    rows: list[Row]
    large: bool
    texts: bool
    decoupled: bool

    def write(self, path: Path) -> None:
        """As `--input-data` takes it."""
        path.write_text(json.dumps({"data": self.rows}), encoding="utf-8")


def digest(images: Sequence[bytes]) -> str:
    """Of the images in their order: tells whether two runs were sent the same."""
    total = hashlib.sha256()
    for image in images:
        total.update(hashlib.sha256(image).digest())
    return total.hexdigest()[:16]


def feed(model: str, config: Any, images: Sequence[bytes], options: Mapping[str, Any], repository: Path) -> Feed:
    """Requests for a model that takes an image, a canvas, or a tier's question.

    Args:
        model: its name.
        config: `ModelConfig` message of the served model.
        images: encoded files.
        options: of a request to the cascade, where the model takes any.
        repository: its `decode` makes canvases, a tier's `prompt.json` its question.

    Raises:
        BenchError: the model takes something that cannot be made of images.
    """
    inputs = {tensor.name: tensor for tensor in config.input}
    maker: Callable[[bytes], Row]
    if "text_input" in inputs and "image" in inputs:
        prompt = load_prompt(repository / model / "prompt.json")
        maker = lambda image: _question(prompt, image)  # noqa: E731
    elif "image" in inputs:
        more = {"options": _text(json.dumps(dict(options)).encode())} if "options" in inputs else {}
        maker = lambda image: {"image": _text(image), **more}  # noqa: E731
    elif "canvas" in inputs:
        decode = load_module(repository / "decode" / "1" / "decoding.py", "decoding").decode_image
        maker = lambda image: {"canvas": _raw(decode(image)[0])}  # noqa: E731
    else:
        raise BenchError(
            f"model {model} takes {', '.join(inputs) or 'nothing'}; load sends images, canvases or questions"
        )
    rows = [maker(image) for image in images]
    lacking = [name for name, tensor in inputs.items() if name not in rows[0] and not tensor.optional]
    if lacking:
        raise BenchError(f"model {model} needs {', '.join(lacking)} too, which images do not have")
    if options and "options" not in inputs:
        raise BenchError(f"--options: model {model} takes none")
    large = any(_elements(tensor) > LARGE_ELEMENTS for tensor in [*config.input, *config.output])
    texts = any(tensor.data_type == STRING for tensor in config.input)
    return Feed(rows, large, texts, bool(config.model_transaction_policy.decoupled))


def _elements(tensor: Any) -> int:
    """Of a tensor of numbers with fixed dimensions; 0 of any other."""
    if tensor.data_type == STRING or any(size < 1 for size in tensor.dims):
        return 0
    count = 1
    for size in tensor.dims:
        count *= int(size)
    return count


def _question(prompt: Prompt, image: bytes) -> Row:
    """What the cascade would ask a tier about this image, without findings."""
    import io

    with Image.open(io.BytesIO(image)) as opened:
        picture = encoded(opened.convert("RGB"), prompt.image.max_side, prompt.image.quality)
    true = {"content": {"b64": base64.b64encode(b"\x01").decode()}, "shape": [1]}
    return {
        "text_input": _text(prompt.prompt.replace("{findings}", "").encode()),
        "image": _text(base64.b64encode(picture)),
        "sampling_parameters": _text(json.dumps(prompt.sampling).encode()),
        "exclude_input_in_output": true,
        "return_logprobs": true,
    }


def _text(value: bytes) -> Row:
    content = base64.b64encode(len(value).to_bytes(4, "little") + value).decode()
    return {"content": {"b64": content}, "shape": [1]}


def _raw(array: Any) -> Row:
    return {"content": {"b64": base64.b64encode(array.tobytes()).decode()}, "shape": list(array.shape)}
