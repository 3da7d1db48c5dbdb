"""`roadwork-bench tier`: a tier through Triton against the same vLLM engine called directly, on distinct images."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roadwork_deploy.errors import DeployError

from roadwork_bench.about import CHECKOUT, about
from roadwork_bench.errors import BenchError
from roadwork_bench.output import save_report, saying
from roadwork_bench.pairs import in_pairs
from roadwork_bench.tiers.agreement import agree
from roadwork_bench.tiers.cpu_time import cpu_seconds
from roadwork_bench.tiers.folder import (
    Variant,
    bare_settings,
    read_tier,
    read_variant,
    served_settings,
)
from roadwork_bench.tiers.images import images_needed, make_images
from roadwork_bench.tiers.sides import BareSide, ServedSide, Side
from roadwork_bench.tiers.summary import summary
from roadwork_bench.tiers.timing import Requests, compare, figures
from roadwork_bench.tiers.watch import Watch

COMPARED, COMPARED_SEED, WARM_SEED = 24, 1, 2
WARM_SECONDS = 1.5
LEAST_LATENCY = 0.012  # seconds: no answer is expected sooner, which bounds how many images a block can use up


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="folder of the tier")
    parser.add_argument("--model-repository", type=Path, default=CHECKOUT / "model_repository")
    parser.add_argument("--side", help="pixels of the square images, such as 224,448; by default the prompt's max_side")
    parser.add_argument(
        "--in-flight", default="1,4,8", help="requests on their way: 1 gives latency, the last saturates"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each block")
    parser.add_argument(
        "--pairs", type=int, default=6, help="of blocks, the sides changing places (not with --in-turn)"
    )
    parser.add_argument("--in-turn", action="store_true", help="one side after the other: they do not fit side by side")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help='how it is served: {"instances": 2, "engine": {settings}}; only with --in-turn more than once',
    )
    parser.add_argument(
        "--bare", default="{}", metavar="JSON", help="engine settings of the bare side, on top of defaults"
    )
    parser.add_argument("--clients", type=int, default=1, help="processes that ask the served side")
    parser.add_argument("--images", type=int, default=3000, help="most images of a block")
    parser.add_argument(
        "--tolerance", type=float, default=0.02, help="of the probability, within which the sides agree"
    )
    parser.add_argument("--startup-timeout", type=float, default=300.0, help="seconds for each side")
    parser.add_argument("--stop-after", type=float, help="seconds after which no further variant is begun")
    parser.add_argument("--logs", type=Path, help="folder that keeps the logs of engine, server and clients")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--out", type=Path, help="write that object to a file, after every step")


def run(arguments: argparse.Namespace, command: str) -> int:
    """1 where the sides do not agree or none could be asked: there is then nothing to compare."""
    comparison = Comparison(arguments, command)
    with comparison.folder():
        comparison.measure()
    print(summary(comparison.report))
    if arguments.json:
        print(json.dumps(comparison.report))
    return status(comparison.report)


def status(report: dict[str, Any]) -> int:
    """Exit status of a finished comparison."""
    agreed = [found["within_tolerance"] for found in report["agreement"]]
    return 0 if agreed and all(agreed) else 1


class Comparison:
    """One run of the command; `report` grows step by step."""

    def __init__(self, arguments: argparse.Namespace, command: str) -> None:
        self.arguments = arguments
        self.subject = read_tier(arguments.model_repository.resolve(), arguments.name)
        self.variants = [read_variant(text) for text in arguments.variant] or [Variant("served")]
        if len(self.variants) > 1 and not arguments.in_turn:
            raise BenchError("several variants are measured with --in-turn")
        self.in_flight = numbers(arguments.in_flight, "--in-flight")
        sides = arguments.side or str(self.subject.prompt.image.max_side)
        self.sides = numbers(sides, "--side")
        self.began = time.monotonic()
        self._watch = Watch()
        self.on_cpu = self._watch.gpu_name is None
        try:
            changes = json.loads(arguments.bare)
        except ValueError as error:
            raise BenchError(f"--bare is JSON ({error})") from None
        self._bare_engine = bare_settings(self.subject.engine, self.on_cpu, changes)
        self.report = self._head(command)

    def _head(self, command: str) -> dict[str, Any]:
        return {
            "about": about(command),
            "gpu": self._watch.gpu_name,
            "tier": self.subject.name,
            "weights": "random" if self.subject.random_weights else "of its folder",
            "question": {"max_tokens": 1, "tokens": sorted({*self.subject.prompt.yes, *self.subject.prompt.no})},
            "images": {"kind": "distinct windows of rendered scenes", "sides": self.sides},
            "bare_engine": named(self._bare_engine),
            "served": [
                {
                    "variant": variant.name,
                    "instances": variant.instances,
                    "environment": dict(variant.environment),
                    "engine": named(served_settings(self.subject.engine, variant)),
                }
                for variant in self.variants
            ],
            "agreement": [],
            "comparisons": [],
            "failures": [],
        }

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Where images and logs are for as long as it lasts."""
        with tempfile.TemporaryDirectory(prefix="roadwork-tier-") as name:
            self._images = Path(name)
            self._logs = self.arguments.logs or Path(name)
            self._logs.mkdir(parents=True, exist_ok=True)
            try:
                yield self._images
            finally:
                self._watch.close()

    def measure(self) -> None:
        bare = BareSide(self.subject, self._bare_engine, self._logs)
        try:
            if self.arguments.in_turn:
                self._in_turn(bare)
            else:
                self._side_by_side(bare)
        finally:
            bare.close()

    # Side by side ----------------------------------------------------------------------------------------------------
    def _side_by_side(self, bare: BareSide) -> None:
        self._wait(bare)
        served = self._serve(self.variants[0])
        try:
            for side in self.sides:
                self._agree(self.variants[0], side, self._answers(bare, side), self._answers(served, side))
                for number in self.in_flight:
                    self._pairs(bare, served, side, number)
        finally:
            served.close()

    def _pairs(self, bare: Side, served: Side, side: int, number: int) -> None:
        seconds = self.arguments.seconds
        count = self._needed(number, WARM_SECONDS)
        warm = self._set(WARM_SEED, number, side, count)
        rate = max(s.block(warm, number, WARM_SECONDS).throughput for s in (bare, served))
        count = min(self.arguments.images, round(1.5 * rate * seconds) + 6 * number + 8)
        files: dict[int, Path] = {}

        def images(pair: int) -> Path:
            """A set of its own for each pair, and the same one for both of its sides."""
            if pair not in files:
                files[pair] = self._set(100 + pair, number, side, count)
            return files[pair]

        saying(f"{side} px, {number} in flight: {self.arguments.pairs} pairs of {seconds:g} s")
        blocks = in_pairs(
            lambda pair: self._measured(bare, images(pair), number, seconds),
            lambda pair: self._measured(served, images(pair), number, seconds),
            self.arguments.pairs,
        )
        self._add({"side": side, "in_flight": number, "variant": self.variants[0].name, **compare(blocks)})

    # In turn ---------------------------------------------------------------------------------------------------------
    def _in_turn(self, bare: BareSide) -> None:
        for side in self.sides:  # while the engine starts; every engine is a new one, so all may see the same images
            self._compared(side)
            for number in self.in_flight:
                self._set(100, number, side, self._needed(number, self.arguments.seconds))
                self._set(WARM_SEED, number, side, self._needed(number, WARM_SECONDS))
        self._wait(bare)
        answers = {side: self._answers(bare, side) for side in self.sides}
        blocks = {(side, n): self._block(bare, side, n) for side in self.sides for n in self.in_flight}
        for (side, number), block in blocks.items():
            self._add({"side": side, "in_flight": number, "variant": None, "bare": figures([block])})
        bare.close()
        for variant in self.variants:
            spent = time.monotonic() - self.began
            if self.arguments.stop_after is not None and spent > self.arguments.stop_after:
                self._failed(variant, f"not begun: {spent:.0f} s had passed")
                continue
            try:
                self._one_variant(variant, answers, blocks)
            except (BenchError, DeployError, OSError) as error:
                self._failed(variant, str(error))

    def _one_variant(self, variant: Variant, answers: dict[int, Any], blocks: dict[tuple[int, int], Requests]) -> None:
        served = self._serve(variant)
        try:
            for side in self.sides:
                self._agree(variant, side, answers[side], self._answers(served, side))
                for number in (n for n in self.in_flight if n in (variant.in_flight or self.in_flight)):
                    pair = (blocks[side, number], self._block(served, side, number))
                    self._add({"side": side, "in_flight": number, "variant": variant.name, **compare([pair])})
        finally:
            served.close()

    def _block(self, side: Side, pixels: int, number: int) -> Requests:
        side.block(self._set(WARM_SEED, number, pixels, self._needed(number, WARM_SECONDS)), number, WARM_SECONDS)
        images = self._set(100, number, pixels, self._needed(number, self.arguments.seconds))
        block = self._measured(side, images, number, self.arguments.seconds)
        saying(f"{pixels} px, {number} in flight: {block.throughput:.1f}/s, {block.median * 1000:.1f} ms")
        return block

    def _measured(self, side: Side, images: Path, number: int, seconds: float) -> Requests:
        before = cpu_seconds(side.pids)
        block = side.block(images, number, seconds)
        spent = cpu_seconds(side.pids) - before
        block.measured["cpu_milliseconds_per_request"] = round(1000 * spent / len(block.ends), 2)
        block.measured.update(self._watch.between(*block.window))
        return block

    # Parts -----------------------------------------------------------------------------------------------------------
    def _wait(self, bare: BareSide) -> None:
        saying("starting the bare engine")
        bare.wait(self.arguments.startup_timeout)
        self.report["bare_start"] = bare.started
        saying(f"it took {bare.started['seconds']} s")

    def _serve(self, variant: Variant) -> ServedSide:
        saying(f"starting the tier in Triton: {variant.name}")
        clients, timeout = self.arguments.clients, self.arguments.startup_timeout
        served = ServedSide(self.subject, variant, clients, timeout, self._logs)
        saying(f"it took {served.started['seconds']} s")
        next(item for item in self.report["served"] if item["variant"] == variant.name)["start"] = served.started
        return served

    def _answers(self, side: Side, pixels: int) -> dict[str, Any]:
        return side.answers(self._compared(pixels))

    def _agree(self, variant: Variant, side: int, bare: dict[str, Any], served: dict[str, Any]) -> None:
        prompt = self.subject.prompt
        yes, no = list(prompt.yes.values()), list(prompt.no.values())
        found = agree(bare["answers"], served["answers"], yes, no, self.arguments.tolerance)
        found["prompt_tokens"] = {"bare": bare["input_tokens"], "served": served["input_tokens"]}
        found["within_tolerance"] &= bare["input_tokens"] == served["input_tokens"]
        self.report["agreement"].append({"variant": variant.name, "side": side, **found})
        saying(f"{side} px: answers differ by at most {found['largest_difference']} (spread {found['spread']})")
        self._save()

    def _needed(self, number: int, seconds: float) -> int:
        return images_needed(number, seconds, LEAST_LATENCY, self.arguments.images)

    def _compared(self, side: int) -> Path:
        return self._set(COMPARED_SEED, 0, side, COMPARED)

    def _set(self, seed: int, number: int, side: int, count: int) -> Path:
        path = self._images / f"{seed}-{number}-{side}-{count}.images"
        if not path.exists():
            make_images(path, seed * 1000 + number, count, side, self.subject.prompt.image.quality)
        return path

    def _add(self, found: dict[str, Any]) -> None:
        self.report["comparisons"].append(found)
        self._save()

    def _failed(self, variant: Variant, why: str) -> None:
        saying(f"{variant.name}: {why}")
        self.report["failures"].append({"variant": variant.name, "why": why[:2000]})
        self._save()

    def _save(self) -> None:
        if self.arguments.out:
            save_report(self.report, self.arguments.out)


def named(engine: dict[str, Any]) -> dict[str, Any]:
    """Settings without this machine's folders."""
    return {key: Path(value).name if str(value).startswith("/") else value for key, value in engine.items()}


def numbers(text: str, flag: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise BenchError(f"{flag} is a list of whole numbers such as 1,8, got {text!r}") from None
    if min(found) < 1:
        raise BenchError(f"{flag} has a number under 1: {text!r}")
    return found
