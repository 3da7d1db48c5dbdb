"""Sides of an ablation measured in turn, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from roadwork_bench.ablations.settings import Settings
from roadwork_bench.bare import run_block
from roadwork_bench.errors import BenchError
from roadwork_bench.medians import median_interval
from roadwork_bench.output import saying
from roadwork_bench.served import REQUEST_SECONDS, Block
from roadwork_bench.tiers.cpu_time import cpu_seconds

WARM_SECONDS = 1.0
QUANTILES = {"milliseconds_p50": 0.5, "milliseconds_p95": 0.95, "milliseconds_p99": 0.99}


@dataclass(frozen=True)
class Timed:
    """A block of one side. cpu: seconds that the server's processes computed meanwhile; None where there is none."""

    block: Block
    cpu: float | None = None

    @property
    def cpu_an_image(self) -> float | None:
        return None if self.cpu is None else self.cpu / len(self.block.latencies)


Side = Callable[[float], Timed]


@dataclass
class Asker:
    """Requests to a running server. `processes`: whose CPU time counts."""

    url: str
    processes: Sequence[int]

    def __post_init__(self) -> None:
        self.client = grpc.InferenceServerClient(self.url)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def block(self, model: str, requests: Sequence[list[Any]], seconds: float, in_flight: int) -> Timed:
        """Keep `in_flight` requests on their way for about `seconds`; all of them are waited for."""
        before = cpu_seconds(self.processes)
        block = run_block(lambda inputs: self._ask(model, inputs), requests, seconds, in_flight)
        return Timed(block, cpu_seconds(self.processes) - before)

    def answer(self, model: str, inputs: list[Any], outputs: Sequence[str]) -> list[np.ndarray]:
        """These outputs of one request."""
        answer = self._ask(model, inputs)
        return [answer.as_numpy(name) for name in outputs]

    def _ask(self, model: str, inputs: list[Any]) -> Any:
        try:
            return self.client.infer(model, inputs, client_timeout=REQUEST_SECONDS)
        except InferenceServerException as error:
            raise BenchError(f"the server failed a request to {model}: {error.message()}") from error


def image_requests(images: Sequence[bytes]) -> list[list[Any]]:
    """The input `image` BYTES [1, 1] of each encoded image."""
    requests = []
    for image in images:
        tensor = grpc.InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[image]], np.object_))
        requests.append([tensor])
    return requests


def canvas_requests(canvases: np.ndarray) -> list[list[Any]]:
    """The input `canvas` [1, 640, 640, 3] of each canvas, in the array's own type, within the request itself."""
    kind = {"uint8": "UINT8", "float32": "FP32"}[str(canvases.dtype)]
    requests = []
    for canvas in canvases:
        tensor = grpc.InferInput("canvas", [1, *canvas.shape], kind)
        tensor.set_data_from_numpy(canvas[None])
        requests.append([tensor])
    return requests


def in_turn(sides: Mapping[str, Side], rounds: int, seconds: float) -> dict[str, list[Timed]]:
    """Side -> its blocks. Every round has each side once; every second round goes backwards, so that drift cancels."""
    found: dict[str, list[Timed]] = {name: [] for name in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in order:
            found[name].append(sides[name](seconds))
    return found


def row(name: str, blocks: Sequence[Timed], **more: Any) -> dict[str, Any]:
    """What one side did over all its blocks."""
    latencies = np.concatenate([timed.block.latencies for timed in blocks]) * 1000
    seconds = sum(timed.block.seconds for timed in blocks)
    found = {"what": name, **more, "images": len(latencies)}
    found |= {key: round(float(np.quantile(latencies, level)), 2) for key, level in QUANTILES.items()}
    found["images_per_second"] = round(len(latencies) / seconds, 3)
    used = [timed.cpu for timed in blocks if timed.cpu is not None]
    if used:
        found["cpu_milliseconds_an_image"] = round(1000 * sum(used) / len(latencies), 2)
    return found


def ratios(blocks: Mapping[str, Sequence[Timed]], first: str, second: str, **more: Any) -> list[dict[str, Any]]:
    """First over second in latency, throughput and CPU time an image: medians of neighbouring blocks' ratios, with
    paired-bootstrap intervals.
    """
    pairs = list(zip(blocks[first], blocks[second], strict=True))
    measures: dict[str, list[float]] = {
        "latency": [a.block.median / b.block.median for a, b in pairs],
        "throughput": [a.block.throughput / b.block.throughput for a, b in pairs],
    }
    cpu = [(a.cpu_an_image, b.cpu_an_image) for a, b in pairs]
    if all(a and b for a, b in cpu):
        measures["CPU time"] = [a / b for a, b in cpu if a and b]
    return [
        {"measure": name, "first": first, "second": second, **more, **median_interval(values)}
        for name, values in measures.items()
    ]


def side_by_side(
    asker: Asker,
    models: Mapping[str, str],
    requests: Sequence[list[Any]] | Mapping[str, Sequence[list[Any]]],
    settings: Settings,
    where: str | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and ratios of two sides (side -> model) at every number in flight. `requests` of both, or of each side."""
    first, second = models
    rows, compared = [], []

    def side(name: str, in_flight: int) -> Side:
        mine = requests[name] if isinstance(requests, Mapping) else requests
        return lambda seconds: asker.block(models[name], mine, seconds, in_flight)

    for in_flight in settings.in_flight:
        sides = {name: side(name, in_flight) for name in models}
        for warm in sides.values():
            warm(min(WARM_SECONDS, settings.block))
        rounds = settings.rounds(len(sides))
        told = f"{where or ', '.join(models)}, {in_flight} in flight"
        saying(f"{told}: {rounds} rounds of {len(sides)} blocks of {settings.block:g} s")
        blocks = in_turn(sides, rounds, settings.block)
        more: dict[str, Any] = {"where": where} if where else {}
        more["in_flight"] = in_flight
        rows += [row(name, timed, **more) for name, timed in blocks.items()]
        compared += ratios(blocks, first, second, **more)
    return rows, compared


def outcome(
    answer: str, rows: list[dict[str, Any]], compared: list[dict[str, Any]], notes: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """What an ablation hands back: the answer in one sentence, a row for each side, ratios, and what else is to say."""
    return {"answer": answer, "rows": rows, "ratios": compared, "notes": list(notes), **more}


def found(compared: Sequence[Mapping[str, Any]], measure: str, in_flight: int) -> str:
    """A ratio in words, such as `1.020 (1.010 to 1.040)`."""
    one = next(r for r in compared if r["measure"] == measure and r.get("in_flight") == in_flight)
    low, high = one["interval_95"]
    return f"{one['median']:.3f} ({low:.3f} to {high:.3f})"


def same_answers(asker: Asker, requests: Sequence[list[Any]], sides: Mapping[str, Sequence[str]]) -> None:
    """Raise BenchError unless every model of `sides` (name -> its outputs, in one order) answers alike: one that is
    quicker with other answers proves nothing.
    """
    (first, wanted), *others = sides.items()
    for number, inputs in enumerate(requests):
        expected = asker.answer(first, inputs, wanted)
        for name, outputs in others:
            for one, two, output in zip(expected, asker.answer(name, inputs, outputs), outputs, strict=True):
                if not np.allclose(one, two, rtol=1e-4, atol=1e-3):
                    raise BenchError(f"{name} answers image {number} otherwise than {first} in {output}")
