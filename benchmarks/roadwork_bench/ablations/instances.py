"""One process of each detector, or two."""

from __future__ import annotations

from typing import Any

from roadwork_bench.ablations.measuring import Asker, found, image_requests, outcome, side_by_side
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.ablations.workshop import workshop
from roadwork_bench.overhead import rendered_scenes

QUESTION = "What does a second instance of each detector bring?"
COUNTS = {"2 instances": 2, "1 instance": 1}


def measure(settings: Settings) -> dict[str, Any]:
    """Both sides have their own copies of the detectors in one server, and share the decoder."""
    with workshop(settings.repository) as shop:
        members, decode = shop.of_kind("boxes"), shop.decode()
        models = {}
        for side, count in COUNTS.items():
            parts = [shop.member(name, f"{name}_{count}", instances=count) for name in members]
            models[side] = shop.ensemble(f"perception_{count}", parts, decode=decode)
        with shop.server([*models.values()]) as server, Asker(server.grpc_url, [server.pid]) as asker:
            requests = image_requests(rendered_scenes())
            rows, compared = side_by_side(asker, models, requests, settings)
    one, many = settings.in_flight[0], settings.in_flight[-1]
    answer = (
        f"Two instances have {found(compared, 'throughput', many)} times the throughput of one ({many} in flight) and "
        f"{found(compared, 'latency', one)} times its latency ({one} in flight)."
    )
    return outcome(answer, rows, compared, detectors=members)
