"""When an engine sleeps, with an engine that does nothing but take its time: no request meets one that falls asleep."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vllm_bed
from vllm_bed import QUESTION, EngineBed
from vllm_memory import Memory
from vllm_metrics import Metrics
from vllm_sleep import CannotWake, Sleeper, State

AFTER = 0.05
TAKES = 0.1
LONG = 5.0  # seconds that nothing here takes


class Slow:
    """An engine that takes TAKES to fall asleep and to wake up, and notes it when it is asked while it does not run."""

    def __init__(self) -> None:
        self.awake = True
        self.busy = False
        self.falls = self.wakes = self.asked = 0
        self.fail: Exception | None = None

    async def sleep(self) -> None:
        await self._take()
        self.falls += 1
        self.awake = False

    async def wake_up(self) -> None:
        await self._take()
        self.wakes += 1
        self.awake = True

    async def _take(self) -> None:
        assert not self.busy
        self.busy = True
        try:
            await asyncio.sleep(TAKES)
            if self.fail is not None:
                raise self.fail
        finally:
            self.busy = False

    def ask(self) -> None:
        assert self.awake
        assert not self.busy
        self.asked += 1


class Night:
    """A sleeper of a `Slow` engine, and what it told."""

    def __init__(self) -> None:
        self.engine = Slow()
        self.told: list[State] = []
        self.seconds: list[float] = []
        self.broken: list[str] = []
        self.sleeper = Sleeper(AFTER, self.engine, self._broken, self._told)
        self.sleeper.start()

    def _told(self, state: State, seconds: float | None) -> None:
        self.told.append(state)
        self.seconds += [] if seconds is None else [seconds]

    def _broken(self, why: str) -> None:
        self.broken.append(why)
        self.sleeper.stop()

    async def ask(self, seconds: float = 0.0) -> None:
        async with self.sleeper.awake():
            self.engine.ask()
            await asyncio.sleep(seconds)
            self.engine.ask()

    async def until(self, state: State) -> None:
        deadline = time.monotonic() + LONG
        while self.sleeper.state != state:
            assert time.monotonic() < deadline, f"{state}: it is {self.sleeper.state}"
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of GPUs are files, here the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
async def night() -> AsyncIterator[Night]:
    made = Night()
    yield made
    made.sleeper.stop()


async def test_it_falls_asleep_when_nobody_asks_and_wakes_for_the_next(night: Night) -> None:
    await night.until("asleep")
    await night.ask()
    assert (night.engine.falls, night.engine.wakes, night.engine.asked) == (1, 1, 2)
    await night.until("asleep")
    assert night.told == ["awake", "falling asleep", "asleep", "waking", "awake", "falling asleep", "asleep"]
    assert len(night.seconds) == 1
    assert TAKES <= night.seconds[0] < LONG


async def test_a_request_keeps_it_awake_however_long_it_takes(night: Night) -> None:
    long = asyncio.create_task(night.ask(6 * AFTER))
    for _ in range(5):
        await night.ask()
        await asyncio.sleep(AFTER)
    await long
    assert night.engine.falls == 0
    await night.until("asleep")


async def test_many_at_once_wake_it_once(night: Night) -> None:
    await night.until("asleep")
    await asyncio.gather(*(night.ask(0.01) for _ in range(50)))
    assert (night.engine.wakes, night.engine.asked) == (1, 100)


async def test_a_request_that_comes_while_it_falls_asleep_waits_and_wakes_it(night: Night) -> None:
    await night.until("falling asleep")
    await night.ask()
    assert (night.engine.falls, night.engine.wakes) == (1, 1)


async def test_requests_that_come_at_any_moment_never_meet_it_asleep(night: Night) -> None:
    for step in range(12):
        await asyncio.sleep(step * (AFTER + TAKES) / 8)
        await night.ask()
    assert night.engine.asked == 24
    assert night.engine.falls >= 2


async def test_one_that_gives_up_leaves_the_waking_to_the_others(night: Night) -> None:
    await night.until("asleep")
    hasty, patient = asyncio.create_task(night.ask()), asyncio.create_task(night.ask())
    await night.until("waking")
    hasty.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hasty
    await patient
    assert (night.engine.wakes, night.engine.asked) == (1, 2)
    await night.until("asleep")  # the one that gave up does not count as under way


async def test_woken_for_nobody_it_falls_asleep_again(night: Night) -> None:
    await night.until("asleep")
    hasty = asyncio.create_task(night.ask())
    await night.until("waking")
    hasty.cancel()
    await night.until("awake")
    await night.until("asleep")
    assert (night.engine.wakes, night.engine.asked) == (1, 0)


async def test_where_there_is_no_room_every_request_is_told_and_the_next_tries_again(night: Night) -> None:
    await night.until("asleep")
    night.engine.fail = CannotWake("others hold the rest")
    for told in await asyncio.gather(*(night.ask() for _ in range(3)), return_exceptions=True):
        assert isinstance(told, CannotWake)
        assert str(told) == "others hold the rest"
    assert (night.sleeper.state, night.broken) == ("asleep", [])
    night.engine.fail = None
    await night.ask()
    assert night.engine.wakes == 1


@pytest.mark.parametrize("state", ["falling asleep", "asleep"])
async def test_an_engine_that_goes_wrong_is_given_up_and_begins_anew(night: Night, state: State) -> None:
    await night.until(state)
    night.engine.fail = MemoryError("out\nof memory")
    with pytest.raises(CannotWake, match="MemoryError: out of memory"):
        await night.ask()
    what = "fall asleep" if state == "falling asleep" else "wake up"
    assert night.broken == [f"it did not {what}: MemoryError: out of memory"]
    with pytest.raises(CannotWake, match="is being stopped"):
        await night.ask()
    night.engine = night.sleeper._bed = Slow()  # what a restart brings
    night.sleeper.start()
    await night.ask()
    assert (night.engine.asked, night.sleeper.state) == (2, "awake")


@pytest.mark.parametrize("state", ["falling asleep", "waking", "asleep", "awake"])
async def test_stopped_at_any_moment_nobody_waits_and_nothing_is_left(night: Night, state: State) -> None:
    waiting: list[asyncio.Task[None]] = []
    if state == "waking":
        await night.until("asleep")
        waiting.append(asyncio.create_task(night.ask()))
    await night.until(state)
    if state == "falling asleep":
        waiting.append(asyncio.create_task(night.ask()))
        await asyncio.sleep(0)
    night.sleeper.stop()
    for task in waiting:
        with pytest.raises(CannotWake, match="is being stopped"):
            await asyncio.wait_for(task, LONG)
    await asyncio.sleep(AFTER + TAKES)
    assert len(asyncio.all_tasks()) == 1


# vLLM's side ---------------------------------------------------------------------------------------------------------
class Client:
    """vLLM's `AsyncLLM` as far as sleeping goes: what it holds of the GPU, what was called, and what it answers."""

    def __init__(self, gpu: dict[str, int], holds: int) -> None:
        self.gpu, self.holds, self.calls = gpu, holds, list[Any]()
        self.logprobs = {7: -0.1, 8: -3.0}
        self.renderer = self

    async def sleep(self, level: int) -> None:
        self.calls.append(level)
        self.gpu["free"] += self.holds

    async def wake_up(self, tags: list[str] | None = None) -> None:
        self.calls.append(tags)
        self.gpu["free"] -= self.holds if tags in (None, ["kv_cache"]) else 0

    async def collective_rpc(self, method: str) -> None:
        self.calls.append(method)

    async def render_cmpl_async(self, prompts: list[Any]) -> list[Any]:
        return [("rendered", prompt) for prompt in prompts]

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        assert prompt == ("rendered", {"prompt_token_ids": list(QUESTION)})
        self.calls.append("asked")
        found = {token: SimpleNamespace(logprob=value) for token, value in self.logprobs.items()}
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=[found])])


