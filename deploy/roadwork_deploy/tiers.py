"""Vision-language tiers join a server that is already answering: each starts an engine, which takes its time."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from roadwork_deploy import logs
from roadwork_deploy.errors import RepositoryError, StartError
from roadwork_deploy.probe import ProbeError, probe_tier
from roadwork_deploy.repository import read_config
from roadwork_deploy.weights import PROMPT, Lack, tier_command, tier_lack

State = Literal["waiting", "loading", "ready", "failed", "absent"]
LOAD_TIMEOUT = 600.0  # seconds; a large model compiles for minutes
BUILD = "roadwork-export tier"
INSTALL = "python -m roadwork_deploy.install_vllm"
REMOTE = "openai"
"""The backend of tiers that live in another server."""


@dataclass(frozen=True)
class Tier:
    """One tier of a server.

    Attributes:
        name: of its folder.
        state: `absent` cannot be loaded at all, `failed` was tried.
        reason: why it is absent or failed; empty otherwise.
        seconds: that its load took.
    """

    name: str
    state: State = "waiting"
    reason: str = ""
    seconds: float = 0.0

    @property
    def settled(self) -> bool:
        return self.state in ("ready", "failed", "absent")

    def __str__(self) -> str:
        if self.state == "ready":
            return f"tier {self.name} has joined after {self.seconds:.0f} s"
        if self.settled:
            return f"tier {self.name} is left out: {self.reason}"
        return f"tier {self.name} is {self.state}"


def find_tiers(
    repository: Path, names: Iterable[str], *, prompts: bool = False, checkpoints: Mapping[str, str] | None = None
) -> dict[str, Tier]:
    """What can be said of each before anything is started: `waiting`, or `absent` with one line that says why.

    Weights that are not on this machine make a tier absent: an engine that fetches them would do so within its load.
    `prompts`: one without `prompt.json` is absent too, as no cascade would ask it. `checkpoints`: tier -> weights that
    a profile has it take in place of those that its `1/model.json` names.
    """
    others = checkpoints or {}
    found = {name: _absent(repository, name, prompts, others.get(name)) for name in names}
    return {name: Tier(name, "absent" if why else "waiting", why) for name, why in found.items()}


def _absent(repository: Path, name: str, prompts: bool, checkpoint: str | None) -> str:
    folder = repository / name
    if not folder.is_dir():
        return f"{folder} is missing; make it with: {BUILD} {name}"
    config = folder / "config.pbtxt"
    if not config.is_file():
        return f"{config} is missing; make it with: {BUILD} {name}"
    try:
        backend = read_config(config).backend
    except RepositoryError as error:
        return str(error)
    if backend == REMOTE:
        return _absent_remote(folder)
    if backend != "vllm":
        return f"{config}: backend is {backend!r}, a tier's is 'vllm', or {REMOTE!r} for one in another server"
    found = tier_lack(folder, checkpoint)
    if found is None and prompts and not (folder / PROMPT).is_file():
        found = Lack(f"{folder / PROMPT} is missing", tier_command(name))
    if found is not None:
        return f"{found.what}; make it with: {found.command}"
    if importlib.util.find_spec("vllm") is None:
        return f"vLLM is not installed; run: {INSTALL}"
    return ""


def _absent_remote(folder: Path) -> str:
    """The same for a tier in another server; whether that answers is found out when the tier is loaded."""
    make = f"make it with: {BUILD} {folder.name} --remote URL --model ID"
    for path in (folder / "1" / "remote.json", folder / PROMPT):
        if not path.is_file():
            return f"{path} is missing; {make}"
    return ""


class TierLoader:
    """Loads tiers into a running server, in the background and in order.

    Args:
        grpc_url: of the server.
        tiers: name -> what is known of it; those that are absent stay so.
        log: tritonserver's own.
        repository: folder of models.
        at_once: loads that run at the same time.
        on_change: called from a thread of this object with each tier that has settled.
    """

    def __init__(
        self,
        grpc_url: str,
        tiers: Mapping[str, Tier],
        log: Path,
        *,
        repository: Path,
        at_once: int = 1,
        on_change: Callable[[Tier], None] | None = None,
    ) -> None:
        self._url = grpc_url
        self._tiers = dict(tiers)
        self._log = log
        self._repository = repository
        self._at_once = at_once
        self._on_change = on_change
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiers", daemon=True)

    @property
    def tiers(self) -> dict[str, Tier]:
        """Name -> present state."""
        with self._changed:
            return dict(self._tiers)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wait(self, timeout: float, names: Sequence[str] | None = None) -> dict[str, Tier]:
        """Wait until these tiers (by default all) have settled; every tier's state then.

        Raises:
            StartError: some have not after `timeout` seconds.
        """
        with self._changed:
            wanted = list(self._tiers if names is None else names)
            if not self._changed.wait_for(lambda: all(self._tiers[name].settled for name in wanted), timeout):
                late = ", ".join(name for name in wanted if not self._tiers[name].settled)
                raise StartError(f"tiers not ready after {timeout:g} s: {late}; see {self._log}")
            return dict(self._tiers)

    def stop(self) -> None:
        """Load no more; what is loading ends with the server."""
        self._stopped.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end, once `stop` was called and the server is gone."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        for tier in self._tiers.values():
            if tier.state == "absent":
                self._tell(tier)
        waiting = [tier.name for tier in self._tiers.values() if tier.state == "waiting"]
        with ThreadPoolExecutor(self._at_once, "tier") as pool:
            list(pool.map(self._load, waiting))

    def _load(self, name: str) -> None:
        if self._stopped.is_set():
            return
        self._set(replace(self._tiers[name], state="loading"))
        began = time.monotonic()
        reason = self._attempt(name)
        if self._stopped.is_set():
            return  # the server is going away: that is not the tier's fault
        state: State = "failed" if reason else "ready"
        tier = Tier(name, state, reason, time.monotonic() - began)
        self._set(tier)
        self._tell(tier)

    def _attempt(self, name: str) -> str:
        """Load and ask it once; why not, or nothing."""
        import tritonclient.grpc as grpc
        from tritonclient.utils import InferenceServerException

        try:
            with grpc.InferenceServerClient(self._url) as client:
                client.load_model(name, client_timeout=LOAD_TIMEOUT)
                probe_tier(client, name, 60.0, self._repository / name / "prompt.json")
        except InferenceServerException as error:
            return logs.load_error(str(error.message()))
        except ProbeError as error:
            return str(error)
        return ""

    def _set(self, tier: Tier) -> None:
        with self._changed:
            self._tiers[tier.name] = tier
            self._changed.notify_all()

    def _tell(self, tier: Tier) -> None:
        if self._on_change is not None and not self._stopped.is_set():
            self._on_change(tier)
