"""`roadwork-bench report` on small result files, and whether what is committed is what the results say."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.page import html, registry
from roadwork_bench.page.blocks import Table, number
from roadwork_bench.page.results import Result, read_results
from roadwork_bench.report import DOCUMENT, PAGE, RESULTS, build

ABOUT = {"command": "roadwork-bench x", "date": "2026-01-01", "commit": "0123456789ab"}
SMALL = {**ABOUT, "machine": {"cpu": "Small", "cores": 2, "system": "Linux"}}
LARGE = {**ABOUT, "machine": {"cpu": "Large", "cores": 64, "system": "Linux"}}
RATIO = {"median": 1.1, "interval_95": [1.0, 1.2], "pairs": [1.0, 1.1, 1.2]}
WARMUP = {
    "about": SMALL,
    "milliseconds": [[20.0, 11.0, 10.0], [15.0, 10.0, 10.0]],
    "first_to_tenth": {"median": 1.75, "each": [2.0, 1.5]},
    "limit": 1.5,
}


def load_report(model: str, about: dict[str, Any]) -> dict[str, Any]:
    point = {"kind": "rate", "requests": 100, "failed": 0, "machine": {"busy_cores": 1.5}}
    points = [
        {
            **point,
            "value": rate,
            "throughput": rate - 0.1,
            "milliseconds": {"p50": 9.0, "p90": 10, "p95": 11, "p99": 12.5},
        }
        for rate in (2.0, 4.0)
    ]
    points.append({**point, "value": 8.0, "requests": 0, "failed": 3, "broke_off": "server | away"})
    settings = {"seconds": 5, "streaming": False, "options": {}, "tensors": "gRPC messages", "perf_analyzer": "2.60"}
    images = {"count": 3, "kilobytes_mean": 100.0}
    return {
        "about": about,
        "model": model,
        "settings": settings,
        "images": images,
        "points": points,
        "knees": {"rate": 4.0},
    }


def write(folder: Path, **reports: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for stem, report in reports.items():
        (folder / f"{stem}.json").write_text(json.dumps(report))
    return folder


def built(folder: Path) -> tuple[str, str, dict[str, str]]:
    return build(folder, folder.parent / "report.html", folder.parent / "docs" / "benchmarks.md")


class Links(HTMLParser):
    """Whatever the page would fetch, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.jumps: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            elif name in ("src", "href", "xlink:href", "data") and value:
                (self.jumps if value.startswith("#") else self.fetched).append(value)


def test_the_committed_page_and_document_are_what_the_results_say() -> None:
    page, document, unread = build(RESULTS, PAGE, DOCUMENT)
    advice = "run: roadwork-bench report"
    assert unread == {}, "results that are not shown"
    assert DOCUMENT.read_text(encoding="utf-8") == document, advice
    # The bytes of plots are matplotlib's, which differ with its version.
    assert html.without_plots(PAGE.read_text(encoding="utf-8")) == html.without_plots(page), advice
    assert PAGE.stat().st_size < 1_500_000


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write(tmp_path / "results", warmup=WARMUP, load_a=load_report("a", SMALL))
    assert built(folder) == built(folder)


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    reports = {f"load_{name}": load_report(name, SMALL) for name in "ab"}
    page, _, _ = built(write(tmp_path / "results", warmup=WARMUP, **reports, load_c=load_report("c", LARGE)))
    links = Links(page)
    assert links.fetched == []
    assert page.count("<svg") == 2
    assert len(links.ids) == len(set(links.ids)), "ids of two plots are the same"
    assert {jump.removeprefix("#") for jump in links.jumps} <= set(links.ids)
    assert "url(#" in page
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(links.ids)
    assert not re.search(r"@import|url\((?!#)", page)


def test_goals_say_whether_they_are_reached(tmp_path: Path) -> None:
    page, document, _ = built(write(tmp_path / "results", warmup=WARMUP))
    (line,) = [line for line in document.splitlines() if line.startswith("| first request over the tenth")]
    assert "at most 1.5 | **not reached** | Small, 2 cores | `warmup.json` |" in line
    assert '<span class="no">not reached</span>' in page
    assert "Measured: `roadwork-bench x`; Small, 2 cores; commit 0123456789ab; 2026-01-01." in document


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    page, document, _ = built(write(tmp_path / "results", warmup=WARMUP))
    known = registry.all_kinds()
    for name, kind in known.items():
        shown = f"{kind.TITLE}: not measured; run `{kind.COMMAND}`" in document
        assert shown == (name != "warmup"), name
    assert "not measured; run <code>roadwork-bench overhead" in page


