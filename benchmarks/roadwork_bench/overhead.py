"""`roadwork-bench overhead`: a whole request (gRPC, decode, ensembles, BLS, pool) against a bare loop of its models."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from roadwork_cascade.policy import load_policy, write_policy
from roadwork_deploy.profile import Profile, load_profile
from roadwork_deploy.serve import prepare

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.bare import BareLoop
from roadwork_bench.dataset import SUFFIXES
from roadwork_bench.errors import BenchError
from roadwork_bench.judging import judge_table, patient
from roadwork_bench.medians import median_interval, shown
from roadwork_bench.output import said, save_report, saying
from roadwork_bench.pairs import in_pairs
from roadwork_bench.replay import without_members
from roadwork_bench.served import Block, ServedCascade
from roadwork_bench.statistics import figures
from roadwork_bench.table import load_table

LATENCY_LIMIT, THROUGHPUT_LIMIT = 1.15, 0.90
WARM_SECONDS, TRIAL_SECONDS = 2.0, 3.0
SCENES, SEED = 24, 900_000
SIZE, QUALITY = (1280, 720), 90

Step = Callable[[float], Block]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help=f"folder of images; by default {SCENES} rendered scenes")
    parser.add_argument("--seconds", type=float, default=64.0, help="of measuring for each comparison")
    parser.add_argument("--block-seconds", type=float, default=4.0, help="before the two sides change places")
    parser.add_argument(
        "--in-flight", default="1,8", help="requests on their way: the first gives latency, the last saturates"
    )
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--table", type=Path, help="recorded scores, to say what stages cost in MCC")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    in_flight = [int(number) for number in arguments.in_flight.split(",")]
    if in_flight[0] != 1 or len(in_flight) < 2:
        raise BenchError("--in-flight must begin with 1 and name a number that saturates, such as 1,8")
    images = read_images(arguments.images) if arguments.images else rendered_scenes()
    profile = load_profile(arguments.profile)
    report: dict[str, Any] = {"about": about(command), "profile": profile.name, "images": describe(images)}
    with detector_path(arguments.model_repository, profile) as (repository, fast_profile):
        served = prepare(repository, fast_profile)
        with served.server as server:
            cascade = ServedCascade(server.grpc_url, set(expected(repository)))
            bare = BareLoop(repository, profile.config_name)
            try:
                report |= measure(cascade, bare, images, in_flight, arguments.seconds, arguments.block_seconds)
            finally:
                bare.close()
                cascade.close()
    if arguments.table:
        report["mcc_cost"] = mcc_cost(arguments.table, arguments.model_repository)
    print(summary(report))
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report))
    return 0


@contextmanager
def detector_path(repository: Path, profile: Profile) -> Iterator[tuple[Path, Profile]]:
    """A copy of the repository whose cascade has no text members, and the profile without them.

    The comparison is about detectors; reading signs takes longer than all of them together and would hide the rest.
    Deadlines are wide: a request that gives up early is not a fast one.
    """
    with tempfile.TemporaryDirectory(prefix="roadwork-overhead-") as folder:
        copy = Path(folder) / "model_repository"
        shutil.copytree(repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
        path = copy / "roadwork" / "policy.yaml"
        policy = load_policy(path)
        text = [member.name for _, member in policy.members() if member.kind == "text"]
        write_policy(patient(without_members(policy, text)), path)
        fast = dataclasses.replace(
            profile,
            entries=tuple(name for name in profile.entries if name not in text),
            models={name: share for name, share in profile.models.items() if name not in text},
        )
        yield copy, fast


def expected(repository: Path) -> list[str]:
    """Members with a vote, all of which are in a verdict's answers when all stages always run."""
    policy = load_policy(repository / "roadwork" / "policy.yaml")
    return [member.name for _, member in policy.members() if member.votes]


def measure(
    cascade: ServedCascade, bare: BareLoop, images: list[bytes], in_flight: list[int], seconds: float, block: float
) -> dict[str, Any]:
    """All comparisons, each interleaved block by block."""

    def interleave(first: Step, second: Step) -> list[tuple[Block, Block]]:
        return in_pairs(lambda _: first(block), lambda _: second(block), pairs)

    def served(number: int, everything: bool = True) -> Step:
        return lambda s: cascade.block(images, s, number, all_stages=everything)

    def alone(workers: int) -> Step:
        return lambda s: bare.block(images, s, workers)

    many = in_flight[-1]
    for step in (served(1), served(many), alone(0)):
        step(WARM_SECONDS)
    workers = best_workers(bare, images)
    pairs = max(3, round(seconds / (2 * block)))
    comparisons = []
    for number in in_flight:
        saying(f"{number} in flight: {pairs} pairs of {block:g} s")
        loop = 0 if number == 1 else workers
        blocks = interleave(served(number), alone(loop))
        comparisons.append({"in_flight": number, "bare_workers": max(1, loop), **compare(blocks)})
    saying(f"stages on against all stages, {many} in flight: {pairs} pairs")
    staged = compare(interleave(served(many, everything=False), served(many)))
    return {
        "latency_ratio": comparisons[0]["latency_ratio"]["median"],
        "throughput_ratio": comparisons[-1]["throughput_ratio"]["median"],
        "threads": bare.threads,
        "comparisons": comparisons,
        "stages_on": {
            "throughput_multiple": staged["throughput_ratio"],
            "staged_images_per_second": staged["first"]["images_per_second"],
            "all_stages_images_per_second": staged["second"]["images_per_second"],
        },
    }


