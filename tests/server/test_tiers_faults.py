"""Tiers whose engine dies, has too many callers, or whose caller goes away: verdicts come, and no work is left over."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from roadwork_client import AsyncRoadworkClient, Verdict
from roadwork_client.wire import MAX_MESSAGE_BYTES, Connection, Deadline, Wishes
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

pytest.importorskip("vllm", reason="vLLM is not installed (python -m roadwork_deploy.install_vllm)")
sys.path.append(str(Path(__file__).parent))
from tier_policy import DEADLINE, FAST, REASON, REASONER, START, check, outcomes, talkative

if TYPE_CHECKING:
    from tier_policy import Cascade, TierServer

pytestmark = pytest.mark.timeout(500)
CROWD = 100
CROWD_SECONDS = (6.0, 20.0)  # first and last deadline in a crowd
ON_THE_WAY = 5.0  # seconds; a hundred streams on two cores: a verdict that is there in time may come later
LEAVE_SECONDS = 3.0  # metrics are told once a second, and callers that leave are noticed four times a second


def generated(tiers: TierServer) -> float:
    """Tokens that the reasoner's engine has made so far."""
    return tiers.metric("vllm:generation_tokens_total", model=REASONER)


def breaker(tiers: TierServer, cascade: str) -> float:
    """Of the reasoner: 0 closed, 1 half open, 2 open."""
    return tiers.metric("roadwork_breaker_state", model=REASONER, instance=f"{cascade}_0_0")


# An engine dies -------------------------------------------------------------------------------------------------------
def test_an_engine_that_dies_in_mid_request(tiers: TierServer, wait_until: Callable) -> None:
    """The verdict comes without it, then nobody waits for it any more, and loaded again it is asked again."""
    with tiers.cascade("falling", REASON, FAST, prompts={REASONER: talkative(400)}) as cascade:
        verdict = killed_while_it_speaks(tiers, cascade)
        check(verdict)
        assert verdict.status == "degraded"
        assert outcomes(verdict) == {"reason": "failed", "fast": "answered"}
        (gap,) = verdict.missing
        assert (gap.member, gap.reason) == (REASONER, "error")
        assert gap.detail == f"{REASONER}: its answer broke off"

        seen: list[str] = []
        while "breaker_open" not in seen:
            verdict = cascade.ask(tiers.image)
            assert verdict.status == "degraded"
            assert outcomes(verdict)["fast"] == "answered"
            seen.append(outcomes(verdict)["reason"])
            if seen[-1] == "failed":
                assert f"unavailable: the engine of {REASONER} has died" in verdict.missing[0].detail
            assert set(seen) <= {"failed", "breaker_open"}
            assert len(seen) <= 4, "its breaker stays closed"
        wait_until(lambda: breaker(tiers, "falling") > 0, 10, "the open breaker is on the metrics page")
        with tiers.client() as client:
            assert client.predict(tiers.image, tiers=False).status == "ok"

        with tiers.triton() as triton:
            triton.unload_model(REASONER, client_timeout=START)
            wait_until(lambda: not triton.is_model_ready(REASONER), 60, "the dead tier is unloaded")
            triton.load_model(REASONER, client_timeout=START)
        wait_until(lambda: outcomes(cascade.ask(tiers.image))["reason"] == "answered", 15, "it is asked again")
        wait_until(lambda: breaker(tiers, "falling") == 0, 10, "the closed breaker is on the metrics page")


def killed_while_it_speaks(tiers: TierServer, cascade: Cascade) -> Verdict:
    """The verdict on an image whose reasoner is killed at its first word."""
    engine = tiers.engine(REASONER)
    assert engine is not None
    verdict, killed = None, False
    for event in cascade.events(tiers.image):
        if event.event == "partial" and not killed:
            os.kill(engine, signal.SIGKILL)
            killed = True
        verdict = event.verdict
    assert killed
    assert verdict is not None
    return verdict


