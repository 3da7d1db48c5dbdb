"""`roadwork-bench tune`: the instances, batch and delay with which a model answers most while it keeps a latency."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roadwork_deploy.profile import load_profile

from roadwork_bench.about import about
from roadwork_bench.errors import BenchError
from roadwork_bench.load import add_server_arguments, checked_seconds, measurer, parse_options
from roadwork_bench.output import save_report, saying
from roadwork_bench.overhead import describe, read_images, rendered_scenes
from roadwork_bench.perf.candidates import Tunable, axes_of, present, served, tunable
from roadwork_bench.perf.inputs import digest, feed
from roadwork_bench.perf.program import find_program, program_version
from roadwork_bench.perf.run import Point, Target
from roadwork_bench.perf.search import Candidate, Judged, coordinate_search, doubling
from roadwork_bench.perf.tuned_profile import check_path, tuned_text, write

SATURATED = 0.03
"""Doubling the requests in flight that brings less than this more throughput brings only latency."""
RATES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the closed loop's throughput that the best candidate is then asked at, as a Poisson process."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a detector, scene model, decode, sign_text or roadwork")
    parser.add_argument("--p99-ms", type=float, required=True, help="latency that 99%% of the requests must keep")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of images; by default 24 rendered scenes")
    parser.add_argument("--seconds", type=float, default=8.0, help="that each load of each candidate is measured")
    parser.add_argument("--options", default="{}", metavar="JSON", help="of each request, where the model takes any")
    parser.add_argument("--max-instances", type=int, default=0, help="default: twice the cores, at most 8")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--max-in-flight", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=16, help="that are measured at most")
    add_server_arguments(parser)
    parser.add_argument("--write", type=Path, metavar="FILE.yaml", help="a profile with what was found")
    parser.add_argument("--out", type=Path, help="write the figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    if not 0 < arguments.p99_ms < 1e6:
        raise BenchError(f"--p99-ms: {arguments.p99_ms:g} is not between 0 and 1000000")
    for name in ("max_batch", "max_in_flight", "candidates"):
        if getattr(arguments, name) < 1:
            raise BenchError(f"--{name.replace('_', '-')}: is at least 1")
    if arguments.write:
        check_path(arguments.write)
    seconds, options = checked_seconds(arguments.seconds), parse_options(arguments.options)
    program = find_program()
    profile = load_profile(arguments.profile)
    subject = tunable(arguments.model, arguments.model_repository.resolve(), profile)
    instances = arguments.max_instances or min(8, 2 * len(os.sched_getaffinity(0)))
    axes = axes_of(subject, arguments.p99_ms, instances, arguments.max_batch)
    start = present(subject, axes)
    images = read_images(arguments.images) if arguments.images else rendered_scenes()
    report: dict[str, Any] = {
        "about": about(command),
        "model": arguments.model,
        "profile": profile.name,
        "p99_ms": arguments.p99_ms,
        "served": "with the whole repository" if subject.asks_others else "alone",
        "images": {**describe(images), "digest": digest(images)},
        "settings": {"seconds": seconds, "options": options, "perf_analyzer": program_version(program)},
        "axes": axes,
        "start": vars(start),
        "candidates": [],
    }

    def with_server(candidate: Candidate, use: Callable[[Callable[[Point], dict[str, Any]]], Any]) -> Any:
        with served(subject, candidate) as server:
            made = feed(arguments.model, server.config, images, options, arguments.model_repository)
            target = Target(server.url, arguments.model, shared_memory=made.large and not made.texts)
            with measurer(program, target, made, seconds) as measuring:
                return use(measuring.measure)

    def judge(candidate: Candidate) -> Judged:
        saying(str(candidate))
        points = with_server(candidate, lambda measure: ladder(measure, arguments.p99_ms, arguments.max_in_flight))
        found = judged(candidate, points, arguments.p99_ms)
        report["candidates"].append(
            {**vars(candidate), "throughput": found.throughput, "milliseconds_p99": found.p99_ms, "points": points}
        )
        if arguments.out:
            save_report(report, arguments.out)
        return found

    best, finished = coordinate_search(start, axes, judge, arguments.candidates)
    report |= {"best": vars(best.candidate) if best.holds else None, "search_finished": finished}
    if best.holds:
        rates = with_server(best.candidate, lambda measure: open_loop(measure, best.throughput, arguments.p99_ms))
        report["poisson"] = rates
    if arguments.out:
        save_report(report, arguments.out)
    print(summary(report, best))
    if not best.holds:
        return 1
    if arguments.write:
        print(written(arguments, subject, best, command))
    return 0


def ladder(measure: Callable[[Point], dict[str, Any]], p99_ms: float, limit: int) -> list[dict[str, Any]]:
    """Points with 1, 2, 4, ... requests in flight, until the target is passed or nothing more is gained."""
    points: list[dict[str, Any]] = []
    for value in doubling(limit):
        point = measure(Point("in_flight", value))
        if point["failed"]:
            raise BenchError(f"{point['failed']} requests failed at {value} in flight; nothing is tuned on failures")
        point = {key: value for key, value in point.items() if key not in ("models", "perf_analyzer")}
        before = max((other["throughput"] for other in points), default=0.0)
        points.append(point)
        if point["milliseconds"]["p99"] > p99_ms or point["throughput"] < before * (1 + SATURATED):
            break
    return points


def judged(candidate: Candidate, points: list[dict[str, Any]], p99_ms: float) -> Judged:
    """The most throughput among the points that hold."""
    good = [point for point in points if point["milliseconds"]["p99"] <= p99_ms]
    if not good:
        return Judged(candidate, 0.0, points[0]["milliseconds"]["p99"])
    best = max(good, key=lambda point: point["throughput"])
    return Judged(candidate, best["throughput"], best["milliseconds"]["p99"])


def open_loop(measure: Callable[[Point], dict[str, Any]], throughput: float, p99_ms: float) -> list[dict[str, Any]]:
    """Poisson arrivals from high to low, until the target is held: callers who do not wait for each other."""
    points = []
    for share in RATES:
        point = measure(Point("rate", round(share * throughput, 2)))
        points.append({key: value for key, value in point.items() if key not in ("models", "perf_analyzer")})
        if not point["failed"] and not point["fell_behind"] and point["milliseconds"]["p99"] <= p99_ms:
            break
    return points


def summary(report: dict[str, Any], best: Judged) -> str:
    """The report for people."""
    target = report["p99_ms"]
    lines = [f"{report['model']}, profile {report['profile']}, served {report['served']}; p99 at most {target:g} ms"]
    for found in report["candidates"]:
        candidate = Candidate(found["instances"], found["batch"], found["delay_ms"])
        what = f"{found['throughput']:.2f}/s at" if found["throughput"] else "does not hold:"
        lines.append(f"  {candidate}: {what} p99 {found['milliseconds_p99']:.1f} ms")
    if not report["search_finished"]:
        lines.append("the search was cut short by --candidates")
    if not best.holds:
        lines.append(
            f"NO candidate holds {target:g} ms; the nearest is {best.candidate}, p99 {best.p99_ms:.1f} ms alone"
        )
        return "\n".join(lines)
    lines.append(f"best: {best.candidate}: {best.throughput:.2f} answers/s, p99 {best.p99_ms:.1f} ms (closed loop)")
    last = report["poisson"][-1]
    held = not last["failed"] and not last["fell_behind"] and last["milliseconds"]["p99"] <= target
    lines.append(
        f"Poisson arrivals: it holds {last['value']:g}/s with p99 {last['milliseconds']['p99']:.1f} ms"
        if held
        else f"Poisson arrivals: it does not hold {target:g} ms even at {last['value']:g}/s"
    )
    return "\n".join(lines)


def written(arguments: argparse.Namespace, subject: Tunable, best: Judged, command: str) -> str:
    """Write the profile; what to do with it."""
    found = (
        f"{subject.model.name}: {best.throughput:.2f} answers/s with p99 {best.p99_ms:.1f} ms of "
        f"{arguments.p99_ms:g} ms, closed loop"
    )
    text = tuned_text(subject, arguments.profile, best.candidate, arguments.write.stem, command, found)
    write(arguments.write, text)
    return (
        f"wrote {arguments.write}; to serve it: roadwork-deploy wire --profile {arguments.write} && "
        f"roadwork-deploy serve --profile {arguments.write}"
    )
