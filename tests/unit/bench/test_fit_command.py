from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from roadwork_bench.cli import main
from roadwork_bench.table import Table, load_table
from roadwork_cascade.policy import Policy, load_policy, parse_policy, write_policy

Make = Callable[..., Policy]


@pytest.fixture
def given(tmp_path: Path, make_policy: Make, add_tiers: Make, tier_table: Callable[..., Table]) -> tuple[str, str]:
    """A table and a policy as files."""
    data = add_tiers(make_policy()).to_dict()
    for stage in data["stages"]:
        stage["price_per_second"] = 0.01
    table, policy = tmp_path / "table.json", tmp_path / "policy.yaml"
    write_policy(parse_policy(data), policy)
    tier_table(12, 6, information=1.5).save(table)
    return str(table), str(policy)


def test_fit_writes_a_policy_a_plot_and_what_its_exits_are_certified_for(
    given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, policy = given
    before = Path(policy).read_bytes()
    written, plot, report = tmp_path / "new.yaml", tmp_path / "plots" / "cost.png", tmp_path / "report.json"
    words = ["fit", table, "--policy", policy, "--write", str(written), "--plot", str(plot), "--cv-folds", "3"]
    assert main([*words, "--max-ms", "60", "--accuracy-json", str(report)]) == 0
    assert Path(policy).read_bytes() == before
    fitted = load_policy(written)
    assert fitted.fitted is not None
    with Image.open(plot) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    said = capsys.readouterr().out
    assert "Stacking" in said
    assert "Early exits, out of fold:" in said

    found = json.loads(report.read_text())
    frontier = found["frontier"]
    assert (frontier["axis"], frontier["bound"]) == ("ms", 60)
    for lower, higher in zip(frontier["validation"], frontier["validation"][1:], strict=False):
        assert lower["ms_an_image"] < higher["ms_an_image"]
        assert lower["mcc"] < higher["mcc"]
    assert frontier["chosen"]["mcc"] == found["overall"]["mcc"]
    assert {"perception alone", "small alone", "large alone"} < set(frontier["ways"])
    sidecar = json.loads((tmp_path / "new_exits.json").read_text())
    assert sidecar["policy"] == fitted.identity
    assert sidecar["exits"] == found["certificates"]["exits"]
    assert sum(one["images"] for one in sidecar["exits"]) <= 72


def test_what_is_held_out_certifies_and_nothing_else_does(
    given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, policy = given
    written, out = tmp_path / "new.yaml", tmp_path / "exits.json"
    words = ["fit", table, "--policy", policy, "--write", str(written), "--cv-folds", "2"]
    assert main([*words, "--max-cost", "0.01", "--hold-out", "0.34"]) == 0
    fitted = load_policy(written).fitted
    assert fitted is not None
    assert fitted["groups"] == 8
    main(["certify", table, "--policy", str(written), "--target", "0.9", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["drives"] == 4
    assert found["exits"] == [one | {"target": 0.9} for one in found["exits"]]
    assert "left out" in capsys.readouterr().out

    assert main([*words, "--max-cost", "0.01"]) == 0
    assert main(["certify", table, "--policy", str(written)]) == 2
    assert "fit with --hold-out" in capsys.readouterr().err


def _spoiled(table: str, change: Callable[[Table], None]) -> None:
    loaded = load_table(Path(table))
    change(loaded)
    loaded.save(Path(table))


def _one_class(table: Table) -> None:
    table.rows = [row for row in table.rows if row.roadwork]


def _five_images(table: Table) -> None:
    table.rows = table.rows[:5]


def _one_group(table: Table) -> None:
    for row in table.rows:
        row.group = "only"


def _two_models(table: Table) -> None:
    for number, row in enumerate(table.rows):
        row.models["eye"] = "aaaa" if number < 40 else "bbbb"


def _no_times(table: Table) -> None:
    for row in table.rows:
        del row.ms["small"]


def _nothing(_: Table) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        (_one_class, [], "at least two groups"),
        (_five_images, [], "at least two groups"),
        (_one_group, [], "at least two groups"),
        (_two_models, [], "was scored by eye bbbb, others by aaaa: record the table again"),
        (_no_times, ["--max-cost", "1"], "no milliseconds of small: give --milliseconds small=MS"),
        (_nothing, ["--max-cost", "1e-9"], "no policy holds --max-cost 1e-09: the cheapest found takes"),
        (_nothing, ["--max-ms", "-3"], "--max-ms must be over 0"),
        (_nothing, ["--target", "2"], "--target is an error rate between 0 and 1"),
        (_nothing, ["--hold-out", "0.9"], "--hold-out is a share of the drives"),
        (_nothing, ["--milliseconds", "small"], "--milliseconds takes MEMBER=MS"),
        (_nothing, ["--milliseconds", "small=-1"], "--milliseconds small: must be over 0"),
    ],
)
def test_bad_cases_end_in_one_line_and_write_nothing(
    spoil: Callable[[Table], None],
    words: list[str],
    message: str,
    given: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, policy = given
    _spoiled(table, spoil)
    before = Path(policy).read_bytes()
    assert main(["fit", table, "--policy", policy, *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert Path(policy).read_bytes() == before


def test_a_climb_without_tiers_and_its_plot(
    given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, policy = given
    plot, out = tmp_path / "shares.png", tmp_path / "climb.json"
    words = ["climb", table, "--policy", policy, "--cv-folds", "2", "--shares", "0,0.25,1"]
    assert main([*words, "--plot", str(plot), "--out", str(out)]) == 0
    with Image.open(plot) as picture:
        picture.load()
    assert [one["climb"] for one in json.loads(out.read_text())["curves"]] == [
        ["fast"],
        ["precise"],
        ["fast", "precise"],
    ]

    def no_tiers(loaded: Table) -> None:
        for row in loaded.rows:
            row.scores = {name: score for name, score in row.scores.items() if name not in ("small", "large")}

    _spoiled(table, no_tiers)
    capsys.readouterr()
    assert main(words) == 2
    assert "record them with --tier MEMBER=FILE" in capsys.readouterr().err
    assert main(["fit", table, "--policy", policy, "--cv-folds", "2", "--max-ms", "400", "--dry-run"]) == 0
