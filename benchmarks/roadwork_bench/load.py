"""`roadwork-bench load`: how much load a model carries and how long it answers, driven by NVIDIA's perf_analyzer."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.errors import BenchError
from roadwork_bench.overhead import describe, read_images, rendered_scenes
from roadwork_bench.perf.inputs import digest, feed
from roadwork_bench.perf.loader import fetch, loader_folder
from roadwork_bench.perf.points import Measurer
from roadwork_bench.perf.program import find_program, program_version
from roadwork_bench.perf.run import Kind, Point, Target
from roadwork_bench.perf.serving import on_this_machine, serving
from roadwork_bench.perf.show import show
from roadwork_bench.perf.sweep import begin, sweep

IN_FLIGHT = "1,2,4,8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help="any model of the repository: roadwork, roadwork_stream, a detector, ..."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of images; by default 24 rendered scenes")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--rate", metavar="N,N,...", help="requests a second, begun as a Poisson process")
    load.add_argument("--in-flight", metavar="N,N,...", help=f"requests kept on their way; default {IN_FLIGHT}")
    parser.add_argument("--seconds", type=float, default=15.0, help="that each point is measured")
    parser.add_argument(
        "--streaming", action="store_true", help="over a stream; models that answer in parts always are"
    )
    parser.add_argument("--options", default="{}", metavar="JSON", help="of each request: '{\"all_stages\": true}'")
    add_server_arguments(parser)
    parser.add_argument("--url", metavar="HOST:PORT", help="gRPC of a running server, in place of starting one")
    parser.add_argument("--no-shared-memory", action="store_true", help="send canvases in messages (see docs/load.md)")
    parser.add_argument("--out", type=Path, help="write the figures to a file, point by point")
    parser.add_argument("--resume", action="store_true", help="measure only what --out lacks")
    parser.add_argument(
        "--fetch-loader", action="store_true", help="make perf_analyzer run on this older system, and end"
    )


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Shared with `tune`."""
    parser.add_argument("--profile", default="cpu", help="that the server is started with")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")


def run(arguments: argparse.Namespace, command: str) -> int:
    if arguments.fetch_loader:
        print("perf_analyzer starts with:", *fetch(loader_folder()))
        return 0
    if arguments.model is None:
        raise BenchError("name a model, such as roadwork or perception")
    points = points_of(arguments.in_flight, arguments.rate)
    seconds = checked_seconds(arguments.seconds)
    options = parse_options(arguments.options)
    program = find_program()
    images = read_images(arguments.images) if arguments.images else rendered_scenes()
    with serving(arguments.model, arguments.model_repository, arguments.profile, arguments.url) as server:
        made = feed(arguments.model, server.config, images, options, arguments.model_repository)
        shared = made.large and not made.texts and on_this_machine(server.url) and not arguments.no_shared_memory
        target = Target(server.url, arguments.model, arguments.streaming or made.decoupled, shared_memory=shared)
        report = {
            "about": about(command),
            "model": arguments.model,
            "server": server.described,
            "images": {**describe(images), "digest": digest(images)},
            "settings": {
                "seconds": seconds,
                "streaming": target.streaming,
                "options": options,
                "tensors": "system shared memory" if target.shared_memory else "gRPC messages",
                "perf_analyzer": program_version(program),
            },
        }
        report = begin(report, arguments.out, arguments.resume)
        with measurer(program, target, made, seconds) as measuring:
            report["gpu"] = measuring.gpu_name
            sweep(report, points, measuring.measure, arguments.out)
    print(show(report))
    return 1 if any(point["failed"] for point in report["points"]) else 0


@contextmanager
def measurer(program: list[str], target: Target, made: Any, seconds: float) -> Iterator[Measurer]:
    """A `Measurer` with a temporary folder of its own."""
    with tempfile.TemporaryDirectory(prefix="roadwork-load-") as folder:
        measuring = Measurer(program, target, made, seconds, Path(folder))
        try:
            yield measuring
        finally:
            measuring.close()


def points_of(in_flight: str | None, rate: str | None) -> list[Point]:
    """Points of a sweep, each once, in the order given.

    Raises:
        BenchError: not numbers over 0, or requests in flight that are not whole.
    """
    kind: Kind = "rate" if rate is not None else "in_flight"
    flag = "--rate" if kind == "rate" else "--in-flight"
    found = []
    for word in (rate if rate is not None else in_flight or IN_FLIGHT).split(","):
        try:
            value = float(word) if kind == "rate" else float(int(word))
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise BenchError(f"{flag}: {word!r} is no {'number' if kind == 'rate' else 'whole number'} over 0")
        found.append(Point(kind, value))
    return list(dict.fromkeys(found))


def checked_seconds(seconds: float) -> float:
    if not 1 <= seconds <= 3600:
        raise BenchError(f"--seconds: {seconds:g} is not between 1 and 3600")
    return seconds


def parse_options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise BenchError(f"--options: {text!r} is no JSON object")
    return options
