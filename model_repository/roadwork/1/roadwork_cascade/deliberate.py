"""After perception: climb the tiers of a route until the verdict is sure, or nothing more can change it."""

from __future__ import annotations

from roadwork_cascade.events import Narrator
from roadwork_cascade.policy_parts import Budget, Policy, Tier
from roadwork_cascade.request import Request
from roadwork_cascade.routes import can_change, choose_route, climb_of
from roadwork_cascade.tier import Partial, TierResult, TierRunner
from roadwork_cascade.verdict import SkipReason, tokens

LEAST_SHARE = 0.1
"""A tier is not asked with less of its deadline than this: it could only use the time up."""


class Deliberation:
    """Asks the tiers of one policy. State over requests is in `runner`."""

    def __init__(self, policy: Policy, runner: TierRunner) -> None:
        self._policy = policy
        self._runner = runner

    async def run(self, request: Request, narrator: Narrator) -> None:
        """Climb for an image that perception left undecided; with `all_stages`, ask every tier of the policy."""
        if request.all_stages:
            climb = list(self._policy.tiers)
        else:
            route = choose_route(self._policy, request)
            request.route = None if route is None else route.name
            climb = climb_of(self._policy, route)
        if climb:
            narrator.escalated(request.route, [tier.name for tier in climb])
        for tier in climb:
            result = await self._ask(tier, request, narrator)
            if result.ran_out:
                request.ran_out()
            request.add_tier(tier, result.record, result.answer, result.missing)
            narrator.tier(result.record)

    async def _ask(self, tier: Tier, request: Request, narrator: Narrator) -> TierResult:
        reason = self._needless(tier, request) or self._hindered(tier, request)
        if reason is not None:
            return self._runner.left_out(tier, reason)
        left = self._budget_left(request)
        return await self._runner.ask(tier, request, self._seconds(tier, request), left, self._partial(tier, narrator))

    def _needless(self, tier: Tier, request: Request) -> SkipReason | None:
        """Why the tier's answer is not wanted."""
        if request.done:
            return "decided"
        if request.options.tiers is not None and tier.name not in request.options.tiers:
            return "not_wanted"
        if request.all_stages:
            return None
        # Too few have answered for the probability to be a reason to leave the tier out.
        if request.quorate() and not request.holds(tier.when):
            return "condition"
        return None if can_change(self._policy, request, tier.member) else "cannot_change"

    def _hindered(self, tier: Tier, request: Request) -> SkipReason | None:
        """Why the tier cannot be asked."""
        if self._runner.absent(tier):
            return "unavailable"
        left = self._budget_left(request)
        if left != Budget():
            most, cost = self._runner.expected(tier)
            if (left.tokens is not None and most > left.tokens) or (left.cost is not None and cost > left.cost):
                return "budget"
        least, waking = LEAST_SHARE * tier.deadline_ms / 1000.0, self._runner.waking(tier)
        if self._seconds(tier, request) < least:
            return "deadline"
        # Awake it would have had the time.
        return "asleep" if waking and request.deadline.work() < waking + least else None

    def _seconds(self, tier: Tier, request: Request) -> float:
        """What it may take: its own deadline, and on top of that the time to wake up, within the request's."""
        return min(tier.deadline_ms / 1000.0 + self._runner.waking(tier), request.deadline.work())

    def _budget_left(self, request: Request) -> Budget:
        """What the caller's budget, or else the policy's, still allows; less than nothing once it was passed."""
        options, budget = request.options, self._policy.budget
        most_tokens = budget.tokens if options.max_tokens is None else options.max_tokens
        most_cost = budget.cost if options.max_cost is None else options.max_cost
        return Budget(
            tokens=None if most_tokens is None else most_tokens - sum(tokens(request.tiers).values()),
            cost=None if most_cost is None else most_cost - request.cost,
        )

    def _partial(self, tier: Tier, narrator: Narrator) -> Partial | None:
        if not narrator.listening or tier.member.kind != "reasoner":
            return None
        return lambda text, read, written, most: narrator.partial(tier.name, text, read, written, most)
