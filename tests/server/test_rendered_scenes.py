"""A smoke test of the committed weights: rendered scenes, which training did not see, through the real server."""

from __future__ import annotations

import pytest
from roadwork_client import RoadworkClient
from roadwork_deploy.server import EmbeddedServer

FIRST_SEED = 78_000_000  # training draws from other generators, the demonstration from 77,000,000 on
PAIRS = 6


def test_rendered_works_are_told_from_rendered_streets(server: EmbeddedServer) -> None:
    """Not a measure of accuracy: six pairs only show that weights, preprocessing and policy belong together."""
    scenes = pytest.importorskip("roadwork_export.scenes")
    probabilities: dict[bool, list[float]] = {True: [], False: []}
    with RoadworkClient(server.grpc_url, deadline=60) as client:
        for number in range(PAIRS):
            for works in (True, False):
                scene = scenes.render_scene(FIRST_SEED + 2 * number + works, roadwork=works, width=1280, height=720)
                verdict = client.predict(scene.image)
                assert verdict.image is not None
                assert (verdict.image.width, verdict.image.height) == (1280, 720)
                probabilities[works].append(verdict.probability)
    yes, no = probabilities[True], probabilities[False]
    assert sum(yes) / PAIRS > sum(no) / PAIRS + 0.3, probabilities
    assert sum(a > b for a in yes for b in no) >= 0.8 * PAIRS**2, probabilities
