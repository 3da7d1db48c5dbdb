"""`record --serve` asks a tier as the served cascade does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from roadwork_bench.inprocess import InProcessEngine
from roadwork_bench.table import Row
from roadwork_bench.tier_record import ask_all, tier_of
from roadwork_cascade.policy import load_policy

if TYPE_CHECKING:
    from tier_policy import TierServer

pytestmark = pytest.mark.timeout(400)


def test_what_is_recorded_is_what_the_cascade_hears(tiers: TierServer, tmp_path: Path) -> None:
    repository = tiers.server.repository
    policy = load_policy(repository / "roadwork" / "policy.yaml")
    (tmp_path / "street.jpg").write_bytes(tiers.image)
    with tiers.client() as client:
        said = {entry.member: entry for entry in client.predict(tiers.image).tiers}
    saved: list[int] = []
    with InProcessEngine(repository) as decoder:
        for name, entry in said.items():
            row = Row("street.jpg", True, "drive", "camera")
            tier = tier_of(repository, name, policy)
            url = tiers.server.grpc_url
            asyncio.run(
                ask_all(tmp_path, [row], url, decoder, repository, tier, policy, "digest", lambda: saved.append(1))
            )
            assert row.scores[name] == pytest.approx(entry.raw, abs=0.01)
            assert row.tokens[name] == [entry.tokens.input, entry.tokens.output]
            assert row.ms[name] > 0
            assert row.models[name] == "digest"
    assert len(said) == 2
