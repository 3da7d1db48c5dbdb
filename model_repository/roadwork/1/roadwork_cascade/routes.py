"""Which tiers an undecided image climbs to, and whether a tier is worth asking."""

from __future__ import annotations

from roadwork_cascade import pool
from roadwork_cascade.policy_parts import Member, Policy, Route, Tier
from roadwork_cascade.request import Request
from roadwork_cascade.verdict import is_roadwork

SLACK = 1e-9
"""Sums are rounded: an answer between the two ends may come out this little beyond them."""


def choose_route(policy: Policy, request: Request) -> Route | None:
    """The first route whose condition holds; None where none does.

    Where too few members have answered, what is known is no reason to stop: routes that climb nowhere are passed over.
    """
    quorate = request.quorate()
    for route in policy.routes:
        if (route.climb or quorate) and request.holds(route.when):
            return route
    return None


def climb_of(policy: Policy, route: Route | None) -> list[Tier]:
    """The tiers of a route, in its order."""
    return [] if route is None else [policy.tier(name) for name in route.climb]


def can_change(policy: Policy, request: Request, member: Member) -> bool:
    """Whether some answer of `member` could change what the verdict says.

    The pool P = sigmoid(alpha * S + beta), S = sum(w logit p) / sum(w), never falls as p of one member grows (w > 0,
    alpha >= 0), and neither does p = sigmoid(a * logit(s) + b) as its raw answer s grows (a >= 0). So P at s = 0 and at
    s = 1, with this member's weight in the sum, bounds P at every s in between: where both lie on the side of the
    threshold on which P is now, no answer can bring it to the other. A member that is missing for a quorum is always
    worth asking.
    """
    if not request.quorate():
        return True
    least, most = (float(p) for p in pool.calibrate([0.0, 1.0], member.a, member.b))
    low, high = request.pooled_with(member, [least, most])
    now = is_roadwork(request.probability, policy.threshold)
    return is_roadwork(low - SLACK, policy.threshold) != now or is_roadwork(high + SLACK, policy.threshold) != now
