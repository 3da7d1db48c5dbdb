"""Profiles: which models a kind of machine serves, and with how much of it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from roadwork_deploy.errors import ProfileError
from roadwork_deploy.repository import Kind, Model, members
from roadwork_deploy.shm import Budget

FOLDER = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Share:
    """What one model gets.

    Attributes:
        instances: copies that run at once; None leaves `config.pbtxt` as it is.
        threads: of one instance; None leaves `config.pbtxt` as it is. 0 lets the backend choose.
        batching: False lets no requests wait for others to be batched with; None leaves `config.pbtxt` as it is. On a
            CPU a batch of a small network is slower an image than its images one by one: they fall out of the cache.
        batch: requests that are computed together at most; None leaves `config.pbtxt` as it is.
        delay_ms: that a request waits for others to be computed with; None leaves `config.pbtxt` as it is.
        parameters: of `config.pbtxt` that are set to something else.
    """

    instances: int | None = None
    threads: int | None = None
    batching: bool | None = None
    batch: int | None = None
    delay_ms: float | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Placement:
    """Where a network runs that every folder with its signature may be.

    Attributes:
        gpus: by number, among those that the server may see; one instance on each.
        batch: images that are computed together at most; None leaves `config.pbtxt` as it is.
        bytes: that one instance takes of its GPU, as the planner has it; 0: not planned.
    """

    gpus: tuple[int, ...]
    batch: int | None = None
    bytes: int = 0


@dataclass(frozen=True)
class TierShare:
    """Where a tier runs and what its engine is told besides its `1/model.json`.

    Attributes:
        gpus: by number, among those that the server may see; all of them share the model. Empty: as found.
        engine: settings that come over those of `1/model.json`; null takes one out.
        precision: of the weights, for people to read: `engine` or `checkpoint` brings it about.
        checkpoint: folder or hub id of the weights; None leaves `model` of `1/model.json` as it is.
        bytes: that it takes of each of its GPUs, as the planner has it; 0: not planned.
    """

    gpus: tuple[int, ...] = ()
    engine: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    checkpoint: str | None = None
    bytes: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """What comes over `1/model.json`, `model` included."""
        return dict(self.engine) if self.checkpoint is None else {"model": self.checkpoint, **self.engine}


@dataclass(frozen=True)
class Profile:
    """One file of `profiles/`.

    Attributes:
        name: the file's.
        description: the machine that it suits.
        config_name: of `--model-config-name`; models are read from `configs/<config_name>.pbtxt`.
        device: where instances run that a `config.pbtxt` does not put anywhere.
        entries: models that a caller asks and that have to answer before the server counts as started.
        models: every model that is served by name, in order.
        detectors: share of each box detector and distance model that `models` does not name.
        scenes: the same for scene models.
        budget: shared memory of each model process; `instances` is filled in by `plan`.
        tiers: vision-language tiers that join after the start, in order; none of them has to.
        tier_shares: tier -> its GPUs and settings, of those that have any here.
        placement: network -> its GPUs, of those that are not to run on all; they need not be there, and `serve` names
            those that nobody has exported.
        hardware: GPUs that it was planned for, as `plan --gpus` takes them; empty: any.
        environment: variables of the server, where the caller has not set them.
    """

    name: str
    description: str
    config_name: str
    device: Literal["cpu", "gpu"]
    entries: tuple[str, ...]
    models: Mapping[str, Share]
    detectors: Share
    scenes: Share
    budget: Budget
    tiers: tuple[str, ...] = ()
    tier_shares: Mapping[str, TierShare] = field(default_factory=dict)
    placement: Mapping[str, Placement] = field(default_factory=dict)
    hardware: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def plan(self, repository: Mapping[str, Model]) -> dict[str, Share]:
        """Name -> share of every model that is served from this repository: the named ones and the members found."""
        shares: dict[str, Share] = {}
        for name, kind in members(repository).items():
            shares[name] = self.models.get(name, self._of(kind))
        return {**self.models, **shares}

    def claimed(self) -> dict[int, int]:
        """GPU -> bytes that the planner has given away of it."""
        shares: list[Placement | TierShare] = [*self.placement.values(), *self.tier_shares.values()]
        gpus = sorted({gpu for share in shares for gpu in share.gpus})
        return {gpu: sum(share.bytes for share in shares if gpu in share.gpus) for gpu in gpus}

    def on(self, gpu: int) -> list[str]:
        """Names of what is placed on a GPU, tiers first."""
        tiers = [name for name, share in self.tier_shares.items() if gpu in share.gpus]
        return tiers + [name for name, share in self.placement.items() if gpu in share.gpus]

    def _of(self, kind: Kind) -> Share:
        return self.scenes if kind == "scene" else self.detectors


def known_profiles() -> list[str]:
    """Names that `load_profile` takes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile of that name, or of that file where the name ends in `.yaml`.

    Raises:
        ProfileError: unknown, or malformed; the message names file, line and field.
    """
    if name.endswith(".yaml"):
        return read_profile(Path(name))
    known = known_profiles()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ProfileError(f"profile {name!r} is unknown{hint} (known: {', '.join(known)})")
    return read_profile(FOLDER / f"{name}.yaml")


def read_profile(path: Path) -> Profile:
    """A profile from a file; its name is the file's. `base` names another profile, whose fields it has where it does
    not say otherwise.
    """
    from roadwork_deploy.profile_reader import Reader, read_file

    data, lines = read_file(path)
    if isinstance(data, dict) and "base" in data:
        base = data.pop("base")
        others = [name for name in known_profiles() if name != path.stem]
        if base not in others:
            raise Reader(path.name, lines).fail("base", f"is one of {', '.join(others)}, got {base!r}")
        more, _ = read_file(FOLDER / f"{base}.yaml")
        data = {**more, **data}
    return Reader(path.name, lines).profile(path.stem, data)
