"""The cascade: perceive stage by stage, deliberate where perception is not sure, stop as soon as the policy allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from roadwork_cascade import fusion
from roadwork_cascade.breaker import Breakers
from roadwork_cascade.deadline import Deadline
from roadwork_cascade.deliberate import Deliberation
from roadwork_cascade.engine import INVALID_OPTIONS, Engine, InvalidOptions
from roadwork_cascade.events import Narrator, Tell
from roadwork_cascade.options import Options, check_options
from roadwork_cascade.policy_parts import Policy
from roadwork_cascade.prompts import Prompts
from roadwork_cascade.request import Request
from roadwork_cascade.stage import StageRunner
from roadwork_cascade.taxonomy import Taxonomy, load_taxonomy
from roadwork_cascade.tier import TierRunner
from roadwork_cascade.verdict import write_verdict


class Cascade:
    """Says of one image after another whether it shows roadwork. Breakers live as long as the object.

    `versions` are the models' versions as verdicts give them, `prompts` those of the tiers (without any, every tier is
    unavailable). `perceiving` bounds how many images are perceived at a time, in the order they came; None: whoever
    calls bounds them. Unbounded, a crowd would miss the stages' deadlines together and open every breaker. All
    requests must run on one event loop at a time.
    """

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        versions: Mapping[str, str] | None = None,
        taxonomy: Taxonomy | None = None,
        prompts: Prompts | None = None,
        perceiving: int | None = None,
    ) -> None:
        self._policy = policy
        self._merged = policy.merged
        self._clock = clock
        self._versions = dict(versions or {})
        self._taxonomy = taxonomy or load_taxonomy()
        self._runner = StageRunner(policy, engine, self._taxonomy, clock)
        tiers = TierRunner(engine, self._runner.breakers, prompts or Prompts(), clock)
        self._deliberation = Deliberation(policy, tiers)
        self._slots = None if perceiving is None else asyncio.Semaphore(perceiving)

    @property
    def policy(self) -> Policy:
        """The policy that it decides by."""
        return self._policy

    @property
    def breakers(self) -> Breakers:
        """The breaker of every model asked so far."""
        return self._runner.breakers

    def warm(self) -> None:
        """Do slow imports now instead of in the first request."""
        fusion.warm()

    async def run(
        self,
        image: bytes,
        *,
        deadline_ms: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> dict[str, Any]:
        """The verdict on one encoded image, within `deadline_ms`; None leaves each option to the policy.

        `tiers` names those that may be asked (False: none), `max_tokens` and `max_cost` bound what they may take.
        Models that fail or hang only degrade the verdict. Raises `InvalidImage` for an image that cannot be decoded and
        `InvalidOptions` for an option that cannot be used.
        """
        options = _options(deadline_ms, all_stages, tiers, max_tokens, max_cost)
        return await self.decide(image, options)

    async def stream(
        self,
        image: bytes,
        *,
        deadline_ms: float | None = None,
        all_stages: bool | None = None,
        tiers: bool | Sequence[str] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """As `run`, an event a step; the last one carries the verdict.

        Closing the iterator, or cancelling who waits for it, stops the work on the image.
        """
        options = _options(deadline_ms, all_stages, tiers, max_tokens, max_cost)
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        task = asyncio.ensure_future(self.decide(image, options, events.put_nowait))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def decide(self, image: bytes, options: Options, tell: Tell | None = None) -> dict[str, Any]:
        """The verdict, while `tell` gets each event. `run` and `stream` are this with other clothes on."""
        self._check_tiers(options)
        milliseconds = options.deadline_ms or self._policy.deadline_ms
        request = Request(self._policy, self._taxonomy, image, Deadline(milliseconds / 1000.0, self._clock), options)
        narrator = Narrator(request, tell, len(self._policy.stages))
        narrator.accepted()
        if self._slots is None:
            await self._perceive(request, narrator)
        else:
            async with _turn(self._slots, request.deadline):
                await self._perceive(request, narrator)
        if self._policy.tiers and not request.done:
            await self._deliberation.run(request, narrator)
        verdict = write_verdict(request.conclusion(self._versions))
        narrator.verdict(verdict)
        return verdict

    async def _perceive(self, request: Request, narrator: Narrator) -> None:
        stages, merged = self._policy.stages, self._merged
        # Who listens wants to hear of each stage when it has answered.
        if merged is not None and not narrator.listening and (most := request.seconds_for_merged(merged)) > 0:
            request.add_merged(merged, await self._runner.ask(merged, request.shared, most), most)
            stages = stages[len(self._policy.ensembles) :]
        for stage in stages:
            seconds = request.seconds_for(stage)
            if seconds is not None:
                request.add(stage, await self._runner.ask(stage, request.shared, seconds), seconds)
                narrator.perceived(stage.name)

    def _check_tiers(self, options: Options) -> None:
        known = [tier.name for tier in self._policy.tiers]
        for name in options.tiers or ():
            if name not in known:
                listed = ", ".join(known) or "none"
                raise InvalidOptions(f"{INVALID_OPTIONS}tiers: no tier {name[:60]!r}; the policy's tiers: {listed}")


@asynccontextmanager
async def _turn(slots: asyncio.Semaphore, deadline: Deadline) -> AsyncIterator[None]:
    """Wait for one's turn, at most until the deadline: then there is no time left that could be used."""
    try:
        await asyncio.wait_for(slots.acquire(), deadline.work())
    except asyncio.TimeoutError:
        yield
        return
    try:
        yield
    finally:
        slots.release()


def _options(deadline_ms: Any, all_stages: Any, tiers: Any, max_tokens: Any, max_cost: Any) -> Options:
    return check_options(
        {
            "deadline_ms": deadline_ms,
            "all_stages": all_stages,
            "tiers": tiers,
            "max_tokens": max_tokens,
            "max_cost": max_cost,
        }
    )
