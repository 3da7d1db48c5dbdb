"""From images or recorded scores to one decision an image, and how it was come by."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.engine import InvalidImage
from roadwork_cascade.policy import Policy, parse_policy
from roadwork_cascade.taxonomy import load_taxonomy

from roadwork_bench.blobs import count_blobs
from roadwork_bench.dataset import Photograph, read_dataset
from roadwork_bench.fitting import Tested, cross_validate
from roadwork_bench.inprocess import InProcessEngine, image_tensor
from roadwork_bench.progress import Progress
from roadwork_bench.record import DRAWN_SCORE, without_letterbox
from roadwork_bench.replay import replay, steps, without_members
from roadwork_bench.settings import Settings
from roadwork_bench.table import Row, Table

PATIENCE_MS = 60_000.0


@dataclass
class Judged:
    """n images. `asked` [n, stages]; `full_decision` is that of all stages, None where they were not all asked.

    evidence: by image, what to draw as (class name, score, [x1, y1, x2, y2] in pixels of the upright original).
    """

    method: str
    files: list[str]
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]
    sources: NDArray[np.str_]
    probability: NDArray[np.float64]
    decision: NDArray[np.bool_]
    stages: list[str]
    asked: NDArray[np.bool_]
    full_decision: NDArray[np.bool_] | None
    blobs: NDArray[np.int64] | None
    evidence: list[list[tuple[str, float, list[float]]]]
    milliseconds: NDArray[np.float64]
    refused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seen_in_training: int = 0


def fitted_groups(policy: Policy) -> set[str]:
    """The groups that the policy was fitted on, empty for one that was not."""
    return set((policy.fitted or {}).get("group_names", ()))


def recordable(policy: Policy, table: Table) -> tuple[Policy, list[str]]:
    """The policy less the members that the table has no score of, and a note for each that would have a vote."""
    have = set(table.sample().members)
    members = [member for _, member in policy.members()] + [tier.member for tier in policy.tiers]
    lacking = [member for member in members if not member.votes or member.name not in have]
    if not lacking:
        return policy, []
    notes = [f"{member.name} was not recorded and is left out" for member in lacking if member.votes]
    return without_members(policy, [member.name for member in lacking]), notes


def judge_table(table: Table, policy: Policy, *, cross_validated: bool, settings: Settings | None = None) -> Judged:
    """Decisions from recorded scores, by the policy as it is or by policies fitted on other groups."""
    sample = table.sample(policy.fusion)
    reduced, _ = recordable(policy, table)
    if cross_validated:
        return judged_of(table, policy, cross_validate(sample, reduced, settings))
    staged = replay(reduced, sample)
    full = replay(reduced, sample, all_stages=True).probability >= policy.threshold
    method = "policy as it is"
    if fitted_groups(policy) & set(sample.groups):
        method += ", fitted on images of the same groups"
    decision = staged.probability >= policy.threshold
    return _judged_table(table, policy, method, staged.probability, decision, staged.asked, full)


def judged_of(table: Table, policy: Policy, tested: Tested) -> Judged:
    """What was cross-validated on the table's usable rows."""
    method = f"fitted and tested on different groups, {tested.fold.max() + 1} folds"
    parts = (tested.probability, tested.decision, tested.asked, tested.all_stages_decision)
    return _judged_table(table, policy, method, *parts)


def _judged_table(
    table: Table,
    policy: Policy,
    method: str,
    probability: NDArray[np.float64],
    decision: NDArray[np.bool_],
    asked: NDArray[np.bool_],
    full: NDArray[np.bool_],
) -> Judged:
    sample, rows = table.sample(policy.fusion), table.usable
    policy, notes = recordable(policy, table)
    blobs = [row.blobs for row in rows]
    return Judged(
        method=method,
        files=[row.file for row in rows],
        labels=sample.labels,
        groups=sample.groups,
        sources=sample.sources,
        probability=probability,
        decision=decision,
        stages=steps(policy),
        asked=asked,
        full_decision=full,
        blobs=None if any(count is None for count in blobs) else np.array(blobs),
        evidence=[_evidence(row) for row in rows],
        milliseconds=asked_milliseconds(rows, policy, asked),
        refused=[row.file for row in table.rows if row.error],
        notes=notes,
        seen_in_training=table.seen_in_training(),
    )


