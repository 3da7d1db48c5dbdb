"""`roadwork-bench peers`: our server beside Ray Serve, LitServe, BentoML and FastAPI with the same models inside."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from roadwork_cascade.policy import load_policy
from roadwork_deploy.profile import load_profile

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.bare import BareLoop
from roadwork_bench.errors import BenchError
from roadwork_bench.output import save_report, saying
from roadwork_bench.overhead import describe, detector_path, read_images, rendered_scenes
from roadwork_bench.peering.accuracy import staged_accuracy
from roadwork_bench.peering.environment import FRAMEWORKS, SAME, ensure, versions
from roadwork_bench.peering.figures import rate_figures, saturated_figures
from roadwork_bench.peering.rounds import Measured, Plan, idle_shares, measure
from roadwork_bench.peering.servers import choose_peers
from roadwork_bench.peering.sides import BARE, OURS, STAGED, Side
from roadwork_bench.peering.starting import Started, prepare_ground
from roadwork_bench.peering.summary import goals, summary

PILOT_SECONDS = 4.0
OWN_SHARE = 0.7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="peers to be measured, such as fastapi,ray; by default all")
    parser.add_argument("--images", type=Path, help="folder of images; by default rendered scenes")
    parser.add_argument("--in-flight", type=int, default=8, help="requests on their way at saturation")
    parser.add_argument("--rounds", type=int, default=8, help="in each of which every side has every block once")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a saturated block")
    parser.add_argument(
        "--rates", default="0.5,0.7", help="of Poisson arrivals, as shares of the bare loop's throughput"
    )
    parser.add_argument("--rate-seconds", type=float, default=12.0, help="of a block of arrivals")
    parser.add_argument("--trial-seconds", type=float, default=6.0, help="of trying each setting of a peer")
    parser.add_argument("--environment", type=Path, help="folder of the peers' own Python environment, made if missing")
    parser.add_argument("--profile", default="cpu", help="of our server")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--table", type=Path, help="recorded scores, to say what leaving early does to accuracy")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file")


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where a peer could not be measured; the others were."""
    shares = read_shares(arguments.rates)
    for name in ("in_flight", "rounds", "seconds", "rate_seconds", "trial_seconds"):
        if getattr(arguments, name) <= 0:
            raise BenchError(f"--{name.replace('_', '-')} must be over 0, got {getattr(arguments, name)}")
    peers = choose_peers(arguments.only, len(os.sched_getaffinity(0)))
    images = read_images(arguments.images) if arguments.images else rendered_scenes()
    profile = load_profile(arguments.profile)
    python = ensure(saying, arguments.environment)
    report: dict[str, Any] = {"about": about(command), "profile": profile.name, "images": describe(images)}
    report["peers_environment"] = versions(python, [name.partition("[")[0] for name in (*FRAMEWORKS, *SAME)])
    with (
        detector_path(arguments.model_repository, profile) as (repository, fast_profile),
        tempfile.TemporaryDirectory(prefix="roadwork-peers-") as folder,
    ):
        bare = BareLoop(repository, profile.config_name)
        ground = prepare_ground(repository, bare.threads, images, Path(folder))
        with Started(ground) as started:
            started.add_bare(bare)
            for peer in peers:
                started.add_peer(peer, python, arguments.in_flight, arguments.trial_seconds)
            started.add_ours(fast_profile)
            report |= {"threads": bare.threads, "sides": started.about, "failures": started.failures}
            report["idle_share_of_a_core"] = idle_shares(started.sides)
            plan = make_plan(arguments, started.sides, shares, started.peers)
            found = measure(started.sides, plan, started.failures)
            report |= figures(found, plan)
            report["largest_differences"] = differences(started.sides)
        if arguments.table:
            policy = load_policy(repository / "roadwork" / "policy.yaml")
            report["stages_on"]["accuracy"] = staged_accuracy(arguments.table, policy)
    report["goals"] = goals(report)
    print(summary(report))
    if arguments.out:
        save_report(report, arguments.out)
    if arguments.json:
        print(json.dumps(report))
    return 1 if report["failures"] else 0


def read_shares(text: str) -> list[float]:
    """Raises BenchError for what is no share in (0, 1)."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share < 1 for share in shares):
        raise BenchError(f"--rates is a list of shares between 0 and 1, such as 0.5,0.7, got {text!r}")
    return shares


def make_plan(arguments: argparse.Namespace, sides: dict[str, Side], shares: list[float], peers: list[str]) -> Plan:
    """Rates from a first saturated block of every side: common ones, and one of each side's own."""
    speeds = {name: side.saturate(arguments.in_flight, PILOT_SECONDS).throughput for name, side in sides.items()}
    served = [name for name in sides if name not in (BARE, STAGED)]
    rates = {f"{share:g} of bare": dict.fromkeys(served, share * speeds[BARE]) for share in shares}
    rates[f"{OWN_SHARE:g} of its own"] = {name: OWN_SHARE * speeds[name] for name in served}
    plan = Plan(arguments.in_flight, arguments.seconds, rates, arguments.rate_seconds, arguments.rounds, peers)
    saying(f"{arguments.rounds} rounds, about {plan.seconds(len(sides)) / 60:.0f} minutes")
    return plan


def figures(found: Measured, plan: Plan) -> dict[str, Any]:
    """The measured part of the report."""
    peers = [name for name in plan.peers if name in found.saturated]
    staged = found.saturated.pop(STAGED)
    saturated = saturated_figures(found.saturated, BARE, OURS, peers)
    best = saturated["best_peer"]
    against = {OURS: found.saturated[OURS]} | ({best: found.saturated[best]} if best else {})
    stages_on = saturated_figures({STAGED: staged, **against}, OURS, STAGED, [best] if best else [])
    rates = []
    for label, blocks in found.rated.items():
        wanted = {name: round(rate, 3) for name, rate in plan.rates[label].items() if name in blocks}
        rates.append({"rate": label, "images_per_second": wanted, **rate_figures(blocks, OURS, peers)})
    return {
        "rounds": plan.rounds,
        "saturated": {"in_flight": plan.in_flight, **saturated},
        "rates": rates,
        "stages_on": {
            "images_per_second": stages_on["sides"][STAGED]["images_per_second"],
            "stages_asked": stages_on["sides"][STAGED]["stages_asked"],
            "to_all_stages": stages_on["to_bare"][STAGED],
            "to_best_peer": stages_on["ours_to_each_peer"][best] if best else None,
        },
    }


def differences(sides: dict[str, Side]) -> dict[str, float]:
    """Largest difference of a probability from the bare models', over every answer of every block."""
    names = [name for name in sides if name not in (BARE, STAGED)]
    return {name: round(float(getattr(sides[name], "largest_difference", 0.0)), 6) for name in names}
