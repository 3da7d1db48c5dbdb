"""What is known about one image while the cascade works on it, and what follows from the policy's bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from roadwork_cascade import fusion, pool
from roadwork_cascade.deadline import Deadline
from roadwork_cascade.members import Answer, Missing
from roadwork_cascade.nearness import box_nearness
from roadwork_cascade.options import Options
from roadwork_cascade.policy_parts import Member, Policy, Seen, Stage, Tier, When
from roadwork_cascade.stage import Shared, StageResult
from roadwork_cascade.taxonomy import Taxonomy
from roadwork_cascade.verdict import Conclusion, StageRecord, Status, TierRecord


class Request:
    """One image on its way through the cascade.

    `answers` are those of members with a vote, so that nothing is decided by the others; `missing` has gaps of both.
    """

    def __init__(self, policy: Policy, taxonomy: Taxonomy, image: bytes, deadline: Deadline, options: Options) -> None:
        self._policy = policy
        self._taxonomy = taxonomy
        self._out_of_time = False
        self._boxes: list[dict[str, Any]] | None = None
        self._maps: list[np.ndarray] = []
        self.all_stages = policy.all_stages if options.all_stages is None else options.all_stages
        self.options = options
        self.deadline = deadline
        self.shared = Shared(image)
        self.done = False
        self.probability = pool.NEUTRAL
        self.decided_by: str | None = None
        self.route: str | None = None
        self.answers: list[Answer] = []
        self.missing: list[Missing] = []
        self.records: list[StageRecord] = []
        self.tiers: list[TierRecord] = []

    @property
    def status(self) -> Status:
        """`timed_out` says more than `degraded`, so it comes first."""
        if self._out_of_time:
            return "timed_out"
        return "degraded" if self._gaps() else "ok"

    @property
    def cost(self) -> float:
        """What stages and tiers have cost so far."""
        return math.fsum(record.cost for record in self.records)

    def seconds_for(self, stage: Stage) -> float | None:
        """How long `stage` may take, or None where it is not to be asked; that is then on record."""
        if self.done or not self._wanted(stage):
            self.records.append(StageRecord(stage.name, "skipped"))
            return None
        seconds = min(stage.deadline_ms / 1000.0, self.deadline.work())
        if seconds > 0:
            return seconds
        detail = "the request's deadline ran out before it was asked"
        self.missing += [Missing(member, stage.name, "timed_out", detail) for member in stage.members]
        self.records.append(StageRecord(stage.name, "timed_out"))
        self._out_of_time = self.done = True
        return None

    def add(self, stage: Stage, result: StageResult, seconds: float) -> None:
        """Take in what a stage that had `seconds` brought, and decide whether it was the last."""
        answers = [answer for answer in result.answers if answer.member.votes]
        self.answers += answers
        self.missing += result.missing
        self._maps += [a.reading.nearness for a in result.answers if a.reading.nearness is not None]
        self._boxes = None
        self._pool()
        cost = result.seconds * stage.price_per_second
        self.records.append(StageRecord(stage.name, result.outcome, self.probability, result.seconds, cost))
        if answers:
            self.decided_by = stage.name
        if result.ran_out and seconds < stage.deadline_ms / 1000.0:
            self._out_of_time = True
        self.done = not self.all_stages and self._may_end(stage)

    def seconds_for_merged(self, merged: Stage) -> float:
        """How long all stages that `merged` stands for may take together; 0 where they are to be asked in turn."""
        return max(0.0, min(merged.deadline_ms / 1000.0, self.deadline.work())) if self.all_stages else 0.0

    def add_merged(self, merged: Stage, result: StageResult, seconds: float) -> None:
        """Take in what `merged` brought in `seconds`: to each stage what is its members', to the last one the time."""
        stages = self._policy.ensembles
        share = seconds / (merged.deadline_ms / 1000.0)
        for stage in stages:
            part = result.part(stage, result.seconds if stage is stages[-1] else 0.0)
            self.add(stage, part, stage.deadline_ms / 1000.0 * share)

    def add_tier(self, tier: Tier, record: TierRecord, answer: Answer | None, missing: Missing | None) -> None:
        """Take in how a tier went, and decide whether it was the last.

        Its bounds hold whatever box and scene members voted: their disagreement is why it was asked.
        """
        self.tiers.append(record)
        if missing is not None:
            self.missing.append(missing)
        if answer is not None:
            self.answers.append(answer)
            self.decided_by = tier.name
            self._pool()
        if record.outcome != "skipped":
            self.records.append(StageRecord(tier.name, record.outcome, self.probability, record.seconds, record.cost))
        if answer is not None and not self.all_stages:
            self.done = self.quorate() and (
                (tier.accept is not None and self.probability >= tier.accept)
                or (tier.reject is not None and self.probability <= tier.reject)
            )

    def ran_out(self) -> None:
        """The request's own deadline kept something from being asked or answered."""
        self._out_of_time = True

    def holds(self, when: When | None) -> bool:
        """Whether a condition holds for what is known."""
        return when is None or when.holds(
            self.probability, disagreement=not any(self._agreement()), seen=self._seen if when.looks else None
        )

    def boxes(self) -> list[dict[str, Any]]:
        """Fused boxes as the verdict lists them; made once."""
        if self._boxes is None:
            self._boxes = self._fused()
        return self._boxes

    def words(self) -> list[dict[str, Any]]:
        """Words that were read."""
        return [word for answer in self.answers for word in answer.reading.words]

    def quorate(self) -> bool:
        """Whether those that answered have the policy's share of the weight of those that were asked."""
        gaps = self._gaps()
        answered = [True] * len(self.answers) + [False] * len(gaps)
        weights = [answer.member.weight for answer in self.answers] + [gap.member.weight for gap in gaps]
        return float(pool.quorum(answered, weights)) >= self._policy.quorum

    def pooled_with(self, member: Member, probabilities: Sequence[float]) -> list[float]:
        """What the pool would say, had `member` also answered with each of `probabilities`."""
        known = self._probabilities()
        table = np.array([[*known, p] for p in probabilities], dtype=np.float64)
        weights = [answer.member.weight for answer in self.answers] + [member.weight]
        pooled = pool.pool(table, weights, self._policy.pool.alpha, self._policy.pool.beta)
        return [float(p) for p in pooled]

    def conclusion(self, versions: dict[str, str]) -> Conclusion:
        """All that the verdict is written from."""
        return Conclusion(
            probability=self.probability,
            threshold=self._policy.threshold,
            status=self.status,
            decided_by=self.decided_by,
            geometry=self.shared.geometry,
            boxes=self.boxes(),
            answers=self.answers,
            missing=self.missing,
            stages=self.records,
            seconds=self.deadline.elapsed(),
            policy=self._policy.identity,
            models=versions,
            route=self.route,
            tiers=self.tiers,
        )

    def _gaps(self) -> list[Missing]:
        """Members with a vote that were asked and did not answer."""
        return [gap for gap in self.missing if gap.member.votes]

    def _pool(self) -> None:
        # The pool takes all members again: it is normalised by the weight of those that answered.
        weights = [answer.member.weight for answer in self.answers]
        settings = self._policy.pool
        self.probability = float(pool.pool(self._probabilities(), weights, settings.alpha, settings.beta))

    def _wanted(self, stage: Stage) -> bool:
        if self.all_stages or stage.when is None:
            return True
        # Too few have answered for the probability to be a reason to leave this stage out.
        return not self.quorate() or self.holds(stage.when)

    def _may_end(self, stage: Stage) -> bool:
        """Over a bound, enough have answered, and those who look agree that it is this side."""
        if not self.quorate():
            return False
        yes, no = self._agreement()
        accepts = stage.accept is not None and self.probability >= stage.accept and yes
        rejects = stage.reject is not None and self.probability <= stage.reject and no
        return accepts or rejects

    def _agreement(self) -> tuple[bool, bool]:
        """Whether enough box and scene members agree on yes, and on no. Text tells of signs, it does not look; tiers
        are asked because these disagree."""
        yes, no = pool.votes(self._probabilities(("boxes", "scene")))
        share = self._policy.agreement.share
        return bool(pool.agrees(yes, share)), bool(pool.agrees(no, share))

    def _probabilities(self, kinds: tuple[str, ...] | None = None) -> np.ndarray:
        """FP64 [M] of those that answered, NaN for one that does not enter the pool."""
        asked = [answer for answer in self.answers if kinds is None or answer.member.kind in kinds]
        return np.array([np.nan if a.probability is None else a.probability for a in asked], dtype=np.float64)

    def _seen(self) -> Seen:
        boxes, size = self.boxes(), self.shared.geometry
        share = 0.0
        if size is not None:
            areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box["box"] for box in boxes)]
            share = max(areas, default=0.0) / (size.width * size.height)
        return Seen(boxes=len(boxes), box_share=share, words=bool(self.words()))

    def _fused(self) -> list[dict[str, Any]]:
        shared = self.shared
        if shared.canvas is None or shared.geometry is None:
            return []
        seen = {a.member.name: a.reading.boxes for a in self.answers if a.reading.boxes is not None}
        size = (int(shared.canvas.shape[1]), int(shared.canvas.shape[2]))
        settings = self._policy.fusion
        fused = fusion.fuse(seen, size, shared.geometry, self._taxonomy, iou=settings.iou, score=settings.score)
        return [{**box, "nearness": box_nearness(box["box"], self._maps, size, shared.geometry)} for box in fused]
