"""Detectors asked by Triton's ensemble scheduler, or by a Python model that asks the same models itself (BLS)."""

from __future__ import annotations

from typing import Any

from roadwork_bench.ablations.measuring import Asker, found, image_requests, outcome, same_answers, side_by_side
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.ablations.workshop import outputs_of, workshop
from roadwork_bench.overhead import rendered_scenes

QUESTION = "Is an ensemble of the detectors quicker than a Python model that asks the same models by BLS?"
ENSEMBLE, BLS = "ensemble", "BLS"
MODELS = {ENSEMBLE: "perception_ensemble", BLS: "perception_bls"}


def measure(settings: Settings) -> dict[str, Any]:
    """Image in, the boxes of every detector out; both ask one and the same decoder and detectors."""
    with workshop(settings.repository) as shop:
        parts = [shop.member(name, name) for name in shop.of_kind("boxes")]
        decode = shop.decode()
        shop.ensemble(MODELS[ENSEMBLE], parts, decode=decode)
        shop.fan_out(MODELS[BLS], parts, decode=decode, instances=max(settings.in_flight))
        outputs = [output for part in parts for output in outputs_of(shop.kinds[part], part)]
        with shop.server([*MODELS.values()]) as server, Asker(server.grpc_url, [server.pid]) as asker:
            requests = image_requests(rendered_scenes())
            same_answers(asker, requests[:4], dict.fromkeys(MODELS.values(), outputs))
            rows, compared = side_by_side(asker, MODELS, requests, settings)
    first, last = settings.in_flight[0], settings.in_flight[-1]
    answer = (
        f"The ensemble's latency is {found(compared, 'latency', first)} times that of BLS, its throughput with {last} "
        f"in flight {found(compared, 'throughput', last)} times."
    )
    return outcome(answer, rows, compared, detectors=parts)
