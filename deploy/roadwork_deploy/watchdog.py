"""Brings back models whose process has died.

Triton 2.51 does not: an instance whose stub is gone fails each of its requests at once, and because that is quick it
gets most of them. Loading the model again starts all its processes anew, while those that live go on serving.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from roadwork_deploy.errors import StartError
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.stubs import stubs_of

LOOK_SECONDS = 1.0
MOST, WITHIN_SECONDS = 3, 120.0
"""A model that dies more often than this within this time has an error that starting it anew does not cure."""
LOAD_SECONDS = 600.0
MARK = "restarted"
"""Parameter that tells a configuration from the last one: Triton loads nothing again that has not changed."""


class Watchdog:
    """Looks once a second while it runs; a model is given up after `MOST` deaths within `WITHIN_SECONDS`.

    A process that has gone is a death only where its model is still said to be ready and has no new processes in its
    place: what was unloaded or reloaded by someone's wish is left as it is.

    Args:
        server: that has been started.
        tell: takes a line for people.
    """

    def __init__(self, server: EmbeddedServer, tell: Callable[[str], None]) -> None:
        self._server = server
        self._tell = tell
        self._known: dict[str, set[int]] = _by_model(stubs_of(server.pid))
        self._suspected: set[str] = set()
        self._deaths: defaultdict[str, list[float]] = defaultdict(list)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more. A load under way ends with the server."""
        self._done.set()
        self._thread.join(2 * LOOK_SECONDS)

    def _run(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            try:
                self.look()
            except (StartError, OSError):  # the server has ended, which others tell of
                return

    def look(self) -> None:
        """Bring back each model that has lost a process at two looks in a row."""
        living = _by_model(stubs_of(self._server.pid))
        for name, known in list(self._known.items()):
            now = living.get(name, set())
            if known <= now:
                self._suspected.discard(name)
            elif len(now) >= len(known) or (now and not now & known):  # somebody has loaded it again
                self._known[name] = now
                self._suspected.discard(name)
            elif name not in self._suspected:
                self._suspected.add(name)
            else:
                self._suspected.discard(name)
                self._lost(name, known - now, now)
        for name in living.keys() - self._known.keys():
            self._known[name] = living[name]

    def _lost(self, name: str, gone: set[int], left: set[int]) -> None:
        client = grpc.InferenceServerClient(self._server.grpc_url)
        try:
            if not client.is_model_ready(name, client_timeout=5.0):
                self._known.pop(name)  # unloaded by someone
                return
            self._deaths[name].append(time.monotonic())
            recent = [when for when in self._deaths[name] if when > time.monotonic() - WITHIN_SECONDS]
            what = f"{name}: process {', '.join(map(str, sorted(gone)))} has died"
            if len(recent) > MOST:
                self._tell(
                    f"{what}, {len(recent)} times in {WITHIN_SECONDS:g} s; it is left so: see {self._server.log_path}"
                )
                self._known.pop(name)
                return
            self._tell(f"{what}; starting it anew")
            began = time.monotonic()
            config = marked(
                client.get_model_config(name, as_json=True, client_timeout=5.0)["config"], len(self._deaths[name])
            )
            client.load_model(name, config=json.dumps(config), client_timeout=LOAD_SECONDS)
        except InferenceServerException as error:
            if not self._done.is_set():
                self._tell(f"{name}: could not be started anew: {error.message()}")
            return  # the next looks find it as it is, and try again
        finally:
            client.close()
        # Triton keeps the old processes for a while: only the new ones are watched.
        new = _by_model(stubs_of(self._server.pid)).get(name, set()) - left
        if new:
            self._known[name] = new
        else:
            del self._known[name]  # the next look learns them
        self._tell(f"{name}: serves again after {time.monotonic() - began:.1f} s")


def marked(config: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The configuration with a parameter that tells it from the last one."""
    parameters = {**config.get("parameters", {}), MARK: {"string_value": str(number)}}
    return {**config, "parameters": parameters}


def _by_model(stubs: Mapping[int, str]) -> dict[str, set[int]]:
    found: defaultdict[str, set[int]] = defaultdict(set)
    for pid, name in stubs.items():
        found[name].add(pid)
    return dict(found)
