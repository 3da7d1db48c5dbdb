"""Asking one stage: the ensemble in one call, or, where that fails, each member by itself.

A stage's time is split: its ensemble may take `ENSEMBLE_SHARE` of it. The rest is for asking one by one, because an
ensemble that hangs or fails does not say which member is to blame, and nobody waits for the one that hangs twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from roadwork_cascade.breaker import Breaker, Breakers, Permit
from roadwork_cascade.deadline import bounded
from roadwork_cascade.engine import Engine, EngineError, EngineTimeout, InvalidImage, first_line, invalid_image
from roadwork_cascade.members import OUTPUTS, PREPARED, Answer, Geometry, Missing, read_answer, read_prepared
from roadwork_cascade.policy_parts import Member, Policy, Stage
from roadwork_cascade.taxonomy import Taxonomy
from roadwork_cascade.verdict import Outcome

ENSEMBLE_SHARE = 0.6

FAIR_SHARE = 0.5
"""A timeout is held against a model only if it had this share of the stage's own deadline. A caller in a hurry must not
open the breakers for everyone else."""


@dataclass
class Shared:
    """What the stages of one request hand on. `canvas` UINT8 [1, H, W, 3]."""

    image: bytes
    canvas: np.ndarray | None = None
    geometry: Geometry | None = None

    def tensor(self, name: str, *, batched: bool = True) -> np.ndarray:
        """`canvas`, or `image` as an object array [1, 1] ([1] where the model does not batch)."""
        if name == "canvas":
            assert self.canvas is not None, "the canvas is prepared before anyone is asked who takes it"
            return self.canvas
        image = np.empty((1, 1) if batched else (1,), dtype=np.object_)
        image[...] = self.image
        return image


@dataclass
class StageResult:
    """Answers and gaps of one stage, each member once. What members without a vote do is no matter of its outcome."""

    answers: list[Answer] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """`timed_out` only where nothing but time was in the way."""
        if not any(gap.member.votes for gap in self.missing):
            return "answered"
        if any(answer.member.votes for answer in self.answers):
            return "partial"
        return "timed_out" if self.ran_out else "failed"

    @property
    def ran_out(self) -> bool:
        """Whether some member with a vote did not answer in time."""
        return any(gap.reason == "timed_out" and gap.member.votes for gap in self.missing)

    def part(self, stage: Stage, seconds: float) -> StageResult:
        """What of it belongs to `stage`, one of those that were asked together; it is to have taken `seconds`."""
        return StageResult(
            [replace(answer, stage=stage.name) for answer in self.answers if answer.member in stage.members],
            [replace(gap, stage=stage.name) for gap in self.missing if gap.member in stage.members],
            seconds,
        )


class StageRunner:
    """Asks stages of one policy through one engine; keeps a breaker for every model."""

    def __init__(
        self, policy: Policy, engine: Engine, taxonomy: Taxonomy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        settings = policy.breaker
        self.breakers = Breakers(
            window=settings.window,
            minimum=settings.minimum,
            failure_rate=settings.failure_rate,
            open_seconds=settings.open_seconds,
            clock=clock,
        )
        self._policy = policy
        self._engine = engine
        self._taxonomy = taxonomy
        self._clock = clock

    async def ask(self, stage: Stage, shared: Shared, seconds: float) -> StageResult:
        """Ask all members of `stage` for at most `seconds`, and fill in what `shared` lacks.

        Raises `InvalidImage` and nothing else: a member that fails is in the result's `missing`.
        """
        start = self._clock()
        call = _StageCall(self, stage, shared, start + seconds, seconds >= FAIR_SHARE * stage.deadline_ms / 1000.0)
        result = await call.run(seconds)
        result.seconds = self._clock() - start
        return result

    async def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], until: float
    ) -> dict[str, np.ndarray]:
        """One call that ends by `until` (on the clock) whatever the engine does. Raises `EngineError` only."""
        seconds = max(0.0, until - self._clock())
        try:
            return await bounded(self._engine.infer(model, inputs, outputs, seconds), seconds)
        except asyncio.TimeoutError:
            raise EngineTimeout(f"{model}: no answer within {seconds * 1000:.0f} ms") from None
        except EngineError:
            raise
        except Exception as error:
            # An engine's own fault is one model's failure, not the request's. It is told in the verdict.
            raise EngineError(f"{model}: {type(error).__name__}: {first_line(error)}") from error

    def read(self, member: Member, stage: Stage, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Answer:
        """A member's answer. Raises `EngineError`, whatever a model puts into its tensors."""
        try:
            return read_answer(member, stage, arrays, self._taxonomy, prefix)
        except EngineError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {first_line(error)}"
            raise EngineError(f"{member.name}: unreadable output: {problem}") from error

    def preparer(self, stage: Stage) -> str | None:
        """The model that makes the canvas for `stage`."""
        return stage.prepare or self._policy.preparer(stage)


