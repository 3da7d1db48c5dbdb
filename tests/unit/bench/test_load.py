"""`roadwork-bench load` without a server: what it sends, reads, keeps and refuses.

`perf_analyzer/` holds what perf_analyzer 2.60 really wrote: a second each against the embedded server, three rendered
pictures of 96 x 54 pixels.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from roadwork_bench.cli import main
from roadwork_bench.errors import BenchError
from roadwork_bench.load import parse_options, points_of
from roadwork_bench.perf import loader, program, run
from roadwork_bench.perf.inputs import digest, feed
from roadwork_bench.perf.knee import knee
from roadwork_bench.perf.loader import glibc, loader_command, sources
from roadwork_bench.perf.points import GROWTH, ServerAway, figures
from roadwork_bench.perf.program import find_program
from roadwork_bench.perf.reading import (
    Export,
    csv_milliseconds,
    delayed_percent,
    problem,
    quantiles,
    read_csv,
    read_export,
    request_count,
)
from roadwork_bench.perf.run import Point, Ran, Target, arguments, end_group, run_point
from roadwork_bench.perf.serverside import between
from roadwork_bench.perf.serving import on_this_machine
from roadwork_bench.perf.show import show
from roadwork_bench.perf.sweep import begin, sweep
from roadwork_deploy.repository import default_repository, read_config
from tritonclient.grpc import model_config_pb2

RECORDED = Path(__file__).with_name("perf_analyzer")
REPOSITORY = default_repository()


def said(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8")


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[str], Export]:
    """recorded(name): the export of that run; each holds the bytes of its images, so that the files are packed."""

    def export(name: str) -> Export:
        path = tmp_path / f"{name}.json"
        path.write_bytes(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))
        return read_export(path)

    return export


# What it reads -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cascade", "ensemble"])
def test_our_quantiles_are_perf_analyzers_own(name: str, recorded: Callable[[str], Export]) -> None:
    export, row = recorded(name), read_csv(RECORDED / f"{name}.csv")
    assert len(export.begins) == request_count(said(name)) > 0
    ours, theirs = quantiles(export.milliseconds), csv_milliseconds(row)
    slowest = export.milliseconds.max()
    for quantile, value in theirs.items():
        # It rounds a quantile's place its own way: at most one request away from ours.
        order = np.sort(export.milliseconds)
        at = int(np.searchsorted(order, ours[quantile] - 0.01))
        assert order[max(0, at - 1)] - 0.5 <= value <= order[min(len(order) - 1, at + 1)] + 0.5 <= slowest + 0.5
    assert len(export.begins) / export.seconds == pytest.approx(row["Inferences/Second"], rel=0.1)
    assert len(export.throughput) == run.WINDOWS


def test_verdicts_are_counted_by_status(recorded: Callable[[str], Export]) -> None:
    export = recorded("cascade")
    assert export.statuses == {"ok": len(export.begins)}
    assert export.left_out == 0
    assert recorded("ensemble").statuses == {}


def test_of_a_stream_the_first_and_the_last_answer_count(recorded: Callable[[str], Export]) -> None:
    export = recorded("stream")
    assert (export.answers > 1).all()
    assert (export.first_milliseconds < export.milliseconds).all()
    # perf_analyzer says that it takes the first; what it reports is the last.
    assert "using the first response" in said("stream")
    theirs, ours = csv_milliseconds(read_csv(RECORDED / "stream.csv")), quantiles(export.milliseconds)
    assert theirs["p50"] == pytest.approx(ours["p50"], abs=0.5)
    assert theirs["p50"] > export.first_milliseconds.max()


def test_words_in_an_image_are_not_taken_for_times(tmp_path: Path) -> None:
    """Inside a JSON text every quote is escaped, whatever bytes an image has."""
    image = 'ÿ"timestamp":12,"response_timestamps":[1,2],"window_boundaries":[1,2]'
    request = {"timestamp": 5, "request_inputs": {"image": image}, "response_timestamps": [7]}
    experiment = {"experiment": {}, "requests": [request], "window_boundaries": [0, 10]}
    path = tmp_path / "export.json"
    text = json.dumps({"experiments": [experiment]}, ensure_ascii=False, separators=(",", ":"))
    path.write_bytes(text.encode("latin-1"))
    export = read_export(path)
    assert export.begins.tolist() == [5]
    assert export.ends.tolist() == [7]


@pytest.mark.parametrize("content", ["", "{}", '{"requests":[{"timestamp":1}],"window_boundaries":[1,2]}'])
def test_a_broken_export_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(content)
    with pytest.raises(BenchError, match="export"):
        read_export(path)


def test_why_it_stopped_is_one_line() -> None:
    assert "failed" in problem(said("failing")).lower() or "error" in problem(said("failing")).lower()
    assert problem("usage\n--a\nError: Failed to parse -x. Bad.\n\n") == "Error: Failed to parse -x. Bad."
    assert delayed_percent("[WARNING] Perf Analyzer was not able ... 12.50% of the requests were delayed.") == 12.5
    assert delayed_percent(said("ensemble")) == 0


def test_a_run_that_broke_off_counts_its_failures() -> None:
    ran = Ran(RECORDED / "none.csv", None, said("failing"), 99)
    target = Target("localhost:1", "decode")
    found = figures(Point("in_flight", 1), ran, {"decode": {"requests": 3, "failed": 0}}, target)
    assert (found["failed"], found["requests"]) == (1, 0)
    assert found["broke_off"].startswith("INVALID_IMAGE")
    assert figures(Point("in_flight", 1), ran, {"decode": {"failed": 7}}, target)["failed"] == 7
    other = Ran(RECORDED / "none.csv", None, "Error: Failed to parse -x.", 99)
    with pytest.raises(
        BenchError, match="perf_analyzer failed at 1 in flight with exit status 99: Error: Failed to parse"
    ):
        figures(Point("in_flight", 1), other, {}, target)


def test_a_point_says_when_the_server_fell_behind() -> None:
    ran = Ran(RECORDED / "ensemble.csv", None, said("ensemble"), 0)
    found = figures(Point("rate", 1000.0), ran, {}, Target("localhost:1", "perception"))
    assert found["fell_behind"]
    assert found["quantiles_of"] == "perf_analyzer's CSV"
    assert found["milliseconds"].keys() == {"p50", "p90", "p95", "p99"}


def export_of(begins: list[float], seconds: list[float]) -> Export:
    """Requests that began then and took so long, seconds."""
    first = (np.array(begins) * 1e9).astype(np.int64)
    ends = first + (np.array(seconds) * 1e9).astype(np.int64)
    return Export(first, ends, ends, np.ones(len(first), np.int64), np.array([0, int(10e9)], np.int64))


def test_a_queue_that_grows_is_told_from_slow_answers() -> None:
    begins = list(np.arange(0, 9, 0.1))
    slow = export_of(begins, [2.0 + 0.5 * (number % 2) for number in range(90)])
    assert slow.growth == pytest.approx(0, abs=0.01)
    behind = export_of(begins, [0.1 * begin for begin in begins])  # a tenth more than is answered
    assert behind.growth == pytest.approx(0.6, abs=0.01)
    assert slow.growth < GROWTH * slow.seconds < behind.growth
    assert export_of([0.0, 1.0], [1.0, 9.0]).growth == 0.0


def test_statistics_are_subtracted() -> None:
    zero = dict.fromkeys(("queue_ns", "compute_input_ns", "compute_infer_ns", "compute_output_ns", "total_ns"), 0)
    before = {"a": {"requests": 10, "failed": 1, "inferences": 10, "executions": 10, **zero}}
    after = {
        "a": {"requests": 14, "failed": 2, "inferences": 14, "executions": 12, **zero, "queue_ns": 8_000_000},
        "idle": {"requests": 0, "failed": 0, "inferences": 0, "executions": 0, **zero},
    }
    found = between(before, after)
    assert list(found) == ["a"]
    assert found["a"]["requests"] == 4
    assert found["a"]["failed"] == 1
    assert found["a"]["batch"] == 2
    assert found["a"]["queue_ms"] == 2


# What it sends -------------------------------------------------------------------------------------------------------
def config_of(name: str) -> Any:
    return read_config(REPOSITORY / name / "config.pbtxt")


def content(row: dict[str, Any], tensor: str) -> bytes:
    return base64.b64decode(row[tensor]["content"]["b64"])


def test_an_image_is_its_length_and_its_bytes() -> None:
    made = feed("roadwork", config_of("roadwork"), [b"abc"], {"tiers": False}, REPOSITORY)
    assert content(made.rows[0], "image") == b"\x03\x00\x00\x00abc"
    assert json.loads(content(made.rows[0], "options")[4:]) == {"tiers": False}
    assert not made.large
    assert made.texts
    assert not made.decoupled
    assert feed("roadwork_stream", config_of("roadwork_stream"), [b"abc"], {}, REPOSITORY).decoupled


def test_a_canvas_is_what_decode_makes_and_travels_by_shared_memory() -> None:
    import cv2

    picture = np.full((32, 64, 3), 200, np.uint8)
    image = cv2.imencode(".png", picture)[1].tobytes()
    made = feed("yolox_nano", config_of("yolox_nano"), [image], {}, REPOSITORY)
    assert made.rows[0]["canvas"]["shape"] == [640, 640, 3]
    canvas = np.frombuffer(content(made.rows[0], "canvas"), np.uint8).reshape(640, 640, 3)
    assert (canvas[320, 320] == 200).all()
    assert (made.large, made.texts) == (True, False)
    glance = feed("glance", config_of("glance"), [image], {}, REPOSITORY)
    assert (glance.large, glance.texts) == (True, True)  # its output is a canvas


def test_a_tier_is_asked_its_question() -> None:
    from PIL import Image

    made = feed(
        "tiny_vlm_s",
        config_of("tiny_vlm_s"),
        [Path(REPOSITORY.parent / "docs/verdict.jpg").read_bytes()],
        {},
        REPOSITORY,
    )
    row = made.rows[0]
    import io

    with Image.open(io.BytesIO(base64.b64decode(content(row, "image")[4:]))) as picture:
        assert picture.format == "JPEG"
    assert b"{findings}" not in content(row, "text_input")
    assert content(row, "return_logprobs") == b"\x01"
    assert made.decoupled


def test_what_images_cannot_fill_is_refused() -> None:
    config = text_format.Parse(
        "input [{name: 'image' data_type: TYPE_STRING dims: [1]}, {name: 'mask' data_type: TYPE_UINT8 dims: [4]}]",
        model_config_pb2.ModelConfig(),
    )
    with pytest.raises(BenchError, match="model m needs mask too"):
        feed("m", config, [b"a"], {}, REPOSITORY)
    with pytest.raises(BenchError, match="--options: model decode takes none"):
        feed("decode", config_of("decode"), [b"a"], {"a": 1}, REPOSITORY)
    config = text_format.Parse("input [{name: 'x' data_type: TYPE_FP32 dims: [4]}]", model_config_pb2.ModelConfig())
    with pytest.raises(BenchError, match="model m takes x"):
        feed("m", config, [b"a"], {}, REPOSITORY)


def test_arguments_of_open_and_closed_loops() -> None:
    data, csv = Path("in.json"), Path("out.csv")
    closed = arguments(Target("h:1", "m"), Point("in_flight", 4), data, 6.0, csv, None)
    assert "--concurrency-range 4" in " ".join(closed)
    assert "--async" not in closed
    assert "--measurement-interval 2000" in " ".join(closed)
    opened = arguments(Target("h:1", "m", shared_memory=True), Point("rate", 2.5), data, 6.0, csv, Path("e.json"))
    text = " ".join(opened)
    assert "--request-rate-range 2.5 --request-distribution poisson --async --shared-memory system" in text
    assert "--profile-export-file e.json" in text
    assert "--async --streaming" in " ".join(
        arguments(Target("h:1", "m", True), Point("in_flight", 1), data, 3, csv, None)
    )


# What it keeps -------------------------------------------------------------------------------------------------------
def new_report(**changes: Any) -> dict[str, Any]:
    about = {"machine": {"cpu": "one"}, "versions": {"python": "3"}, "commit": "abc", "command": "c"}
    images = {"count": 2, "kilobytes_mean": 1.0, "digest": "d"}
    settings = {"seconds": 1.0, "streaming": False, "tensors": "gRPC messages"}
    return {"about": about, "model": "m", "server": {"triton": "2"}, "images": images, "settings": settings, **changes}


def point_of(point: Point) -> dict[str, Any]:
    """Answers of a queue with one server of 10 a second."""
    throughput = min(10.0, 8.0 * point.value)
    latency = point.value / throughput * 1000
    ms = dict.fromkeys(("p50", "p90", "p95", "p99", "mean"), latency)
    return {
        "kind": point.kind,
        "value": point.value,
        "failed": 0,
        "requests": 200,
        "throughput": throughput,
        "milliseconds": ms,
        "models": {},
    }


def test_a_sweep_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    points = [Point("in_flight", value) for value in (1.0, 2.0, 4.0)]

    def away(point: Point) -> dict[str, Any]:
        if point.value == 4:
            raise ServerAway("h:1: the server does not answer")
        return point_of(point)

    with pytest.raises(ServerAway, match=r"2 points are kept in .*load.json; --resume goes on"):
        sweep(begin(new_report(), out, False), points, away, out)
    asked = []

    def measure(point: Point) -> dict[str, Any]:
        asked.append(point.value)
        return point_of(point)

    report = sweep(begin(new_report(), out, True), points, measure, out)
    assert asked == [4]
    assert [point["value"] for point in report["points"]] == [1, 2, 4]
    assert json.loads(out.read_text())["points"] == report["points"]
    assert report["knees"] == {"in_flight": 1.0}
    assert "knee" in show(report)


def test_a_point_that_broke_off_is_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    broken = {"kind": "in_flight", "value": 1.0, "failed": 3, "requests": 0, "broke_off": "why", "models": {}}
    report = sweep(begin(new_report(), out, False), [Point("in_flight", 1.0)], lambda _: broken, out)
    assert "broke off, 3 or more requests failed: why" in show(report)
    assert "FAILED at 1 in flight: 3 requests" in show(report)
    report = sweep(begin(new_report(), out, True), [Point("in_flight", 1.0)], point_of, out)
    assert [point["failed"] for point in report["points"]] == [0]


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("model", {"model": "other"}),
        ("images", {"images": {"count": 3, "digest": "e"}}),
        ("server", {"server": {"triton": "3"}}),
        ("settings", {"settings": {"seconds": 2.0}}),
    ],
)
def test_sweeps_of_different_things_are_not_mixed(tmp_path: Path, field: str, changed: dict[str, Any]) -> None:
    out = tmp_path / "load.json"
    sweep(begin(new_report(), out, False), [Point("in_flight", 1.0)], point_of, out)
    with pytest.raises(BenchError, match=rf"load.json: {field} is .* this sweep's is"):
        begin(new_report(**changed), out, True)
    assert begin(new_report(**changed), out, False)["points"] == []


def test_results_of_another_machine_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "load.json"
    sweep(begin(new_report(), out, False), [Point("in_flight", 1.0)], point_of, out)
    before = out.read_text()
    other = new_report()
    other["about"] = {**other["about"], "machine": {"cpu": "two"}}
    for resume in (True, False):
        with pytest.raises(BenchError, match=r"results of two machines are not mixed: give another --out"):
            begin(other, out, resume)
    assert out.read_text() == before
    out.write_text("[]")
    with pytest.raises(BenchError, match=r"is no result of roadwork-bench load"):
        begin(new_report(), out, False)
    with pytest.raises(BenchError, match="--resume needs --out"):
        begin(new_report(), None, True)


def test_the_knee_is_the_most_throughput_for_its_latency() -> None:
    # A queue with one server: it saturates at two in flight, and power falls from there.
    assert knee([5.0, 9.0, 10.0, 10.0], [200.0, 222.0, 400.0, 800.0]) == 1
    assert knee([5.0, 9.0], [200.0, 222.0]) is None


# What it refuses -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("in_flight", "rate", "message"),
    [
        ("1,x", None, "--in-flight: 'x' is no whole number over 0"),
        ("1,0", None, "--in-flight: '0'"),
        ("1.5", None, "--in-flight: '1.5'"),
        (None, "5,-1", "--rate: '-1' is no number over 0"),
        (None, "inf", "--rate: 'inf'"),
    ],
)
def test_loads_are_numbers_over_zero(in_flight: str | None, rate: str | None, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        points_of(in_flight, rate)


def test_loads_are_taken_once() -> None:
    assert points_of("1,2,1", None) == [Point("in_flight", 1), Point("in_flight", 2)]
    assert points_of(None, "2.5") == [Point("rate", 2.5)]
    with pytest.raises(BenchError, match="--options: '1' is no JSON object"):
        parse_options("1")


def test_without_perf_analyzer_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(program.VARIABLE, raising=False)
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(program, "glibc", lambda: (2, 36))
    with pytest.raises(BenchError, match=r"needs glibc 2.38 and this system has 2.36; run: .* --fetch-loader"):
        find_program()
    monkeypatch.setattr(program, "glibc", lambda: (2, 39))
    monkeypatch.setattr(program, "_installed", lambda: None)
    with pytest.raises(BenchError, match=r"is not installed; run: pip install 'roadwork\[load\]'"):
        find_program()


def test_a_program_that_is_another_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(program.VARIABLE, sys.executable)
    with pytest.raises(BenchError, match=r"\$ROADWORK_PERF_ANALYZER does not start: Python"):
        find_program()
    monkeypatch.setenv(program.VARIABLE, str(tmp_path / "none"))
    with pytest.raises(BenchError, match="does not start: No such file"):
        find_program()


def test_the_loader_takes_debian_from_the_configured_mirror(tmp_path: Path) -> None:
    keys = tmp_path / "keys.gpg"
    keys.touch()
    text = sources(["http://mirror.example/debian"], keys)
    assert text == f"deb [arch=amd64 signed-by={keys}] http://mirror.example/debian trixie main\n"
    with pytest.raises(BenchError, match="install debian-archive-keyring"):
        sources(["http://mirror.example/debian"], tmp_path / "none.gpg")
    assert loader_command(tmp_path) is None
    assert glibc() >= (2, 17)


def test_without_apt_the_container_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"apt-get is not here.*nvcr.io/nvidia/tritonserver:.*-py3-sdk"):
        loader.fetch(tmp_path / "loader")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it has started; it need not obey."""
    monkeypatch.setattr(run, "DRAIN_SECONDS", 0.5)
    monkeypatch.setattr(run, "STOP_SECONDS", 0.3)
    pid = tmp_path / "pid"
    script = f"trap '' INT TERM; sleep 60 & echo $! > {pid}; wait; wait"
    with pytest.raises(BenchError, match=r"has not ended after 0.7 s"):
        run_point(["sh", "-c", script], Target("h:1", "m"), Point("rate", 1), tmp_path / "in.json", 0.1, tmp_path)
    child = Path(f"/proc/{int(pid.read_text())}/stat")
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_that_has_ended_needs_no_end() -> None:
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait(10)
    end_group(process)
    assert process.returncode == 0


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load"]) == 2
    assert "name a model" in capsys.readouterr().err
    assert main(["load", "roadwork", "--seconds", "0"]) == 2
    assert "--seconds: 0 is not between" in capsys.readouterr().err


def test_the_same_images_have_the_same_digest() -> None:
    assert digest([b"a", b"b"]) == digest([b"a", b"b"]) != digest([b"b", b"a"])


@pytest.mark.parametrize(
    ("url", "here"),
    [("127.0.0.1:8001", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.2:8001", False), ("box:1", False)],
)
def test_shared_memory_is_for_this_machine(url: str, here: bool) -> None:
    assert on_this_machine(url) is here
