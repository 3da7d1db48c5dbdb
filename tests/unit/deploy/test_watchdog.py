"""What the watchdog takes for a death; that it really brings models back is in tests/server."""

from __future__ import annotations

import types

import pytest
from roadwork_deploy import watchdog as module
from roadwork_deploy.watchdog import Watchdog

Lost = list[tuple[str, set[int]]]


class Processes:
    """The stubs there are."""

    def __init__(self) -> None:
        self.living = {1: "scene", 2: "yolo", 3: "yolo"}


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes()
    monkeypatch.setattr(module, "stubs_of", lambda server: dict(processes.living))
    return processes


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Lost:
    found: Lost = []
    monkeypatch.setattr(Watchdog, "_lost", lambda self, name, gone, left: found.append((name, gone)))
    return found


@pytest.fixture
def watchdog(processes: Processes) -> Watchdog:
    return Watchdog(types.SimpleNamespace(pid=0), lambda line: None)  # type: ignore[arg-type]


def test_a_process_missing_at_two_looks_is_a_death(processes: Processes, watchdog: Watchdog, lost: Lost) -> None:
    del processes.living[2]
    watchdog.look()
    assert not lost
    watchdog.look()
    assert lost == [("yolo", {2})]


def test_one_look_that_missed_it_is_none(processes: Processes, watchdog: Watchdog, lost: Lost) -> None:
    gone = processes.living.pop(1)
    watchdog.look()
    processes.living[1] = gone
    watchdog.look()
    watchdog.look()
    assert not lost


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_model_loaded_anew_is_none_with_any_number_of_instances(
    processes: Processes, watchdog: Watchdog, lost: Lost, count: int
) -> None:
    processes.living = {1: "scene", **dict.fromkeys(range(10, 10 + count), "yolo")}
    for _ in range(3):
        watchdog.look()
    assert not lost
    del processes.living[10]
    watchdog.look()
    watchdog.look()
    assert lost == [("yolo", {10})]  # the new ones are watched
