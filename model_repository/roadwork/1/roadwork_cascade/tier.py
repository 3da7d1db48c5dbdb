"""Asking one vision-language tier: its image, its prompt, its answer, one repair, and what to remember of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from roadwork_cascade import pool
from roadwork_cascade.breaker import Breakers
from roadwork_cascade.deadline import bounded
from roadwork_cascade.engine import Engine, EngineError, EngineTimeout, ModelUnavailable, RequestRefused, first_line
from roadwork_cascade.findings import findings_text
from roadwork_cascade.members import Answer, Missing, Reading
from roadwork_cascade.policy_parts import Budget, Tier
from roadwork_cascade.prompts import Prompt, PromptError, Prompts
from roadwork_cascade.request import Request
from roadwork_cascade.scoring import (
    BrokenAnswer,
    Said,
    Score,
    repair_prompt,
    score_reasoner,
    score_repair,
    score_scorer,
)
from roadwork_cascade.stage import FAIR_SHARE
from roadwork_cascade.tier_image import tier_image
from roadwork_cascade.verdict import SkipReason, TierOutcome, TierRecord

ABSENT_SECONDS = 5.0
"""A tier that is not loaded is left alone for this long; then the next request finds out whether it has joined."""

Partial = Callable[[str, int, int, int], None]
"""Told a reasoner's new text, the tokens that its call has read and written so far, and how many it may write."""


@dataclass(frozen=True)
class TierResult:
    """How a tier went. `ran_out`: it had less time than the policy gives it, and that was too little."""

    record: TierRecord
    answer: Answer | None = None
    missing: Missing | None = None
    ran_out: bool = False


@dataclass
class _Memory:
    """Of one tier, over requests."""

    absent_until: float = float("-inf")
    answered_at: float = float("-inf")
    input_tokens: int = 0
    seconds: float = 0.0


