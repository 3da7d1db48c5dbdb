"""`roadwork-bench tier_peers`: a tier as our server has it beside vLLM's own OpenAI-compatible server, same engine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from roadwork_export.tiers.prompts import SCORER_QUESTION

from roadwork_bench.about import CHECKOUT
from roadwork_bench.errors import BenchError
from roadwork_bench.medians import shown
from roadwork_bench.output import save_report, saying
from roadwork_bench.peering.openai_side import OpenAISide
from roadwork_bench.tier import Comparison, status

PEER = "vllm_serve"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="folder of the tier")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--question", default=SCORER_QUESTION, help="the user's text in the tier's prompt")
    parser.add_argument("--side", help="pixels of the square images; by default the prompt's max_side")
    parser.add_argument("--in-flight", default="1,8", help="1 gives latency, the last saturates")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each block")
    parser.add_argument("--pairs", type=int, default=8, help="of blocks, the sides changing places")
    parser.add_argument(
        "--variables",
        default="{}",
        metavar="JSON",
        help='variables of vLLM\'s server, such as {"OMP_NUM_THREADS": "2"}',
    )
    parser.add_argument("--images", type=int, default=3000, help="most images of a block")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the probability, within which they agree")
    parser.add_argument("--startup-timeout", type=float, default=300.0, help="seconds for each side")
    parser.add_argument("--logs", type=Path, help="folder that keeps the logs")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file, after every step")
    # What the comparison with the bare engine has beside.
    parser.set_defaults(variant=[], in_turn=False, bare="{}", clients=1, stop_after=None)


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where the sides do not agree: there is then nothing to compare."""
    comparison = PeerComparison(arguments, command)
    with comparison.folder() as folder:
        comparison.measure_beside(folder)
    report = comparison.renamed()
    print(summary(report))
    if arguments.json:
        print(json.dumps(report))
    return status(report)


class PeerComparison(Comparison):
    """The comparison of `roadwork-bench tier` with vLLM's server in the place of the bare engine."""

    def __init__(self, arguments: argparse.Namespace, command: str) -> None:
        super().__init__(arguments, command)
        if self.subject.prompt.text(None).count(arguments.question) != 1:
            raise BenchError(f"--question: {arguments.question!r} is not once in the prompt of {arguments.name}")
        try:
            changes = json.loads(arguments.variables)
            self._changes = {str(key): str(value) for key, value in dict(changes).items()}
        except (TypeError, ValueError) as error:
            raise BenchError(f"--variables is a JSON object of variables ({error})") from None

    def measure_beside(self, folder: Path) -> None:
        """Both sides up, then pair by pair. Raises BenchError or DeployError where one does not start."""
        logs = (self.arguments.logs or folder).resolve()
        saying("starting vLLM's server")
        timeout = self.arguments.startup_timeout
        peer = OpenAISide(self.subject, self.arguments.question, self.on_cpu, self._changes, timeout, logs)
        try:
            self.report[PEER] = {"command": peer.command, "environment": self._changes, "start": peer.started}
            served = self._serve(self.variants[0])
            try:
                for side in self.sides:
                    self._agree(self.variants[0], side, self._answers(peer, side), self._answers(served, side))
                    for number in self.in_flight:
                        self._pairs(peer, served, side, number)
            finally:
                served.close()
        finally:
            peer.close()

    def renamed(self) -> dict[str, Any]:
        """The report, with vLLM's server under its own name."""
        report = {key: value for key, value in self.report.items() if key != "bare_engine"}
        for key in ("comparisons", "agreement"):
            report[key] = [_renamed(part) for part in report[key]]
        return report

    def _save(self) -> None:
        if self.arguments.out:
            save_report(self.renamed(), self.arguments.out)


def _renamed(part: dict[str, Any]) -> dict[str, Any]:
    found = {PEER if key == "bare" else key: value for key, value in part.items()}
    if "prompt_tokens" in found:
        found["prompt_tokens"] = _renamed(found["prompt_tokens"])
    return found


def summary(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['tier']}, weights {report['weights']}, vLLM's server beside ours"]
    for part in report["comparisons"]:
        lines.append(f"{part['side']} px, {part['in_flight']} in flight:")
        for name in ("served", PEER):
            one = part[name]
            lines.append(
                f"  {name}: {one['requests_per_second']}/s, p50 {one['milliseconds_p50']} ms, "
                f"p99 {one['milliseconds_p99']} ms, {one['cpu_milliseconds_per_request']} ms of processor a request"
            )
        lines.append(
            f"  ours: {shown(part['throughput_ratio'])} times its throughput, {shown(part['latency_added_ms'])} ms more"
        )
    for found in report["agreement"]:
        verdict = "agree" if found["within_tolerance"] else "DO NOT AGREE: the comparison is void"
        tokens = found["prompt_tokens"]
        lines.append(
            f"{found['side']} px: {verdict} (largest difference {found['largest_difference']}, answers spread "
            f"{found['spread']}; prompt of {tokens['served']} tokens, of {tokens[PEER]} there)"
        )
    return "\n".join(lines)
