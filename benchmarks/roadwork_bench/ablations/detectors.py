"""One detector to ten: what each more costs, in the server and in a bare process with the same networks."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from roadwork_bench.ablations.measuring import Asker, Side, Timed, canvas_requests, in_turn, outcome, row
from roadwork_bench.ablations.settings import Settings
from roadwork_bench.ablations.workshop import workshop
from roadwork_bench.bare import run_block
from roadwork_bench.inprocess import onnx_session
from roadwork_bench.medians import median_interval
from roadwork_bench.networks import some_canvases
from roadwork_bench.output import saying

QUESTION = "Does adding a detector cost its own inference time and at most 3 ms?"
LIMIT_MS = 3.0
SERVED, BARE = "served", "bare"


def measure(settings: Settings) -> dict[str, Any]:
    """Growth of the latency of `perception` with 1 to `most` copies of one network, against the growth of a bare
    process that runs as many sessions at once in as many threads.

    Each copy has its own process in the server and its own session in the bare one, all with one thread. `added`
    has, by number of copies: milliseconds that each copy after the first added (served, bare, and the difference,
    which is what the server adds to a detector's own inference time).
    """
    counts = sorted({1, 2, (settings.most + 2) // 2, settings.most})
    with workshop(settings.repository) as shop:
        copies = [shop.member(settings.network, f"{settings.network}_{k}") for k in range(1, settings.most + 1)]
        models = {count: shop.ensemble(f"perception_{count}", copies[:count]) for count in counts}
        paths = [shop.folder / name / "1" / "model.onnx" for name in copies]
        bare = BareCopies([onnx_session(path, 1) for path in paths])
        canvases = some_canvases(8)
        requests = canvas_requests(canvases)
        try:
            with shop.server([*models.values()]) as server, Asker(server.grpc_url, [server.pid]) as asker:
                sides: dict[str, Side] = {}
                for count in counts:
                    sides[f"{SERVED} {count}"] = lambda s, model=models[count]: asker.block(model, requests, s, 1)  # type: ignore[misc]
                    sides[f"{BARE} {count}"] = lambda s, count=count: bare.block(canvases, count, s)  # type: ignore[misc]
                rounds = settings.rounds(len(sides))
                saying(f"detectors: copies of {settings.network}, {rounds} rounds of {len(sides)} blocks")
                blocks = in_turn(sides, rounds, settings.block)
        finally:
            bare.close()
    rows = []
    for side in (SERVED, BARE):
        rows += [row(side, blocks[f"{side} {count}"], detectors=count, in_flight=1) for count in counts]
    added = {str(count): growth(blocks, count) for count in counts[1:]}
    own, last = (added[str(counts[-1])][side] for side in (BARE, "server"))
    low, high = last["interval_95"]
    answer = (
        f"From 1 to {counts[-1]} copies of {settings.network}, each adds {own['median']:.2f} ms in a bare process and "
        f"{last['median']:.2f} ms ({low:.2f} to {high:.2f}) more than that in the server; at most {LIMIT_MS:g} ms "
        f"was wanted: {'reached' if last['median'] <= LIMIT_MS else 'not reached'}."
    )
    return outcome(answer, rows, [], network=settings.network, added=added, limit_ms=LIMIT_MS)


def growth(blocks: dict[str, list[Timed]], count: int) -> dict[str, Any]:
    """Milliseconds of latency that each copy after the first added, round by round, with intervals over the rounds."""
    slopes = {}
    for side in (SERVED, BARE):
        few, many = blocks[f"{side} 1"], blocks[f"{side} {count}"]
        slopes[side] = np.array(
            [1000 * (b.block.median - a.block.median) / (count - 1) for a, b in zip(few, many, strict=True)]
        )
    return {
        SERVED: median_interval(slopes[SERVED].tolist()),
        BARE: median_interval(slopes[BARE].tolist()),
        "server": median_interval((slopes[SERVED] - slopes[BARE]).tolist()),
    }


class BareCopies:
    """Sessions of one network in this process, run at the same time on one canvas."""

    def __init__(self, sessions: list[Any]) -> None:
        self._sessions = sessions
        self._pool = ThreadPoolExecutor(len(sessions))

    def close(self) -> None:
        self._pool.shutdown()

    def block(self, canvases: np.ndarray, count: int, seconds: float) -> Timed:
        """The first `count` of them on one canvas after the other."""
        first, *others = self._sessions[:count]

        def look(canvas: np.ndarray) -> None:
            given = {"canvas": canvas[None]}
            waiting: list[Future] = [self._pool.submit(session.run, None, given) for session in others]
            first.run(None, given)
            for future in waiting:
                future.result()

        return Timed(run_block(look, list(canvases), seconds, 1))