class TierRunner:
    """Asks tiers through one engine."""

    def __init__(
        self,
        engine: Engine,
        breakers: Breakers,
        prompts: Prompts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._breakers = breakers
        self._prompts = prompts
        self._clock = clock
        self._memory: dict[str, _Memory] = {}

    def absent(self, tier: Tier) -> bool:
        """Whether the tier was found not loaded a short while ago."""
        return self._clock() < self._of(tier).absent_until

    def waking(self, tier: Tier) -> float:
        """Seconds that it may take to wake first; 0 where it is awake, or never sleeps.

        Nobody tells a cascade that a tier sleeps: it goes by its own last answer from it. So it takes a tier for asleep
        that others keep awake, which costs an answer only where time is short, and hardly ever the other way round.
        """
        rare = tier.rare
        if rare is None or self._clock() - self._of(tier).answered_at < rare.sleep_after_seconds:
            return 0.0
        return rare.wake_ms / 1000.0

    def expected(self, tier: Tier) -> tuple[int, float]:
        """Tokens and cost that asking it takes at most, as far as that is known: input and time as they last were."""
        memory, prompt = self._of(tier), self._prompt(tier)
        written = 0 if prompt is None else int(prompt.sampling["max_tokens"])
        cost = tier.price_per_1000_tokens.of(memory.input_tokens, written) + memory.seconds * tier.price_per_second
        return memory.input_tokens + written, cost

    def left_out(self, tier: Tier, reason: SkipReason, detail: str = "") -> TierResult:
        """The result of a tier that is not asked. It is missing only where the caller could have counted on it."""
        member = tier.member
        record = TierRecord(tier.name, member.name, member.kind, "skipped", reason)
        missing = None
        if reason == "breaker_open" or (reason == "unavailable" and tier.required):
            missing = Missing(member, tier.name, reason, detail or f"{member.name}: not loaded")
        return TierResult(record, missing=missing, ran_out=reason in ("deadline", "asleep"))

    async def ask(
        self, tier: Tier, request: Request, seconds: float, budget: Budget, partial: Partial | None
    ) -> TierResult:
        """Ask `tier` for at most `seconds`. Raises nothing but `CancelledError`.

        `budget` is what is left of the request's. `partial` hears a reasoner's text; None: it does not stream.
        """
        memory, model = self._of(tier), tier.member.name
        prompt = self._prompt(tier)
        if prompt is None:
            memory.absent_until = self._clock() + ABSENT_SECONDS
            return self.left_out(tier, "unavailable", f"{model}: the model repository has no sound prompt.json of it")
        breaker = self._breakers[model]
        permit = breaker.admit()
        if permit is None:
            wait = f"to be tried in {breaker.retry_in:.0f} s"
            return self.left_out(tier, "breaker_open", f"{model}: not asked because it failed lately; {wait}")
        whole = tier.deadline_ms / 1000.0 + self.waking(tier)
        fair = seconds >= FAIR_SHARE * whole
        call = _Call(self._engine, tier, prompt, request, self._clock, self._clock() + seconds, budget, partial)
        with permit:
            try:
                score = await bounded(call.run(), seconds)
                permit.success()
                memory.absent_until = float("-inf")
                memory.answered_at = self._clock()
                return call.answered(score)
            except ModelUnavailable as error:
                memory.absent_until = self._clock() + ABSENT_SECONDS
                return self.left_out(tier, "unavailable", first_line(error))
            except (asyncio.TimeoutError, EngineTimeout):
                if fair:
                    permit.failure()
                detail = f"{model}: no answer within {seconds * 1000:.0f} ms"
                return call.failed("timed_out", detail, ran_out=seconds < whole)
            except Exception as error:
                # Whatever goes wrong with a tier costs its answer and never the verdict. A few callers with images that
                # it does not take must not open its breaker for everyone.
                if not isinstance(error, RequestRefused):
                    permit.failure()
                said = first_line(error)
                known = isinstance(error, EngineError)
                text = said if said.startswith(f"{model}: ") else f"{model}: {said}"
                return call.failed("failed", text if known else f"{model}: {type(error).__name__}: {said}")
            finally:
                if call.input_tokens:
                    memory.input_tokens, memory.seconds = call.first_input_tokens, call.seconds

    def _prompt(self, tier: Tier) -> Prompt | None:
        try:
            return self._prompts.get(tier)
        except PromptError:
            return None  # it came after the load, which refuses such a file

    def _of(self, tier: Tier) -> _Memory:
        return self._memory.setdefault(tier.name, _Memory())


class _Call:
    """One asking of one tier. What was said is kept here, so that it is known also where time runs out."""

    def __init__(
        self,
        engine: Engine,
        tier: Tier,
        prompt: Prompt,
        request: Request,
        clock: Callable[[], float],
        until: float,
        budget: Budget,
        partial: Partial | None,
    ) -> None:
        self._engine, self._tier, self._prompt, self._request = engine, tier, prompt, request
        self._clock, self._until, self._budget, self._partial = clock, until, budget, partial
        self._start = clock()
        self._said = Said()
        self._repaired: Said | None = None

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def first_input_tokens(self) -> int:
        return self._said.input_tokens

    @property
    def input_tokens(self) -> int:
        return self._said.input_tokens + (self._repaired.input_tokens if self._repaired else 0)

    @property
    def output_tokens(self) -> int:
        return self._said.output_tokens + (self._repaired.output_tokens if self._repaired else 0)

    async def run(self) -> Score:
        """Raises `EngineError` where the question failed."""
        prompt, request = self._prompt, self._request
        shared = request.shared
        image = await tier_image(prompt.image, shared.image, shared.canvas, shared.geometry)
        findings = None
        if self._tier.findings:
            findings = findings_text(request.boxes(), request.words(), request.probability)
        text = prompt.text(findings)
        least = self._tier.member.minimum_mass or 0.0
        await self._listen(text, image, prompt.sampling, self._said, self._partial)
        if prompt.kind == "scorer":
            return score_scorer(self._said, prompt, least)
        try:
            return score_reasoner(self._said, prompt, least)
        except BrokenAnswer:
            if prompt.repair is None or not self._affordable():
                raise
        self._repaired = Said()
        again = repair_prompt(text, self._said.text, prompt)
        await self._listen(again, image, prompt.repair_sampling(), self._repaired, None)
        return score_repair(self._said, self._repaired, prompt, least)

    def answered(self, score: Score) -> TierResult:
        member = self._tier.member
        p = float(pool.member_probability(score.raw, member.kind, member.a, member.b, member.nothing))
        record = self._record("answered", raw=score.raw, mass=score.mass, probability=p, thoughts=score.thoughts)
        return TierResult(record, answer=Answer(member, self._tier.name, Reading(score.raw), p))

    def failed(self, outcome: Literal["failed", "timed_out"], detail: str, ran_out: bool = False) -> TierResult:
        reason = "timed_out" if outcome == "timed_out" else "error"
        missing = Missing(self._tier.member, self._tier.name, reason, detail)
        return TierResult(self._record(outcome), missing=missing, ran_out=ran_out)

    def _record(self, outcome: TierOutcome, **values: Any) -> TierRecord:
        tier, seconds = self._tier, self.seconds
        read, written = self.input_tokens, self.output_tokens
        text = self._said.text + (self._repaired.text if self._repaired else "")
        return TierRecord(
            tier.name,
            tier.member.name,
            tier.member.kind,
            outcome,
            text=text or None,
            repaired=self._repaired is not None,
            input_tokens=read,
            output_tokens=written,
            seconds=seconds,
            cost=seconds * tier.price_per_second + tier.price_per_1000_tokens.of(read, written),
            **values,
        )

    def _affordable(self) -> bool:
        """Whether one more token, after all that was read and written, is within the budget."""
        prices = self._tier.price_per_1000_tokens
        read, written = 2 * self._said.input_tokens + self._said.output_tokens, self._said.output_tokens + 1
        tokens, cost = self._budget.tokens, self._budget.cost
        spent = prices.of(read, written) + self.seconds * self._tier.price_per_second
        return (tokens is None or read + written <= tokens) and (cost is None or spent <= cost)

    async def _listen(
        self, text: str, image: bytes, sampling: Mapping[str, Any], said: Said, partial: Partial | None
    ) -> None:
        pieces = self._engine.generate(
            self._tier.member.name,
            text,
            images=[image],
            sampling=sampling,
            stream=partial is not None,
            timeout=max(0.0, self._until - self._clock()),
        )
        # Closed also when this is cancelled: the engine must not go on with what nobody waits for.
        async with aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                said.add(piece)
                if partial is not None and piece.text:
                    partial(piece.text, said.input_tokens, said.output_tokens, int(sampling["max_tokens"]))