def test_files_of_unknown_kind_or_form_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    broken = copy.deepcopy(WARMUP)
    del broken["limit"], broken["first_to_tenth"]
    folder = write(tmp_path / "results", warmup=WARMUP, warmup_old=broken, riddle={"about": SMALL})
    _, document, unread = built(folder)
    assert set(unread) == {"riddle.json", "warmup_old.json"}
    assert "no kind of result" in unread["riddle.json"]
    assert "'first_to_tenth'" in unread["warmup_old.json"]
    assert "- `riddle.json`: " in document
    assert "All stages, one request after the other" in document
    command = [
        "report",
        "--results",
        str(folder),
        "--html",
        str(tmp_path / "a.html"),
        "--markdown",
        str(tmp_path / "a.md"),
    ]
    assert main(command) == 1
    assert (tmp_path / "a.md").read_text() == document.replace("../report.html", "a.html")


def test_a_schema_of_another_time_is_named(tmp_path: Path) -> None:
    old = {"schema": "roadwork-bench ablation 0", "about": SMALL}
    _, _, unread = built(write(tmp_path / "results", ablations_cache=old, warmup=WARMUP))
    assert "roadwork-bench ablation 0" in unread["ablations_cache.json"]


def test_machines_never_share_a_table(tmp_path: Path) -> None:
    reports = {"load_a": load_report("a", SMALL), "load_b": load_report("b", LARGE), "load_c": load_report("c", SMALL)}
    _, document, unread = built(write(tmp_path / "results", **reports))
    assert unread == {}
    assert "### `load_a.json`, `load_c.json`" in document
    assert "### `load_b.json`" in document


def test_a_file_of_two_machines_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = {"runs": {"one": {"about": SMALL}, "two": {"about": LARGE}}}
    folder = write(tmp_path / "results", quantize_cpu=mixed)
    with pytest.raises(BenchError, match=r"several machines \(Large, 64 cores; Small, 2 cores\)"):
        read_results(folder)
    assert main(["report", "--results", str(folder), "--html", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is not JSON"), ("[]", "is a list"), (None, "is not a folder"), ("", "is not JSON")]
)
def test_bad_results_are_refused_in_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    folder = tmp_path / "results"
    if content is not None:
        folder.mkdir()
        (folder / "load_x.json").write_text(content)
    with pytest.raises(BenchError, match=said):
        built(folder)


def test_no_result_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="has no result file"):
        built(write(tmp_path / "results"))


def test_the_machine_of_a_gpu_is_its_gpu(tmp_path: Path) -> None:
    found = read_results(
        write(
            tmp_path / "results",
            tier_x={"about": SMALL, "gpu": "NVIDIA H200"},
            escalation={"about": SMALL, "gpus": ["NVIDIA H200"] * 2},
            average_precision={"command": "roadwork-export evaluate"},
        )
    )
    machines = {result.stem: result.machine for result in found}
    assert machines["tier_x"] == "NVIDIA H200, Small, 2 cores"
    assert machines["escalation"] == "2 x NVIDIA H200, Small, 2 cores"
    assert "does not name" in machines["average_precision"]


def test_every_file_name_has_one_kind() -> None:
    known = registry.all_kinds()
    assert registry.kind_of("tier_h200", known) == "tier"
    assert registry.kind_of("tier_peers", known) == "tier_peers"
    assert registry.kind_of("tier_peers_h200", known) == "tier_peers"
    assert registry.kind_of("something", known) is None


def test_cells_cannot_break_a_table(tmp_path: Path) -> None:
    page, document, _ = built(write(tmp_path / "results", load_a=load_report("<b>a|b</b>", SMALL)))
    assert "server \\| away" in document
    assert "&lt;b&gt;a|b&lt;/b&gt;" in page
    assert "<b>" not in page
    with pytest.raises(ValueError, match="2 cells, the header 1"):
        Table(["one"], [["a", "b"]])


def test_figures_are_written_for_people() -> None:
    assert (number(0), number(0.0)) == ("0", "0.000")
    expected = {1.1682: "1.17", 94.12: "94.1", 3993.4: "3,993", 0.0135: "0.013", 743: "743"}
    assert {value: number(value) for value in expected} == expected
    assert (number(2.4e-7), number(0.000237)) == ("2.4e-07", "0.00024")
    assert number(None) == "–"


def test_the_growth_of_detectors_is_drawn_and_judged(tmp_path: Path) -> None:
    rows = [
        {"what": side, "detectors": count, "in_flight": 1, "images": 9, "milliseconds_p50": 5.0 * count}
        for side in ("served", "bare")
        for count in (1, 3)
    ]
    report = {
        "schema": "roadwork-bench ablation 1", "about": SMALL, "name": "detectors", "question": "Q?", "answer": "A.",
        "rows": rows, "ratios": [], "notes": [], "network": "scene", "limit_ms": 1.0,
        "added": {"3": {"bare": RATIO, "served": RATIO, "server": RATIO}},
    }  # fmt: skip
    page, document, unread = built(write(tmp_path / "results", ablations_detectors=report))
    assert unread == {}
    assert "ms that the server adds to each" in page
    assert "1.10 (1.00 to 1.20, range of 3) ms | at most 1 ms | **not reached**" in document
    assert isinstance(Result("x", report, "m").source, str)
