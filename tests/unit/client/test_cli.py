"""The command `roadwork`: lines, JSON, copies, folders and globs, exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image
from roadwork_client import Verdict, __version__
from roadwork_client.cli import main
from roadwork_client.terminal import Progress, Terminal
from triton_double import VERDICT, Ask, TritonDouble


@pytest.fixture
def street(tmp_path: Path, jpeg: bytes) -> Path:
    """A folder of three images, one of them below another folder, and a file that is none."""
    folder = tmp_path / "street"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.JPEG", "deep/c.png"):
        (folder / name).write_bytes(jpeg)
    (folder / "notes.txt").write_text("not an image")
    return folder


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_is_one_object_a_line(triton: TritonDouble, street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--url", triton.url, "--json", str(street)]) == 0
    lines = objects(capsys)
    assert [line["image"] for line in lines] == [str(street / name) for name in ("a.jpg", "b.JPEG", "deep/c.png")]
    for line in lines:
        assert line["size"] == VERDICT["image"]
        for name in set(VERDICT) - {"image"}:
            assert line[name] == VERDICT[name]


def test_lines_to_read(triton: TritonDouble, street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--url", triton.url, "--table", str(street / "a.jpg")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    for part in ("a.jpg", "█████████░", "0.930", "roadwork", "perception", "45.6 ms", "cone 0.90 ×2"):
        assert part in line
    assert '"ROAD WORK AHEAD"' in line
    assert "centernet missing (error)" in line
    assert "fast yes 0.80 (70+1 tokens, 1e-06)" in line
    assert "\x1b" not in line  # no colour where no terminal reads it


def test_globs_and_repeats(triton: TritonDouble, street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(street / "*.jpg"), str(street / "**" / "*.png"), str(street / "a.jpg")]
    assert main(["predict", "--url", triton.url, "--json", *words]) == 0
    assert [Path(line["image"]).name for line in objects(capsys)] == ["a.jpg", "c.png"]


def test_images_that_fail(triton: TritonDouble, street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def behave(ask: Ask) -> None:
        if len(triton.asked) == 1:
            ask.fail(grpc.StatusCode.INTERNAL, "INVALID_IMAGE: truncated")

    triton.behaviour = behave
    words = ["absent.jpg", str(street / "a.jpg"), str(street / "*.gif"), str(street / "b.JPEG")]
    assert main(["predict", "--url", triton.url, "--json", "--in-flight", "1", *words]) == 1
    lines = objects(capsys)
    assert ["error" in line for line in lines] == [True, True, True, False]
    assert "no such file" in lines[0]["error"]
    assert (lines[1]["kind"], lines[1]["retryable"]) == ("InvalidImage", False)
    assert "truncated" in lines[1]["error"]
    assert "no file matches" in lines[2]["error"]
    assert lines[3]["roadwork"] is True


def test_no_server(triton: TritonDouble, street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    triton.stop()
    assert main(["predict", "--url", triton.url, str(street)]) == 2
    assert main(["health", "--url", triton.url]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("no server answers") == 2


def test_server_that_goes_away(triton: TritonDouble, street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def behave(ask: Ask) -> None:
        if len(triton.asked) == 2:
            triton._server.stop(grace=0)
            ask.wait(5)

    triton.behaviour = behave
    assert main(["predict", "--url", triton.url, "--json", "--in-flight", "1", str(street)]) == 2
    lines = objects(capsys)
    assert ["error" in line for line in lines] == [False, True, True]
    assert lines[2]["retryable"]


def test_overlays(triton: TritonDouble, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    single = str(street / "deep" / "c.png")
    other = tmp_path / "c.png"
    other.write_bytes((street / "a.jpg").read_bytes())
    assert main(["predict", "--url", triton.url, "--overlay", str(out), str(street), single, str(other)]) == 0
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["a.jpg", "b.JPEG", "c.png", "deep/c.png"]
    with Image.open(out / "a.jpg") as image:
        assert image.width == 960


def test_overlays_never_replace_originals(triton: TritonDouble, street: Path, jpeg: bytes) -> None:
    assert main(["predict", "--url", triton.url, "--overlay", str(street), str(street)]) == 0
    assert (street / "a.jpg").read_bytes() == jpeg
    assert (street / "a-2.jpg").is_file()


def test_overlay_that_cannot_be_written(
    triton: TritonDouble, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    arguments = ["predict", "--url", triton.url, "--overlay", str(tmp_path / "file"), str(street / "a.jpg")]
    assert main(arguments) == 1
    assert "cannot draw" in capsys.readouterr().err


def test_health(triton: TritonDouble, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", triton.url, "--all-stages"]) == 0
    assert "triton 2.51.0" in capsys.readouterr().out
    assert triton.asked[0].options["all_stages"] is True
    triton.behaviour = lambda ask: ask.fail(grpc.StatusCode.INTERNAL, "Stub process 'x' is not healthy.")
    assert main(["health", "--url", triton.url]) == 1


def test_options_reach_the_server(triton: TritonDouble, street: Path) -> None:
    words = ["--deadline", "3", "--header", "X-Key=a=b", "--model", "other", str(street / "a.jpg")]
    assert main(["predict", "--url", triton.url, *words]) == 0
    (seen,) = triton.asked
    assert seen.seconds_left <= 3.1
    assert seen.metadata["x-key"] == "a=b"
    assert seen.model == "other"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["predict"],
        ["predict", "x.jpg", "--deadline", "0"],
        ["predict", "x.jpg", "--in-flight", "0"],
        ["predict", "x.jpg", "--json", "--table"],
        ["predict", "x.jpg", "--header", "nothing"],
    ],
)
def test_mistakes_on_the_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_url_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--url", "http://localhost:8000"]) == 1
    assert "HOST:PORT" in capsys.readouterr().err


def test_as_a_program(triton: TritonDouble, street: Path) -> None:
    """With an output that takes ASCII only, and a reader that leaves."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "ROADWORK_URL": triton.url}
    command = [sys.executable, "-m", "roadwork_client.cli"]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert version.stdout.strip() == f"roadwork {__version__}"
    run = subprocess.run([*command, "predict", street], capture_output=True, text=True, timeout=60, env=environment)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("#########.") == 3
    process = subprocess.Popen(
        [*command, "predict", street], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
    process.stderr.close()


class Tty(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_colour_and_progress_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    verdict = Verdict.from_dict(VERDICT)
    assert "\x1b[31m" in Terminal(Tty()).verdict("a.jpg", verdict)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in Terminal(Tty()).verdict("a.jpg", verdict)
    for stream, total, shown in ((Tty(), 3, True), (Tty(), 1, False), (io.StringIO(), 3, False)):
        progress = Progress(total, stream)
        progress.hide()
        progress.step()
        assert ("1/3 images" in stream.getvalue()) is shown


def test_control_characters_in_words_do_not_reach_the_terminal() -> None:
    words = [{**VERDICT["words"][0], "text": "ROAD\x1b[2J\n\x07WORK"}]
    stream = Tty()
    terminal = Terminal(stream)
    terminal.print(terminal.verdict("bad\x1b[2Jname.jpg", Verdict.from_dict({**VERDICT, "words": words})))
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1
