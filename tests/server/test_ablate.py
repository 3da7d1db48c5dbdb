"""`roadwork-bench ablate` on a real server, in its shortest form."""

from __future__ import annotations

import json
from pathlib import Path

from roadwork_bench.cli import main


def test_the_response_cache_is_measured_or_said_to_be_missing(tmp_path: Path) -> None:
    assert main(["ablate", "cache", "--seconds", "0.3", "--block-seconds", "0.3", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "ablations_cache.json").read_text())
    assert report["about"]["command"].startswith("roadwork-bench ablate cache")
    if not report["available"]:
        assert "no response cache" in report["answer"]
        return
    rows = {row["what"]: row for row in report["rows"]}
    assert set(rows) == {"no cache", "hit", "no cache, new frames", "miss"}
    # A hit computes no network. That is far from any noise, whatever the machine does meanwhile.
    hit = next(one for one in report["ratios"] if one["measure"] == "CPU time" and one["first"] == "hit")
    assert hit["median"] < 0.5
