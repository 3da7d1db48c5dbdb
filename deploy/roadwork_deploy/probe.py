"""Asks a served model one real question: health says ready even when a model's process has died."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from roadwork_deploy.errors import StartError

INTEGERS = {"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"}


class ProbeError(StartError):
    """A model that is loaded does not answer."""


def probe(client: Any, model: str, timeout: float) -> None:
    """One inference with made-up inputs of the model's own signature.

    Args:
        client: `tritonclient.grpc.InferenceServerClient`.
        model: name of a loaded model.
        timeout: seconds that the answer may take.

    Raises:
        ProbeError: no answer, or an error.
    """
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException, triton_to_np_dtype

    try:
        config = client.get_model_config(model, client_timeout=timeout).config
        batch = [1] if config.max_batch_size > 0 else []
        inputs = []
        for tensor in config.input:
            if tensor.optional and tensor.name != "options":
                continue
            kind = _datatype(tensor.data_type)
            shape = batch + [max(1, dim) for dim in tensor.dims]
            value = _value(tensor.name, kind, shape, triton_to_np_dtype(kind))
            made = grpc.InferInput(tensor.name, shape, kind)
            made.set_data_from_numpy(value)
            inputs.append(made)
        client.infer(model, inputs, client_timeout=timeout)
    except InferenceServerException as error:
        raise ProbeError(f"{model} is loaded but does not answer: {error.message()}") from None


def _datatype(number: int) -> str:
    """Name on the wire ("FP32", "BYTES") of a data type's number in a model configuration."""
    from tritonclient.grpc import model_config_pb2

    name = model_config_pb2.DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _value(name: str, kind: str, shape: list[int], dtype: Any) -> np.ndarray:
    """Zeros, or for our own string tensors something that they accept."""
    if kind != "BYTES":
        return np.zeros(shape, dtype)
    content = {"image": sample_image(), "options": json.dumps({"all_stages": True}).encode()}.get(name, b"")
    return np.full(shape, content, dtype=object)


def sample_image() -> bytes:
    """A small grey JPEG with an edge in it."""
    from PIL import Image

    image = Image.new("RGB", (320, 240), (114, 114, 114))
    image.paste((230, 120, 30), (140, 100, 180, 180))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