class _StageCall:
    """One asking of one stage."""

    def __init__(self, runner: StageRunner, stage: Stage, shared: Shared, until: float, fair: bool) -> None:
        self._runner = runner
        self._breakers = runner.breakers
        self._stage = stage
        self._shared = shared
        self._until = until
        self._fair = fair

    async def run(self, seconds: float) -> StageResult:
        stage = self._stage
        if stage.needs == "canvas":
            gap = await self._prepare()
            if gap is not None:
                return StageResult(missing=[self._gap(member, gap) for member in stage.members])
        if stage.model is not None and self._all_well():
            permit = self._breakers[stage.model].admit()
            if permit is not None:
                with permit:
                    ensemble_until = min(self._until, self._until - (1.0 - ENSEMBLE_SHARE) * seconds)
                    result, error = await self._ask_ensemble(stage.model, permit, ensemble_until)
                    if result is not None:
                        return result
                    result = await self._ask_members()
                    # With every member well by itself, the ensemble is what fails.
                    if not result.missing and (self._fair or not isinstance(error, EngineTimeout)):
                        permit.failure()
                    return result
        return await self._ask_members()

    def _all_well(self) -> bool:
        """Whether no model inside the ensemble is known to be failing: one would take the whole ensemble with it."""
        models = [member.name for member in self._stage.members]
        if self._stage.prepare is not None:
            models.append(self._stage.prepare)
        return all(self._breakers[model].trusted for model in models)

    async def _ask_ensemble(
        self, model: str, permit: Permit, until: float
    ) -> tuple[StageResult, None] | tuple[None, EngineError]:
        stage, shared = self._stage, self._shared
        outputs = list(PREPARED) if stage.prepare else []
        outputs += [f"{member.name}_{name}" for member in stage.members for name in OUTPUTS[member.kind]]
        names = [member.name for member in stage.members] + ([stage.prepare] if stage.prepare else [])
        permits = {name: self._breakers[name].admit() for name in names}
        try:
            arrays = await self._runner.infer(model, {stage.needs: shared.tensor(stage.needs)}, outputs, until)
            if stage.prepare:
                shared.canvas, shared.geometry = read_prepared(stage.prepare, arrays)
                _judge(permits[stage.prepare], True)
        except EngineError as error:
            self._raise_invalid(error)
            return None, error
        result = StageResult()
        for member in stage.members:
            try:
                result.answers.append(self._runner.read(member, stage, arrays, prefix=f"{member.name}_"))
                _judge(permits[member.name], True)
            except EngineError as error:
                # The ensemble works and the member spoke nonsense: asking it again would bring the same.
                result.missing.append(self._gap(member, error))
                _judge(permits[member.name], False)
        permit.success()
        return result, None

    async def _ask_members(self) -> StageResult:
        gap: EngineError | None = None
        if any(member.kind != "text" for member in self._stage.members):
            gap = await self._prepare()
        told = await asyncio.gather(*(self._ask_member(member, gap) for member in self._stage.members))
        for answer in told:
            if isinstance(answer, InvalidImage):
                raise answer
        return StageResult(
            answers=[answer for answer in told if isinstance(answer, Answer)],
            missing=[answer for answer in told if isinstance(answer, Missing)],
        )

    async def _ask_member(self, member: Member, unprepared: EngineError | None) -> Answer | Missing | InvalidImage:
        tensor = "image" if member.kind == "text" else "canvas"
        if tensor == "canvas" and unprepared is not None:
            return self._gap(member, unprepared)
        breaker = self._breakers[member.name]
        permit = breaker.admit()
        if permit is None:
            return self._gap(member, _open(member.name, breaker))
        with permit:
            try:
                inputs = {tensor: self._shared.tensor(tensor, batched=member.kind != "text")}
                arrays = await self._runner.infer(member.name, inputs, OUTPUTS[member.kind], self._until)
                answer = self._runner.read(member, self._stage, arrays)
            except EngineError as error:
                bad_image = invalid_image(error)
                if bad_image is None:
                    self._blame(permit, error)
                elif self._shared.canvas is None:
                    return bad_image
                return self._gap(member, error)
            permit.success()
            return answer

    async def _prepare(self) -> EngineError | None:
        """Make the canvas if there is none yet; None, or why it could not be made. Raises `InvalidImage`."""
        model = self._runner.preparer(self._stage)
        if self._shared.canvas is not None or model is None:
            return None
        breaker = self._breakers[model]
        permit = breaker.admit()
        if permit is None:
            return _open(model, breaker)
        with permit:
            try:
                inputs = {"image": self._shared.tensor("image")}
                arrays = await self._runner.infer(model, inputs, PREPARED, self._until)
                self._shared.canvas, self._shared.geometry = read_prepared(model, arrays)
            except EngineError as error:
                self._raise_invalid(error)
                self._blame(permit, error)
                return error
            permit.success()
            return None

    def _raise_invalid(self, error: EngineError) -> None:
        bad_image = invalid_image(error)
        if bad_image is not None and self._shared.canvas is None:
            raise bad_image from None

    def _blame(self, permit: Permit, error: EngineError) -> None:
        if self._fair or not isinstance(error, EngineTimeout):
            permit.failure()

    def _gap(self, member: Member, error: EngineError) -> Missing:
        return Missing(member, self._stage.name, error.reason, first_line(error))


class _BreakerOpen(EngineError):
    reason = "breaker_open"


def _open(model: str, breaker: Breaker) -> _BreakerOpen:
    return _BreakerOpen(f"{model}: not asked because it failed lately; to be tried in {breaker.retry_in:.0f} s")


def _judge(permit: Permit | None, ok: bool) -> None:
    if permit is not None:
        (permit.success if ok else permit.failure)()
