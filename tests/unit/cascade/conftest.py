"""A cascade over stand-in models (`engine_double`)."""

from __future__ import annotations

import copy
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from roadwork_cascade.cascade import Cascade
from roadwork_cascade.policy import Policy, parse_policy
from roadwork_cascade.verdict import schema_problems

# Test files import their doubles by plain name.
sys.path.insert(0, str(Path(__file__).parent))
from engine_double import POLICY, Clock, FakeEngine

Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def data() -> dict[str, Any]:
    """A policy as plain dicts, to be changed by the test."""
    return copy.deepcopy(POLICY)


@pytest.fixture
def policy(data: dict[str, Any]) -> Policy:
    return parse_policy(data)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_ask(engine: FakeEngine, clock: Clock) -> Callable[[dict[str, Any]], Ask]:
    """A cascade over `engine` for a policy; each verdict it gives is checked against the schema."""

    def make(data: dict[str, Any]) -> Ask:
        cascade = Cascade(parse_policy(data), engine, clock=clock, versions={"scene": "3"})

        async def ask(image: bytes = b"an image", **options: Any) -> dict[str, Any]:
            verdict = await cascade.run(image, **options)
            assert schema_problems(verdict) == []
            return verdict

        return ask

    return make


@pytest.fixture
def ask(make_ask: Callable[[dict[str, Any]], Ask], data: dict[str, Any]) -> Ask:
    return make_ask(data)