def asked_milliseconds(rows: list[Row], policy: Policy, asked: NDArray) -> NDArray[np.float64]:
    """Recorded times of the steps asked: decoding once, then the slowest member of each stage, and each tier."""
    members = [[member.name for member in stage.members] for stage in policy.stages]
    members += [[tier.member.name] for tier in policy.tiers]
    stage_ms = np.array([[max(row.ms.get(name, 0.0) for name in names) for names in members] for row in rows])
    return (stage_ms * asked).sum(axis=1) + np.array([row.ms.get("decode", 0.0) for row in rows])


def judge_folder(folder: Path, policy: Policy, repository: Path, *, threads: int = 0) -> Judged:
    """The cascade itself on every image, in process. Deadlines are wide, so that a slow machine judges the same."""
    photographs = read_dataset(folder)
    with InProcessEngine(repository, threads=threads) as engine:
        return asyncio.run(_judge(folder, photographs, patient(policy), engine))


async def _judge(folder: Path, photographs: list[Photograph], policy: Policy, engine: InProcessEngine) -> Judged:
    cascade, progress = Cascade(policy, engine), Progress(len(photographs), "judged")
    kept: list[tuple[Photograph, dict[str, Any], int]] = []
    refused = []
    for photograph in photographs:
        data = (folder / photograph.file).read_bytes()
        try:
            verdict = await cascade.run(data)
        except InvalidImage:
            refused.append(photograph.file)
        else:
            decoded = engine.run("decode", {"image": image_tensor(data)})
            blobs = count_blobs(without_letterbox(decoded["canvas"][0], decoded["geometry"][0]))
            kept.append((photograph, verdict, blobs))
        progress.step()
    verdicts = [verdict for _, verdict, _ in kept]
    degraded = sum(verdict["status"] != "ok" for verdict in verdicts)
    # No tier runs in process: what is judged here is perception.
    count = len(policy.stages)
    asked = [[stage["outcome"] != "skipped" for stage in verdict["stages"][:count]] for verdict in verdicts]
    return Judged(
        method="policy as it is",
        files=[photograph.file for photograph, _, _ in kept],
        labels=np.array([int(photograph.roadwork) for photograph, _, _ in kept]),
        groups=np.array([photograph.group for photograph, _, _ in kept]),
        sources=np.array([photograph.source for photograph, _, _ in kept]),
        probability=np.array([verdict["probability"] for verdict in verdicts]),
        decision=np.array([verdict["roadwork"] for verdict in verdicts]),
        stages=[stage.name for stage in policy.stages],
        asked=np.array(asked, bool).reshape(len(verdicts), count),
        full_decision=None,
        blobs=np.array([blobs for _, _, blobs in kept]),
        evidence=[[(box["class"], box["score"], box["box"]) for box in verdict["boxes"]] for verdict in verdicts],
        milliseconds=np.array([verdict["milliseconds"] for verdict in verdicts]),
        refused=refused,
        seen_in_training=sum(photograph.publishable for photograph, _, _ in kept),
        notes=[f"{degraded} verdicts are degraded: a member did not answer"] if degraded else [],
    )


def patient(policy: Policy) -> Policy:
    """The policy with deadlines that no machine misses."""
    data = policy.to_dict()
    data["deadline_ms"] = PATIENCE_MS
    for step in [*data["stages"], *data.get("tiers", [])]:
        step["deadline_ms"] = PATIENCE_MS
    return parse_policy(data)


def _evidence(row: Row) -> list[tuple[str, float, list[float]]]:
    names = load_taxonomy().names
    boxes = [box for kept in row.boxes.values() for box in kept if box[1] >= DRAWN_SCORE]
    return [(names[int(label)], score, xyxy) for label, score, *xyxy in boxes]
