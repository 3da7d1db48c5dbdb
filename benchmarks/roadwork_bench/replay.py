"""The cascade's routing over a table of recorded scores, all images at once.

The same rules as `roadwork_cascade.cascade`, in NumPy because fitting replays thousands of policies; a test holds the
two together. No member fails for lack of time here: a score that is NaN is a member that was asked and did not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from roadwork_cascade import pool
from roadwork_cascade.policy import Policy, parse_policy
from roadwork_cascade.policy_parts import VOTELESS, Seen, When

from roadwork_bench.errors import BenchError
from roadwork_bench.sample import Sample

LOOKING = ("boxes", "scene")
"""Kinds of members whose agreement is asked: text tells of signs, tiers are asked because the others disagree."""


@dataclass(frozen=True)
class Replay:
    """n images through k steps: the policy's stages in their order, then its tiers in theirs (`steps` names them).

    probability [n]: the verdict's. asked [n, k]: whether the step was asked. by_stage [n, k]: pooled probability after
    it, NaN where it was not asked. may_accept, may_reject [n, k]: quorum and agreement allow to end there on that side.
    quorate [n]: the quorum was there when the routes were looked at.
    """

    probability: NDArray[np.float64]
    asked: NDArray[np.bool_]
    by_stage: NDArray[np.float64]
    may_accept: NDArray[np.bool_]
    may_reject: NDArray[np.bool_]
    quorate: NDArray[np.bool_]

    @classmethod
    def empty(cls, n: int, count: int) -> Replay:
        """Of n images and `count` steps, none of them asked yet."""
        flags = (np.zeros((n, count), bool) for _ in range(3))
        asked, accept, reject = flags
        by_stage = np.full((n, count), np.nan)
        return cls(np.full(n, pool.NEUTRAL), asked, by_stage, accept, reject, np.zeros(n, bool))


def steps(policy: Policy) -> list[str]:
    """Names of what is asked, in the order of `Replay`'s columns."""
    return [stage.name for stage in policy.stages] + [tier.name for tier in policy.tiers]


def replay(policy: Policy, sample: Sample, *, all_stages: bool | None = None, needless: bool = False) -> Replay:
    """Route every image of the sample. `all_stages` as in `Cascade.run`.

    `needless`: tiers of a route are asked also where their answer cannot change the verdict. Fitting wants that,
    because what can change a verdict depends on the very numbers that are fitted.
    """
    everything = policy.all_stages if all_stages is None else all_stages
    state = _State(policy, sample)
    for index, stage in enumerate(policy.stages):
        wanted = np.ones(len(sample), bool)
        if not everything and stage.when is not None:
            wanted = state.holds(stage.when) | ~state.quorate
        now = wanted & ~state.done
        state.ask(index, now, [member.name for member in stage.members])
        if not everything:
            state.end(index, stage.accept, stage.reject)
    state.result.quorate[:] = state.quorate
    climb = _climbs(policy, state, everything)
    for number, tier in enumerate(policy.tiers):
        index = len(policy.stages) + number
        # One that was not recorded there is one that is not loaded: it is left out and counts for no quorum.
        now = climb[:, number] & ~state.done & ~np.isnan(sample.of(tier.member.name))
        if not everything:
            now &= state.holds(tier.when) | ~state.quorate
            if not needless:
                now &= state.can_change(tier.member.name) | ~state.quorate
        state.ask(index, now, [tier.member.name])
        if not everything:
            state.end(index, tier.accept, tier.reject)
    return state.result


def _climbs(policy: Policy, state: _State, everything: bool) -> NDArray[np.bool_]:
    """[n, tiers]: which tiers are on the route that each undecided image takes."""
    order = [tier.name for tier in policy.tiers]
    climb = np.full((len(state.done), len(order)), everything)
    open_ = ~state.done & (not everything)
    for route in policy.routes:
        if list(route.climb) != sorted(route.climb, key=order.index):
            raise BenchError(
                f"route {route.name}: tiers must be listed in the policy in the order that they are climbed"
            )
        taken = open_ & state.holds(route.when)
        if not route.climb:
            taken &= state.quorate
        for name in route.climb:
            climb[taken, order.index(name)] = True
        open_ &= ~taken
    return climb


