"""The canvas between decoder and detectors as uint8, and as float32, which is four times the bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from roadwork_bench.ablations.measuring import (
    Asker,
    canvas_requests,
    found,
    image_requests,
    outcome,
    same_answers,
    side_by_side,
)
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.ablations.workshop import outputs_of, workshop
from roadwork_bench.networks import CANVAS, some_canvases
from roadwork_bench.overhead import rendered_scenes

QUESTION = "What does a uint8 canvas save against a float32 one?"
UINT8, FLOAT = "uint8", "float32"
IN_SERVER, OVER_GRPC = "made in the server by `decode`", "sent by the caller over gRPC"


def measure(settings: Settings) -> dict[str, Any]:
    """The same scene models and detectors, once with a graph that begins after the cast; the answers are the same."""
    with workshop(settings.repository) as shop:
        members = shop.of_kind("boxes", "scene")
        made, sent = {}, {}
        outputs: dict[str, list[str]] = {}
        for kind in (UINT8, FLOAT):
            floats = kind == FLOAT
            parts = [shop.member(name, f"{name}_{kind}", floats=floats) for name in members]
            made[kind] = shop.ensemble(f"from_image_{kind}", parts, decode=shop.decode(f"decode_{kind}", floats=floats))
            sent[kind] = shop.ensemble(f"from_canvas_{kind}", parts, floats=floats)
            outputs[made[kind]] = [output for part in parts for output in outputs_of(shop.kinds[part], part)]
        with shop.server([*made.values(), *sent.values()]) as server, Asker(server.grpc_url, [server.pid]) as asker:
            images = image_requests(rendered_scenes())
            same_answers(asker, images[:4], outputs)
            rows, compared = side_by_side(asker, made, images, settings, IN_SERVER)
            canvases = some_canvases(8)
            requests = {UINT8: canvas_requests(canvases), FLOAT: canvas_requests(canvases.astype(np.float32))}
            more_rows, more_compared = side_by_side(asker, sent, requests, settings, OVER_GRPC)
    one, many = settings.in_flight[0], settings.in_flight[-1]
    answer = (
        f"With uint8 a canvas made in the server has {found(compared, 'latency', one)} times the latency of float32, "
        f"{found(compared, 'throughput', many)} times its throughput ({many} in flight); one sent by the caller "
        f"{found(more_compared, 'latency', one)} and {found(more_compared, 'throughput', many)} times."
    )
    size = int(np.prod(CANVAS))
    return outcome(
        answer, rows + more_rows, compared + more_compared, canvas_bytes={UINT8: size, FLOAT: 4 * size}
    )  # fmt: skip