# Callers go away ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["leaves the stream", "closes the client", "has too little time"])
def test_nothing_is_done_for_a_caller_that_went_away(tiers: TierServer, wait_until: Callable, how: str) -> None:
    with tiers.cascade("leaving", REASON, prompts={REASONER: talkative()}) as cascade:
        before = generated(tiers)
        if how == "has too little time":
            assert outcomes(cascade.ask(tiers.image, deadline=4.0)) == {"reason": "timed_out"}
        else:
            with tiers.client(stream_model="leaving") as client:
                events = client.stream(tiers.image)
                assert any(event.event == "partial" for event in events)
                (client if how == "closes the client" else events).close()  # type: ignore[attr-defined]
        time.sleep(LEAVE_SECONDS)
        assert tiers.busy(REASONER) == 0
        made = generated(tiers)
        assert before < made < before + 1000  # it was asked, and would have said 1700
        time.sleep(1.0)
        assert generated(tiers) == made
        # Its caller's haste is not the tier's fault.
        assert breaker(tiers, "leaving") == 0


def test_many_callers_that_leave_do_not_use_a_tier_up(tiers: TierServer) -> None:
    """A call whose end is never told would keep its thread, and after eight of them the tier would not be asked."""
    with tiers.cascade("fickle", REASON, prompts={REASONER: talkative(100)}) as cascade:
        for _ in range(9):
            events = cascade.events(tiers.image)
            assert any(event.event == "partial" for event in events)
            events.close()  # type: ignore[attr-defined]
        assert outcomes(cascade.ask(tiers.image)) == {"reason": "answered"}


# Too many callers -----------------------------------------------------------------------------------------------------
async def test_a_crowd_at_a_tier_with_one_slot(tiers: TierServer, wait_until: Callable) -> None:
    """All at once. Each has its verdict in time, and those that want no tier do not wait for those that do."""
    hurried = {**REASON, "deadline_ms": 2000.0}
    with tiers.cascade("crowded", hurried, prompts={REASONER: talkative(100)}) as cascade:
        async with AsyncRoadworkClient(tiers.server.grpc_url) as client:
            crowd = asyncio.create_task(crowding(tiers, "crowded"))
            await asyncio.sleep(1.0)
            for _ in range(5):
                verdict = await client.predict(tiers.image, tiers=False, deadline=DEADLINE)
                assert verdict.status == "ok", verdict.missing
                assert len(verdict.answers) == 3
            told = await crowd
        assert len(told) == CROWD
        for verdict in told:
            check(verdict)
        reasons = {outcomes(verdict).get("reason", verdict.status) for verdict in told}
        assert "answered" in reasons
        assert reasons & {"timed_out", "breaker_open", "deadline"}  # it could not be for all of them
        time.sleep(LEAVE_SECONDS)  # the metrics page may be from before the last caller gave up
        wait_until(lambda: tiers.busy(REASONER) == 0, 10, "the engine is idle")
        made = generated(tiers)
        time.sleep(1.0)
        assert generated(tiers) == made
        wait_until(lambda: outcomes(cascade.ask(tiers.image))["reason"] == "answered", 20, "one caller is no crowd")


async def crowding(tiers: TierServer, model: str) -> list[Verdict]:
    """The verdicts of CROWD requests at once, each made within its deadline.

    The client itself gives up at the deadline; here it is the server that has to keep it.
    """
    connection = Connection(
        tiers.server.grpc_url,
        model="roadwork",
        stream_model=model,
        deadline=DEADLINE,
        tls=False,
        headers=None,
        max_message_bytes=MAX_MESSAGE_BYTES,
        channel_args=(),
    )

    async def one(stub: GRPCInferenceServiceStub, seconds: float) -> Verdict:
        request = connection.stream_request(tiers.image, seconds, Wishes())
        deadline, verdict = Deadline(seconds + ON_THE_WAY), None
        async for response in stub.ModelStreamInfer(iter([request]), timeout=deadline.remaining()):
            event = connection.read_stream(response, deadline)
            verdict = verdict if event is None else event.verdict
        assert verdict is not None
        assert verdict.milliseconds < seconds * 1000
        return verdict

    async with connection.open_channel(aio=True) as channel:
        stub = GRPCInferenceServiceStub(channel)
        return list(await asyncio.gather(*(one(stub, seconds) for seconds in np.linspace(*CROWD_SECONDS, CROWD))))
