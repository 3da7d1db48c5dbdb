"""llmcompressor's own environment: when it is made, kept, made again, and what keeps it from being made."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from roadwork_export.quantize import environment
from roadwork_export.quantize.environment import EnvironmentFault, ensure, fingerprint, locked, ready, why_pip_failed
from roadwork_export.quantize.quantizing import drafted, pinned
from roadwork_export.quantize.running import LateError, run


def silent(line: str) -> None:
    """Where nobody listens."""


def whole(folder: Path) -> Path:
    """An environment as it is left by a build that came to its end."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / environment.STAMP).write_text(json.dumps(fingerprint()))
    return folder


def test_an_environment_that_is_whole_is_used_again(tmp_path: Path) -> None:
    folder = whole(tmp_path / "environment")
    told: list[str] = []
    assert ensure(told.append, folder) == folder / "bin" / "python"
    assert told == []


@pytest.mark.parametrize("spoil", ["stamp", "versions", "python"])
def test_one_that_is_half_made_or_of_other_versions_is_not(tmp_path: Path, spoil: str) -> None:
    folder = whole(tmp_path / "environment")
    stamp = folder / environment.STAMP
    if spoil == "stamp":
        stamp.unlink()
    elif spoil == "versions":
        stamp.write_text(json.dumps({**fingerprint(), "constraints": "0" * 64}))
    else:
        (folder / "bin" / "python").unlink()
    assert not ready(folder)


def test_without_room_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "ROOM", 1 << 62)
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "rest").write_text("of a build that was broken off")
    with pytest.raises(EnvironmentFault, match="GB free, llmcompressor's environment needs"):
        ensure(silent, folder)
    assert not folder.exists()


def test_without_an_index_the_environment_is_not_made_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really pip, in a real environment, which is told of an index where nobody listens."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    told: list[str] = []
    with pytest.raises(EnvironmentFault, match="no package index can be reached") as error:
        ensure(told.append, tmp_path / "environment")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "environment").exists()
    assert "llmcompressor and what it needs" in told[-1]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"], "disk is full"),
        (
            ["WARNING: Retrying after [Errno -3] Temporary failure in name resolution", "ERROR: none"],
            "no package index",
        ),
        (["ERROR: x", "ERROR: ResolutionImpossible: see above"], "llmcompressor: ResolutionImpossible: see above"),
        ([], "no message"),
    ],
)
def test_why_pip_failed_is_one_line(lines: list[str], words: str) -> None:
    found = why_pip_failed("llmcompressor", lines)
    assert words in found
    assert "\n" not in found


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", hold + "sys.stdin.read()", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        told: list[str] = []
        with pytest.raises(EnvironmentFault, match="another roadwork-export quantize"), locked(path, 0.3, told.append):
            raise AssertionError("two hold the lock")
        assert len(told) == 1
        other.stdin.close()
        other.wait(20)
    with locked(path, 0.0, silent):  # the kernel has given it back
        pass


def test_a_draft_stays_only_where_its_block_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with drafted("small", 0, silent) as work:
        (work / "weights").write_text("made")
    assert (work / "weights").read_text() == "made"
    with pytest.raises(KeyboardInterrupt), drafted("small", 0, silent):
        raise KeyboardInterrupt
    assert not work.exists()


def test_versions_are_pinned_and_name_no_index() -> None:
    assert pinned("llmcompressor") == "0.14.0"
    text = environment.CONSTRAINTS.read_text()
    assert "://" not in text
    assert "--" not in text


# Running -------------------------------------------------------------------------------------------------------------
def test_lines_are_heard_as_they_come() -> None:
    heard: list[str] = []
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr, flush=True); sys.exit(3)"
    ended = run([sys.executable, "-c", code], 30, heard.append)
    assert (ended.status, heard, list(ended.lines)) == (3, ["one", "two"], ["one", "two"])


def test_what_takes_too_long_is_killed_with_its_children() -> None:
    heard: list[str] = []
    child = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    )
    began = time.monotonic()
    with pytest.raises(LateError, match="not ended after 2 s"):
        run([sys.executable, "-c", child + "print(p.pid, flush=True); time.sleep(60)"], 2, heard.append)
    assert time.monotonic() - began < 15
    assert gone(int(heard[0]))


def test_an_exception_of_the_listener_ends_the_program() -> None:
    pids: list[int] = []

    def hear(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"], 30, hear)
    assert gone(pids[0])


def gone(pid: int) -> bool:
    """Whether a process has ended, within a few seconds; one that nobody has waited for counts as ended."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
