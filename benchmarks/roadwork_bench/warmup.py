"""`roadwork-bench warmup`: how much slower the first request after a start is than the tenth."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from roadwork_deploy.profile import load_profile
from roadwork_deploy.serve import prepare

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.output import said, save_report, saying
from roadwork_bench.overhead import rendered_scenes
from roadwork_bench.served import REQUEST_SECONDS, inputs_of

LIMIT = 1.5
REQUESTS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--starts", type=int, default=5, help="of the server; each gives one first request")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--out", type=Path, help="write the figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    image = rendered_scenes(1)[0]
    starts = [measure(arguments.model_repository, arguments.profile, image) for _ in range(max(1, arguments.starts))]
    ratios = [milliseconds[0] / milliseconds[-1] for milliseconds in starts]
    median, each = round(float(np.median(ratios)), 3), [round(ratio, 3) for ratio in ratios]
    report = {
        "about": about(command),
        "milliseconds": starts,
        "first_to_tenth": {"median": median, "each": each},
        "limit": LIMIT,
    }
    print(f"the first request took {median} times the tenth (median of {len(starts)} starts)")
    print(f"wanted: at most {LIMIT}: {said(median <= LIMIT)}; each start: {each}")
    if arguments.out:
        save_report(report, arguments.out)
    return 0


def measure(repository: Path, profile: str, image: bytes) -> list[float]:
    """Milliseconds of the first requests of a fresh server, all stages of perception, one image after the other."""
    saying(f"starting the server, profile {profile}")
    took = []
    with (
        prepare(repository, load_profile(profile)).server as server,
        grpc.InferenceServerClient(server.grpc_url) as client,
    ):
        inputs: list[Any] = inputs_of(image, all_stages=True, tiers=False)
        for _ in range(REQUESTS):
            before = time.perf_counter()
            client.infer("roadwork", inputs, client_timeout=REQUEST_SECONDS)
            took.append(round((time.perf_counter() - before) * 1000, 2))
    return took