def memory(gpu: dict[str, int], name: str) -> Memory:
    """NVML of one GPU."""
    nvml = SimpleNamespace(
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid, nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(**gpu)
    )
    return Memory(nvml, [name])


async def test_level_1_gives_memory_back_and_takes_it_again() -> None:
    gpu = {"free": 10}
    client = Client(gpu, 40)
    bed = EngineBed(lambda: client, 1, memory(gpu, "test-one"))
    await bed.sleep()
    assert gpu["free"] == 50
    await bed.wake_up()
    assert gpu["free"] == 10
    assert client.calls == [1, None]


async def test_level_2_reads_the_weights_between_their_memory_and_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_bed, "one_token", lambda: None)  # vLLM takes seconds to import
    gpu = {"free": 10}
    client = Client(gpu, 40)
    bed = EngineBed(lambda: client, 2, memory(gpu, "test-two"))
    await bed.sleep()
    await bed.wake_up()
    assert client.calls == ["asked", 2, ["weights"], "reload_weights", ["kv_cache"], "asked"]


@pytest.mark.parametrize("after", [{7: -0.5, 8: -3.0}, {8: -0.1}, {7: float("nan")}])
async def test_weights_that_level_2_has_lost_are_noticed(
    monkeypatch: pytest.MonkeyPatch, after: dict[int, float]
) -> None:
    monkeypatch.setattr(vllm_bed, "one_token", lambda: None)
    gpu = {"free": 10}
    client = Client(gpu, 40)
    bed = EngineBed(lambda: client, 2, memory(gpu, "test-lost"))
    await bed.sleep()
    client.logprobs = after
    with pytest.raises(RuntimeError, match=r"do not survive SLEEP_LEVEL 2; set 1 in config\.pbtxt"):
        await bed.wake_up()


