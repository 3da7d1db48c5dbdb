"""The cascade's routing over a table of recorded scores, all images at once.

The same rules as `roadwork_cascade.cascade`, in NumPy because fitting replays thousands of policies; a test holds the
two together. No member fails for lack of time here: a score that is NaN is a member that was asked and did not answer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy, parse_policy

from roadwork_bench.sample import Sample


@dataclass(frozen=True)
class Replay:
    """n images through s stages.

    probability [n]: the verdict's. asked [n, s]: whether the stage was asked. by_stage [n, s]: pooled probability after
    it, NaN where it was not asked. may_accept, may_reject [n, s]: quorum and agreement allow to end there on that side.
    """

    probability: NDArray[np.float64]
    asked: NDArray[np.bool_]
    by_stage: NDArray[np.float64]
    may_accept: NDArray[np.bool_]
    may_reject: NDArray[np.bool_]


def replay(policy: Policy, sample: Sample, *, all_stages: bool | None = None) -> Replay:
    """Route every image of the sample. `all_stages` as in `Cascade.run`."""
    everything = policy.all_stages if all_stages is None else all_stages
    n, stages = len(sample), policy.stages
    listed = list(policy.members())
    weights = np.array([member.weight for _, member in listed])
    looks = np.array([member.kind != "text" for _, member in listed])
    raw = np.column_stack([sample.of(member.name) for _, member in listed])
    said = np.column_stack(
        [
            pool.member_probability(raw[:, k], member.kind, member.a, member.b, member.nothing)
            for k, (_, member) in enumerate(listed)
        ]
    )
    known = np.zeros((n, len(listed)), bool)
    done = np.zeros(n, bool)
    probability = np.full(n, pool.NEUTRAL)
    asked = np.zeros((n, len(stages)), bool)
    by_stage = np.full((n, len(stages)), np.nan)
    may_accept, may_reject = np.zeros_like(asked), np.zeros_like(asked)
    quorate, yes, no = _standing(policy, known, raw, said, weights, looks)
    for index, stage in enumerate(stages):
        wanted = np.ones(n, bool)
        if not everything and stage.when is not None:
            disagreement = ~(yes | no)
            holds = [stage.when.holds(p, d) for p, d in zip(probability, disagreement, strict=True)]
            wanted = np.array(holds, bool) | ~quorate
        now = wanted & ~done
        asked[:, index] = now
        known |= now[:, np.newaxis] & np.array([owner is stage for owner, _ in listed])
        pooled = pool.pool(np.where(known, said, np.nan), weights, policy.pool.alpha, policy.pool.beta)
        probability = np.where(now, pooled, probability)
        by_stage[now, index] = probability[now]
        quorate, yes, no = _standing(policy, known, raw, said, weights, looks)
        may_accept[:, index], may_reject[:, index] = now & quorate & yes, now & quorate & no
        if not everything:
            over = np.zeros(n, bool) if stage.accept is None else probability >= stage.accept
            under = np.zeros(n, bool) if stage.reject is None else probability <= stage.reject
            done |= (may_accept[:, index] & over) | (may_reject[:, index] & under)
    return Replay(probability, asked, by_stage, may_accept, may_reject)


def _standing(
    policy: Policy, known: NDArray, raw: NDArray, said: NDArray, weights: NDArray, looks: NDArray
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the quorum is there, and whether enough of those who look agree on yes and on no."""
    asked_weight = (known * weights).sum(axis=1)
    answered_weight = (known * weights * ~np.isnan(raw)).sum(axis=1)
    share = np.where(asked_weight > 0, answered_weight / np.where(asked_weight > 0, asked_weight, 1), 1.0)
    yes, no = pool.votes(np.where(known, said, np.nan)[:, looks])
    least = policy.agreement.share
    return share >= policy.quorum, pool.agrees(yes, least), pool.agrees(no, least)


def without_members(policy: Policy, names: Collection[str]) -> Policy:
    """The policy less some members; a stage that has none left goes too.

    A stage that prepares the canvas hands that on to the next stage. Raises PolicyError where nothing is left.
    """
    data = policy.to_dict()
    stages, owed = [], None
    for stage in data["stages"]:
        stage["members"] = {name: entry for name, entry in stage["members"].items() if name not in names}
        if not stage["members"]:
            owed = owed or stage["prepare"]
            continue
        if owed and stage["needs"] == "canvas":
            stage["prepare"], stage["needs"] = owed, "image"
            stage["model"] = None  # its ensemble takes a canvas, which nobody has made
        owed = None
        stages.append(stage)
    data["stages"] = stages
    return parse_policy(data)


def unbounded(policy: Policy) -> Policy:
    """The policy with no early end, conditions of stages kept."""
    data = policy.to_dict()
    for stage in data["stages"]:
        stage["accept"] = stage["reject"] = None
    return parse_policy(data)
