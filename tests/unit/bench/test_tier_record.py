"""What `record --serve` refuses before any engine starts; tests/server/test_tier_record.py asks real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from roadwork_bench.about import CHECKOUT
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.folds import Folds
from roadwork_bench.table import Table
from roadwork_bench.tier_record import record_tiers, served_tiers
from roadwork_cascade.policy import load_policy, parse_policy
from roadwork_deploy.profile import load_profile

REPOSITORY = CHECKOUT / "model_repository"
POLICY = REPOSITORY / "roadwork" / "policy.yaml"


def test_tiers_are_the_profiles_less_those_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tiers = load_profile("cpu-tiers")
    assert served_tiers(tiers, ()) == list(tiers.tiers)
    assert served_tiers(tiers, tiers.tiers[1:]) == [tiers.tiers[0]]
    with pytest.raises(BenchError, match="those that it has are left out"):
        served_tiers(tiers, tiers.tiers)
    out = tmp_path / "table.json"
    assert main(["record", str(tmp_path), "--out", str(out), "--serve", "cpu"]) == 2
    assert "--serve cpu: the profile serves no tiers; try cpu-tiers" in capsys.readouterr().err
    assert not out.exists()


def test_photographs_that_may_have_trained_a_tier_need_weights_of_their_fold(
    make_table: Callable[..., Table], tmp_path: Path
) -> None:
    table = make_table(2, 2)
    for row in table.rows:
        row.publishable, row.fold = True, "3"
    folds = Folds(tmp_path, {row.group: "3" for row in table.rows})
    with pytest.raises(BenchError, match="3/tiny_vlm_s has no weights of the tier") as caught:
        record_tiers(
            tmp_path,
            table,
            REPOSITORY,
            load_profile("cpu-tiers"),
            load_policy(POLICY),
            folds=folds,
            without=["tiny_vlm_m"],
        )
    assert "--without tiny_vlm_s" in str(caught.value)
    assert "tiny_vlm_s" not in table.kinds


def test_a_tier_that_is_told_findings_is_not_asked_without_them(
    make_table: Callable[..., Table], tmp_path: Path
) -> None:
    data = load_policy(POLICY).to_dict()
    next(tier for tier in data["tiers"] if "tiny_vlm_s" in tier["members"])["findings"] = True
    with pytest.raises(BenchError, match="findings"):
        record_tiers(tmp_path, make_table(2, 2), REPOSITORY, load_profile("cpu-tiers"), parse_policy(data))


def test_a_tier_without_a_prompt_is_named(make_table: Callable[..., Table], tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"tier tiny_vlm_s: .*prompt\.json"):
        record_tiers(tmp_path, make_table(2, 2), tmp_path, load_profile("cpu-tiers"), load_policy(POLICY))
