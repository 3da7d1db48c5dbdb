"""`roadwork-bench escalation`: how fast the whole cascade is while a given share of its images goes on to the tiers.

Every request runs all stages; those of the share also ask every tier of the policy, whatever perception found. So the
share is what was asked for, and weights of any kind will do: it is about time, not about being right.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from roadwork_cascade.policy import load_policy
from roadwork_deploy.profile import load_profile
from roadwork_deploy.serve import prepare

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.errors import BenchError
from roadwork_bench.output import save_report, saying
from roadwork_bench.overhead import detector_path, read_images, rendered_scenes
from roadwork_bench.served import ServedCascade, inputs_of
from roadwork_bench.tiers.holding import gpu_names, open_gpus

WARM_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, help="folder of images; by default rendered scenes")
    parser.add_argument("--share", default="0,0.1,0.5", help="of the requests that ask the tiers")
    parser.add_argument("--in-flight", default="1,8", help="requests on their way")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--tier-timeout", type=float, default=600.0, help="seconds for all tiers to join")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--out", type=Path, help="write the figures to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where a verdict was not whole."""
    shares, in_flight = (
        parse(text, name) for text, name in ((arguments.share, "share"), (arguments.in_flight, "in-flight"))
    )
    images = read_images(arguments.images) if arguments.images else rendered_scenes()
    profile = load_profile(arguments.profile)
    gpus = open_gpus()
    report: dict[str, Any] = {
        "about": about(command),
        "profile": profile.name,
        "gpus": gpu_names(gpus) if gpus and profile.device == "gpu" else [],
    }
    with (
        detector_path(arguments.model_repository, profile) as (repository, fast),
        prepare(repository, fast).server as server,
    ):
        saying("waiting for the tiers")
        tiers = server.wait_for_tiers(arguments.tier_timeout)
        away = [f"{name} ({tier.reason})" for name, tier in tiers.items() if tier.state != "ready"]
        asked = [tier.member.name for tier in load_policy(repository / "roadwork" / "policy.yaml").tiers]
        away += [f"{name} (not in the profile)" for name in asked if name not in tiers]
        if away or not asked:
            raise BenchError(f"tiers of the policy that are not served: {', '.join(away) or 'the policy has none'}")
        report |= sweep(server.grpc_url, images, shares, [int(number) for number in in_flight], arguments.seconds)
    print(summary(report))
    if arguments.out:
        save_report(report, arguments.out)
    return 0 if all(set(point["statuses"]) == {"ok"} for point in report["points"]) else 1


def parse(text: str, option: str) -> list[float]:
    """Numbers between commas: shares from 0 to 1, or whole numbers of requests.

    Raises:
        BenchError: one of them is not.
    """
    try:
        found = [float(word) for word in text.split(",")]
    except ValueError:
        found = [-1.0]
    right = all(0 <= n <= 1 for n in found) if option == "share" else all(n >= 1 and n == int(n) for n in found)
    if not right:
        wanted = "numbers from 0 to 1" if option == "share" else "whole numbers from 1 on"
        raise BenchError(f"--{option} is {text!r}, must be {wanted}, with commas between them")
    return found


def sweep(
    url: str, images: Sequence[bytes], shares: Sequence[float], in_flight: Sequence[int], seconds: float
) -> dict[str, Any]:
    """A point for each share and number of requests in flight."""
    points = []
    cascade = ServedCascade(url, set())
    try:
        cascade.ask(mixture(images, 0.5), WARM_SECONDS, 4)
        for share in shares:
            requests = mixture(images, share)
            for number in in_flight:
                points.append(measure(cascade, requests, share, number, seconds))
                saying(line(points[-1]))
    finally:
        cascade.close()
    return {"images": len(images), "points": points}


def mixture(images: Sequence[bytes], share: float) -> list[list[Any]]:
    """A hundred requests or more, as many as there are images; those that ask the tiers lie evenly among them."""
    count = max(100, len(images))
    asks = [int((number + 1) * share) > int(number * share) for number in range(count)]
    return [
        inputs_of(images[number % len(images)], all_stages=True, tiers=asks[number], deadline_ms=60_000)
        for number in range(count)
    ]


def measure(
    cascade: ServedCascade, requests: Sequence[list[Any]], share: float, in_flight: int, seconds: float
) -> dict[str, Any]:
    """Verdicts a second, latency in milliseconds, verdicts by status and what they lacked, and the share with a tier's
    answer.
    """
    block, texts = cascade.ask(requests, seconds, in_flight)
    verdicts = [json.loads(text) for text in texts]
    latencies = np.array(block.latencies) * 1000
    asked = [tier for verdict in verdicts for tier in verdict["tiers"] if tier["reason"] != "not_wanted"]
    return {
        "share": share,
        "in_flight": in_flight,
        "verdicts": len(verdicts),
        "verdicts_per_second": round(block.throughput, 2),
        **{f"ms_p{q}": round(float(np.quantile(latencies, q / 100)), 2) for q in (50, 95, 99)},
        "statuses": dict(Counter(verdict["status"] for verdict in verdicts)),
        "missing": lacking(verdicts),
        "escalated": round(
            sum(any(t["outcome"] == "answered" for t in v["tiers"]) for v in verdicts) / max(1, len(verdicts)), 4
        ),
        "tier_outcomes": dict(Counter(f"{tier['name']}: {tier['outcome']}" for tier in asked)),
    }


def lacking(verdicts: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Members by why their answers were missing: in how many verdicts, and the first of them in its own words."""
    found: dict[str, dict[str, Any]] = {}
    for gap in (gap for verdict in verdicts for gap in verdict["missing"]):
        counted = found.setdefault(f"{gap['member']}: {gap['reason']}", {"verdicts": 0, "such_as": gap["detail"]})
        counted["verdicts"] += 1
    return found


def line(point: dict[str, Any]) -> str:
    """A point for people."""
    without = "".join(f"; without {who} ({gap['verdicts']})" for who, gap in point["missing"].items())
    return (
        f"{point['share']:.0%} asked to escalate ({point['escalated']:.1%} did), {point['in_flight']} in flight: "
        f"{point['verdicts_per_second']} verdicts/s, {point['ms_p50']} ms (p95 {point['ms_p95']}), {point['statuses']}"
        f"{without}"
    )


def summary(report: dict[str, Any]) -> str:
    return "\n".join(line(point) for point in report["points"])
