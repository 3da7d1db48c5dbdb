"""The cascade: ask the stages in order, pool what is known, stop as soon as the policy allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from roadwork_cascade import fusion, pool
from roadwork_cascade.breaker import Breakers
from roadwork_cascade.deadline import Deadline
from roadwork_cascade.engine import Engine
from roadwork_cascade.members import Answer, Missing
from roadwork_cascade.options import check_deadline
from roadwork_cascade.policy import Policy, Stage
from roadwork_cascade.stage import Shared, StageResult, StageRunner
from roadwork_cascade.taxonomy import Taxonomy, load_taxonomy
from roadwork_cascade.verdict import Conclusion, StageRecord, Status, write_verdict


class Cascade:
    """Says of one image after another whether it shows roadwork. Breakers live as long as the object.

    `versions` are the models' versions as verdicts give them. All requests must run on one event loop at a time.
    """

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.monotonic,
        versions: Mapping[str, str] | None = None,
        taxonomy: Taxonomy | None = None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._versions = dict(versions or {})
        self._taxonomy = taxonomy or load_taxonomy()
        self._runner = StageRunner(policy, engine, self._taxonomy, clock)

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
        self, image: bytes, *, deadline_ms: float | None = None, all_stages: bool | None = None
    ) -> dict[str, Any]:
        """The verdict on one encoded image, within `deadline_ms` (None: the policy's).

        Models that fail or hang only degrade the verdict. Raises `InvalidImage` for an image that cannot be decoded and
        `InvalidOptions` for a deadline that is not a positive number.
        """
        milliseconds = check_deadline(deadline_ms) or self._policy.deadline_ms
        request = _Request(self._policy, image, Deadline(milliseconds / 1000.0, self._clock), all_stages)
        for stage in self._policy.stages:
            seconds = request.seconds_for(stage)
            if seconds is not None:
                request.add(stage, await self._runner.ask(stage, request.shared, seconds), seconds)
        return write_verdict(self._conclude(request))

    def _conclude(self, request: _Request) -> Conclusion:
        shared = request.shared
        boxes: list[dict[str, Any]] = []
        if shared.canvas is not None and shared.geometry is not None:
            seen = {a.member.name: a.reading.boxes for a in request.answers if a.reading.boxes is not None}
            size = (int(shared.canvas.shape[1]), int(shared.canvas.shape[2]))
            settings = self._policy.fusion
            boxes = fusion.fuse(seen, size, shared.geometry, self._taxonomy, iou=settings.iou, score=settings.score)
        return Conclusion(
            probability=request.probability,
            threshold=self._policy.threshold,
            status=request.status,
            decided_by=request.decided_by,
            geometry=shared.geometry,
            boxes=boxes,
            answers=request.answers,
            missing=request.missing,
            stages=request.records,
            seconds=request.deadline.elapsed(),
            policy=self._policy.identity,
            models=self._versions,
        )


class _Request:
    """What is known about one image, and the routing that follows from it."""

    def __init__(self, policy: Policy, image: bytes, deadline: Deadline, all_stages: bool | None) -> None:
        self._policy = policy
        self._all_stages = policy.all_stages if all_stages is None else all_stages
        self._done = False
        self._out_of_time = False
        self.deadline = deadline
        self.shared = Shared(image)
        self.probability = pool.NEUTRAL
        self.decided_by: str | None = None
        self.answers: list[Answer] = []
        self.missing: list[Missing] = []
        self.records: list[StageRecord] = []

    @property
    def status(self) -> Status:
        if self._out_of_time:
            return "timed_out"
        return "degraded" if self.missing else "ok"

    def seconds_for(self, stage: Stage) -> float | None:
        """How long `stage` may take, or None where it is not to be asked; that is then on record."""
        if self._done or not self._wanted(stage):
            self.records.append(StageRecord(stage.name, "skipped"))
            return None
        seconds = min(stage.deadline_ms / 1000.0, self.deadline.work())
        if seconds > 0:
            return seconds
        detail = "the request's deadline ran out before it was asked"
        self.missing += [Missing(member, stage.name, "timed_out", detail) for member in stage.members]
        self.records.append(StageRecord(stage.name, "timed_out"))
        self._out_of_time = self._done = True
        return None

    def add(self, stage: Stage, result: StageResult, seconds: float) -> None:
        """Take in what a stage that had `seconds` brought, and decide whether it was the last."""
        self.answers += result.answers
        self.missing += result.missing
        # The pool takes all members again: it is normalised by the weight of those that answered.
        self.probability = float(
            pool.pool(
                self._probabilities(),
                [answer.member.weight for answer in self.answers],
                self._policy.pool.alpha,
                self._policy.pool.beta,
            )
        )
        cost = result.seconds * stage.price_per_second
        self.records.append(StageRecord(stage.name, result.outcome, self.probability, result.seconds, cost))
        if result.answers:
            self.decided_by = stage.name
        if result.ran_out and seconds < stage.deadline_ms / 1000.0:
            self._out_of_time = True
        self._done = not self._all_stages and self._may_end(stage)

    def _wanted(self, stage: Stage) -> bool:
        if self._all_stages or stage.when is None:
            return True
        # Too few have answered for the probability to be a reason to leave this stage out.
        if not self._quorate():
            return True
        return stage.when.holds(self.probability, disagreement=not any(self._agreement()))

    def _may_end(self, stage: Stage) -> bool:
        """Over a bound, enough have answered, and those who look agree that it is this side."""
        if not self._quorate():
            return False
        yes, no = self._agreement()
        accepts = stage.accept is not None and self.probability >= stage.accept and yes
        rejects = stage.reject is not None and self.probability <= stage.reject and no
        return accepts or rejects

    def _quorate(self) -> bool:
        answered = [True] * len(self.answers) + [False] * len(self.missing)
        weights = [answer.member.weight for answer in self.answers] + [gap.member.weight for gap in self.missing]
        return float(pool.quorum(answered, weights)) >= self._policy.quorum

    def _agreement(self) -> tuple[bool, bool]:
        """Whether enough box and scene members agree on yes, and on no. Text tells of signs, it does not look."""
        yes, no = pool.votes(self._probabilities(text=False))
        share = self._policy.agreement.share
        return bool(pool.agrees(yes, share)), bool(pool.agrees(no, share))

    def _probabilities(self, text: bool = True) -> np.ndarray:
        """FP64 [M] of those that answered, NaN for one that does not enter the pool."""
        asked = [answer for answer in self.answers if text or answer.member.kind != "text"]
        return np.array([np.nan if a.probability is None else a.probability for a in asked], dtype=np.float64)
