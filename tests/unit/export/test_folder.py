"""A folder appears whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import pytest
from roadwork_deploy.repository import members, read_models
from roadwork_export import folder
from roadwork_export.errors import ExportError
from roadwork_export.folder import config, draft


def left(repository: Path) -> list[str]:
    return sorted(p.name for p in repository.iterdir())


def test_it_takes_its_place_when_all_is_written(tmp_path: Path) -> None:
    with draft(tmp_path / "repo" / "one") as new:
        (new / "config.pbtxt").write_text("a")
        assert not (tmp_path / "repo" / "one").exists()
    assert (tmp_path / "repo" / "one" / "config.pbtxt").read_text() == "a"
    with draft(tmp_path / "repo" / "one") as new:
        (new / "config.pbtxt").write_text("b")
    assert (tmp_path / "repo" / "one" / "config.pbtxt").read_text() == "b"
    assert left(tmp_path / "repo") == ["one"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "old").write_text("old")

    def interrupted() -> None:
        with draft(tmp_path / "one") as new:
            (new / "half").write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert left(tmp_path) == ["one"]
    assert left(tmp_path / "one") == ["old"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    program = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from roadwork_export.folder import draft
        with draft(Path({str(tmp_path)!r}) / "one") as new:
            (new / "half").write_text("half")
            print("begun", flush=True)
            time.sleep(60)
    """)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        assert left(tmp_path)
        process.send_signal(number)
        assert process.wait(timeout=20) != 0
    assert left(tmp_path) == []


def test_too_little_room_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: usage(10, 9, 10**6))
    with pytest.raises(ExportError, match=r"0.0 GB free, 2.0 GB are needed"), draft(tmp_path / "one", 2 * 10**9):
        pass
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="one: No space left on device"), draft(tmp_path / "one"):
        raise OSError(28, os.strerror(28))
    assert left(tmp_path) == []


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "repo").write_text("")
    with pytest.raises(ExportError, match="cannot be written to"), draft(tmp_path / "repo" / "one"):
        pass


@pytest.mark.parametrize("kind", ["boxes", "scene", "distance"])
def test_the_repository_knows_it_by_its_signature(tmp_path: Path, kind: folder.Kind) -> None:
    (tmp_path / "one").mkdir()
    text = config("one", kind, {"licence": 'so "called" \\ free'})
    (tmp_path / "one" / "config.pbtxt").write_text(text)
    assert members(read_models(tmp_path)) == {}  # without weights it is no member yet
    (tmp_path / "one" / "1").mkdir()
    (tmp_path / "one" / "1" / "model.onnx").touch()
    models = read_models(tmp_path)
    assert members(models) == {"one": kind}
    assert models["one"].config.parameters["licence"].string_value == 'so "called" \\ free'