async def test_it_waits_for_room_and_says_how_much_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_bed, "ROOM_SECONDS", 0.2)
    gpu = {"free": 10_000_000_000}
    client = Client(gpu, 40_000_000_000)
    bed = EngineBed(lambda: client, 1, memory(gpu, "test-three"))
    await bed.sleep()
    gpu["free"] -= 20_000_000_000  # another model is there now
    with pytest.raises(CannotWake, match=r"needs 40\.0 GB of GPU test-three, where 30\.0 GB are free: others hold"):
        await bed.wake_up()
    assert client.calls == [1]
    waiting = asyncio.create_task(bed.wake_up())
    await asyncio.sleep(0.05)
    gpu["free"] += 20_000_000_000
    await waiting
    assert client.calls == [1, None]


async def test_engines_on_one_gpu_take_turns() -> None:
    gpu = {"free": 0}
    first, second = memory(gpu, "test-four"), memory(gpu, "test-four")
    order: list[str] = []

    async def use(who: Memory, name: str) -> None:
        async with who.alone():
            order.append(name)
            await asyncio.sleep(0.05)
            order.append(name)

    await asyncio.wait_for(asyncio.gather(use(first, "a"), use(second, "b"), use(first, "c")), LONG)
    assert order[0::2] == order[1::2]


def test_states_and_wake_times_become_metrics() -> None:
    told: dict[str, list[float]] = {}

    def families(name: str, description: str, kind: str) -> Any:
        add = told.setdefault(name, []).append
        metric = SimpleNamespace(increment=add, set=add, observe=add)
        return SimpleNamespace(Metric=lambda labels, buckets=None: metric)

    for kind in ("COUNTER", "GAUGE", "HISTOGRAM"):
        setattr(families, kind, kind)
    metrics = Metrics(families, {"model": "tier"}, 100)
    metrics.slept("asleep", None)
    metrics.slept("awake", 1.5)
    metrics.close()
    assert told["roadwork_tier_state"][-1] == 0
    assert told["roadwork_tier_wake_seconds"] == [1.5]