def best_workers(bare: BareLoop, images: list[bytes]) -> int:
    """Workers with which the bare loop is fastest here: the comparison is against the best simple loop."""
    cores = len(os.sched_getaffinity(0))
    candidates = sorted({1, cores, cores + 1, 2 * cores})
    return max(candidates, key=lambda workers: bare.block(images, TRIAL_SECONDS, workers).throughput)


def compare(blocks: list[tuple[Block, Block]]) -> dict[str, Any]:
    """Ratios first to second of each pair, and what each side did over all blocks."""
    return {
        "latency_ratio": median_interval([one.median / two.median for one, two in blocks]),
        "throughput_ratio": median_interval([one.throughput / two.throughput for one, two in blocks]),
        "first": _side([one for one, _ in blocks]),
        "second": _side([two for _, two in blocks]),
    }


def _side(blocks: list[Block]) -> dict[str, Any]:
    latencies = np.concatenate([block.latencies for block in blocks]) * 1000
    return {
        "images": len(latencies),
        "milliseconds_p50": round(float(np.quantile(latencies, 0.5)), 2),
        "milliseconds_p95": round(float(np.quantile(latencies, 0.95)), 2),
        "images_per_second": round(len(latencies) / sum(block.seconds for block in blocks), 3),
    }


def mcc_cost(table: Path, repository: Path) -> dict[str, Any]:
    """What ending early costs on recorded scores, fitted and tested on different groups."""
    judged = judge_table(load_table(table), load_policy(repository / "roadwork" / "policy.yaml"), cross_validated=True)
    assert judged.full_decision is not None
    staged = figures(judged.labels, judged.decision, list(judged.groups))
    full = figures(judged.labels, judged.full_decision, list(judged.groups))
    return {
        "staged_mcc": staged["mcc"],
        "all_stages_mcc": full["mcc"],
        "cost": round(full["mcc"] - staged["mcc"], 4),
        "asked": {name: round(float(v), 4) for name, v in zip(judged.stages, judged.asked.mean(axis=0), strict=True)},
        "images": staged["images"],
        "method": judged.method,
    }


def rendered_scenes(count: int = SCENES) -> list[bytes]:
    """JPEG bytes of scenes that `roadwork-export` draws, half of them with roadwork."""
    from roadwork_export.scenes.scene import render_scene

    saying(f"rendering {count} scenes")
    images = []
    for number in range(count):
        scene = render_scene(SEED + number, roadwork=number % 2 == 0, width=SIZE[0], height=SIZE[1])
        bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        images.append(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes())
    return images


def read_images(folder: Path) -> list[bytes]:
    """Encoded files of a folder and its folders, in the order of their names."""
    images = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if not images:
        raise BenchError(f"{folder}: no {', '.join(sorted(SUFFIXES))} files")
    return images


def describe(images: list[bytes]) -> dict[str, Any]:
    """How many images of what size in bytes."""
    return {"count": len(images), "kilobytes_mean": round(sum(map(len, images)) / len(images) / 1000, 1)}


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for part in report["comparisons"]:
        one, two = part["first"], part["second"]
        lines += [
            f"{part['in_flight']} in flight, all stages (bare: {part['bare_workers']} workers):",
            f"  served {one['milliseconds_p50']} ms, {one['images_per_second']} images/s; bare "
            f"{two['milliseconds_p50']} ms, {two['images_per_second']} images/s",
            f"  latency {shown(part['latency_ratio'])} times bare, throughput {shown(part['throughput_ratio'])}",
        ]
    lines.append(f"Stages on: {shown(report['stages_on']['throughput_multiple'])} times the throughput of all stages")
    if "mcc_cost" in report:
        cost = report["mcc_cost"]
        lines.append(f"  MCC {cost['staged_mcc']} instead of {cost['all_stages_mcc']} ({cost['method']})")
    latency, throughput = report["latency_ratio"], report["throughput_ratio"]
    lines.append(
        f"Latency ratio {latency} (at most {LATENCY_LIMIT}: {said(latency <= LATENCY_LIMIT)}), throughput ratio "
        f"{throughput} (at least {THROUGHPUT_LIMIT}: {said(throughput >= THROUGHPUT_LIMIT)})"
    )
    return "\n".join(lines)