class _State:
    """What is known about every image so far."""

    def __init__(self, policy: Policy, sample: Sample) -> None:
        self._policy, self._sample = policy, sample
        members = [member for _, member in policy.members()] + [tier.member for tier in policy.tiers]
        self._names = [member.name for member in members]
        self._weights = np.array([member.weight for member in members])
        self._looks = np.array([member.kind in LOOKING for member in members])
        self._words = np.array([member.kind == "text" for member in members])
        self._members = members
        self._raw = np.column_stack([sample.of(name) for name in self._names])
        self._said = np.column_stack(
            [
                pool.member_probability(self._raw[:, k], member.kind, member.a, member.b, member.nothing)
                for k, member in enumerate(members)
            ]
        )
        n, count = len(sample), len(steps(policy))
        self._known = np.zeros((n, len(members)), bool)
        self.done = np.zeros(n, bool)
        self.result = Replay.empty(n, count)
        self._look_again()

    def ask(self, index: int, now: NDArray[np.bool_], members: list[str]) -> None:
        """Take in the answers of a step's members where `now`."""
        result = self.result
        result.asked[:, index] = now
        self._known |= now[:, np.newaxis] & np.isin(self._names, members)
        result.probability[now] = self._pooled()[now]
        result.by_stage[now, index] = result.probability[now]
        self._look_again()
        tier = index >= len(self._policy.stages)
        # A tier's bounds hold whatever box and scene members voted: their disagreement is why it was asked.
        result.may_accept[:, index] = now & self.quorate & (self._yes | tier)
        result.may_reject[:, index] = now & self.quorate & (self._no | tier)

    def end(self, index: int, accept: float | None, reject: float | None) -> None:
        """End the cascade over a bound."""
        result, p = self.result, self.result.probability
        if accept is not None:
            self.done |= result.may_accept[:, index] & (p >= accept)
        if reject is not None:
            self.done |= result.may_reject[:, index] & (p <= reject)

    def holds(self, when: When | None) -> NDArray[np.bool_]:
        """[n]: whether a condition holds. Raises BenchError where it asks for what the sample does not tell."""
        p, n = self.result.probability, len(self.done)
        if when is None:
            return np.ones(n, bool)
        seen: list[Callable[[], Seen] | None] = [None] * n
        if when.looks:
            if self._sample.seen is None:
                raise BenchError("a condition on boxes or words needs a table with boxes; record it again")
            read = (self._known & self._words).any(axis=1)
            found = zip(self._sample.seen, read, strict=True)
            seen = [lambda s=s, r=r: Seen(s.boxes, s.box_share, s.words and bool(r)) for s, r in found]  # type: ignore[misc]
        disagreement = ~(self._yes | self._no)
        held = [when.holds(float(a), bool(b), c) for a, b, c in zip(p, disagreement, seen, strict=True)]
        return np.array(held, bool)

    def can_change(self, name: str) -> NDArray[np.bool_]:
        """[n]: whether some answer of this member could bring the probability to the other side of the threshold."""
        index, threshold = self._names.index(name), self._policy.threshold
        member = self._members[index]
        now = self.result.probability >= threshold
        ends = pool.calibrate([0.0, 1.0], member.a, member.b)
        said, known = self._said.copy(), self._known.copy()
        known[:, index] = True
        change = np.zeros(len(self.done), bool)
        for p in ends:
            said[:, index] = p
            change |= (self._pooled(said, known) >= threshold) != now
        return change

    def _pooled(self, said: NDArray | None = None, known: NDArray | None = None) -> NDArray[np.float64]:
        answers = np.where(self._known if known is None else known, self._said if said is None else said, np.nan)
        return pool.pool(answers, self._weights, self._policy.pool.alpha, self._policy.pool.beta)

    def _look_again(self) -> None:
        """Whether the quorum is there, and whether enough of those who look agree on yes and on no."""
        asked = (self._known * self._weights).sum(axis=1)
        answered = (self._known * self._weights * ~np.isnan(self._raw)).sum(axis=1)
        share = np.where(asked > 0, answered / np.where(asked > 0, asked, 1), 1.0)
        yes, no = pool.votes(np.where(self._known, self._said, np.nan)[:, self._looks])
        least = self._policy.agreement.share
        self.quorate = share >= self._policy.quorum
        self._yes, self._no = pool.agrees(yes, least), pool.agrees(no, least)


def without_members(policy: Policy, names: Collection[str]) -> Policy:
    """The policy less some members; a stage or tier that has none with a vote left goes too, also from the routes.

    A stage that prepares the canvas hands that on to the next stage. Raises PolicyError where nothing is left.
    """
    data = policy.to_dict()
    stages, owed = [], None
    for stage in data["stages"]:
        stage["members"] = {name: entry for name, entry in stage["members"].items() if name not in names}
        if all(entry["kind"] in VOTELESS for entry in stage["members"].values()):
            owed = owed or stage["prepare"]
            continue
        if owed and stage["needs"] == "canvas":
            stage["prepare"], stage["needs"] = owed, "image"
            stage["model"] = None  # its ensemble takes a canvas, which nobody has made
        owed = None
        stages.append(stage)
    data["stages"] = stages
    if policy.version >= 2:
        data["tiers"] = [tier for tier in data["tiers"] if not set(tier["members"]) & set(names)]
        left = [tier["name"] for tier in data["tiers"]]
        for route in data["routes"]:
            route["climb"] = [name for name in route["climb"] if name in left]
    return parse_policy(data)


def unbounded(policy: Policy) -> Policy:
    """The policy with no early end, conditions of stages, routes and tiers kept."""
    data = policy.to_dict()
    for step in data["stages"] + data.get("tiers", []):
        step["accept"] = step["reject"] = None
    return parse_policy(data)
