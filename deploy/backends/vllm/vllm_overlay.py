"""What a profile says of a tier, in parameters of `configs/<profile>.pbtxt`: engine settings over model.json, and its
GPUs.

The folder's `1/model.json` is one for all hosts; a profile is for one kind of them. NVIDIA's vLLM backend does not read
these parameters: for it, `roadwork-deploy plan --write ... --model-repository DIR` writes model.json itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

ENGINE, GPUS = "engine", "gpus"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class OverlayError(Exception):
    """A parameter cannot be used; one line that names it."""


def overlaid(name: str, engine: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    """Settings of model.json with those of the parameter `engine` (a JSON object) over them; null takes one out.

    Raises:
        OverlayError: the parameter is no JSON object.
    """
    text = parameters.get(ENGINE, "")
    if not text:
        return dict(engine)
    try:
        over = json.loads(text)
    except ValueError as error:
        raise OverlayError(f"{name}: parameter {ENGINE} in config.pbtxt is not JSON ({error})") from None
    if not isinstance(over, dict):
        raise OverlayError(f"{name}: parameter {ENGINE} in config.pbtxt is a JSON object, got {type(over).__name__}")
    return {key: value for key, value in {**engine, **over}.items() if value is not None}


def read_gpus(name: str, parameters: Mapping[str, str], ranks: int) -> tuple[int, ...]:
    """GPUs of the parameter `gpus` ("0" or "0,1"), by number among those that the server sees; empty where it is
    silent.

    Args:
        ranks: processes of the engine (tensor times pipeline parallelism), one a GPU.

    Raises:
        OverlayError: it is no such list, or not as long as there are ranks.
    """
    text = parameters.get(GPUS, "").strip()
    if not text:
        return ()
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdigit() for number in numbers) or len(set(numbers)) < len(numbers):
        raise OverlayError(f"{name}: parameter {GPUS} in config.pbtxt is numbers joined by commas, got {text!r}")
    if len(numbers) != ranks:
        raise OverlayError(
            f"{name}: parameter {GPUS} in config.pbtxt names {len(numbers)} GPUs, and the engine has {ranks} processes "
            "(tensor_parallel_size x pipeline_parallel_size)"
        )
    return tuple(int(number) for number in numbers)


def show_only(name: str, gpus: tuple[int, ...], variables: MutableMapping[str, str]) -> None:
    """Let this process, and the engine's that it starts, see these GPUs alone; before CUDA starts in any of them.

    A server that sees some GPUs only (CUDA_VISIBLE_DEVICES) counts among those, and so do these numbers.

    Raises:
        OverlayError: the server sees fewer.
    """
    seen = variables.get(VISIBLE)
    if seen is None:
        variables[VISIBLE] = ",".join(map(str, gpus))
        return
    listed = [each.strip() for each in seen.split(",") if each.strip()]
    if gpus and max(gpus) >= len(listed):
        raise OverlayError(f"{name}: GPU {max(gpus)} is not among those that the server sees ({VISIBLE}={seen})")
    variables[VISIBLE] = ",".join(listed[gpu] for gpu in gpus)
