"""A model's serving settings: which there are to choose from, and a server that has some of them."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roadwork_deploy.profile import Profile, Share
from roadwork_deploy.repository import Model, check_files, read_models
from roadwork_deploy.serve import prepare
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.wire import pending, profile_config

from roadwork_bench.errors import BenchError
from roadwork_bench.perf.search import Candidate, doubling, nearest
from roadwork_bench.perf.serving import Serving, inspect, unknown

DELAYS_MS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclasses.dataclass(frozen=True)
class Tunable:
    """A model that can be tuned.

    Attributes:
        asks_others: it can only be served with the whole repository; others are served alone.
        share: what the profile gives it now.
    """

    model: Model
    profile: Profile
    share: Share
    asks_others: bool


def tunable(name: str, repository: Path, profile: Profile) -> Tunable:
    """The model, if it is one whose settings a profile can choose.

    Raises:
        BenchError: it is unknown, an ensemble, a tier, or answers in parts; the message says what to tune instead.
        RepositoryError: its file is missing.
    """
    models = read_models(repository)
    plan = profile.plan(models)
    if name not in plan or name not in models:
        raise unknown(name, list(plan), f"profile {profile.name}")
    model = models[name]
    if model.ensemble:
        parts = ", ".join(step.model_name for step in model.config.ensemble_scheduling.step)
        raise BenchError(f"{name} is an ensemble and has no settings of its own; tune its models one by one: {parts}")
    if model.config.model_transaction_policy.decoupled:
        raise BenchError(
            f"{name} answers in parts and has one instance by design; tune roadwork, or an engine's settings"
        )
    check_files(models, [name])
    return Tunable(model, profile, plan[name], asks_others=model.backend == "python" and name == "roadwork")


def axes_of(subject: Tunable, p99_ms: float, max_instances: int, max_batch: int) -> dict[str, list[Any]]:
    """Setting -> its values, of those that the model has. Nobody waits for more than half of the target."""
    axes: dict[str, list[Any]] = {"instances": doubling(max_instances)}
    largest = min(max_batch, subject.model.config.max_batch_size)
    if largest > 1:
        axes["batch"] = doubling(largest)
        axes["delay_ms"] = [delay for delay in DELAYS_MS if delay <= p99_ms / 2]
    return axes


def present(subject: Tunable, axes: dict[str, list[Any]]) -> Candidate:
    """What the profile has now, or the next below it on the axes."""
    groups = subject.model.config.instance_group
    instances = subject.share.instances or (groups[0].count if groups else 1)
    start = Candidate(nearest(axes["instances"], instances))
    if "batch" not in axes:
        return start
    if subject.share.batching is False or not subject.model.config.HasField("dynamic_batching"):
        return dataclasses.replace(start, batch=1)
    batch = nearest(axes["batch"], subject.share.batch or axes["batch"][-1])
    delay = nearest(axes["delay_ms"], subject.share.delay_ms or 0.0)
    return dataclasses.replace(start, batch=batch).with_("delay_ms", delay)


def share_of(candidate: Candidate, share: Share) -> Share:
    """The profile's share with the candidate's settings."""
    if candidate.batch is None:
        return dataclasses.replace(share, instances=candidate.instances)
    if candidate.batch == 1:
        return dataclasses.replace(share, instances=candidate.instances, batching=False, batch=None, delay_ms=None)
    return dataclasses.replace(
        share, instances=candidate.instances, batching=None, batch=candidate.batch, delay_ms=candidate.delay_ms
    )


@contextmanager
def served(subject: Tunable, candidate: Candidate) -> Iterator[Serving]:
    """A server with these settings, for as long as the block lasts, on a copy of what it needs of the repository."""
    name, source = subject.model.name, subject.model.folder.parent
    share = share_of(candidate, subject.share)
    profile = dataclasses.replace(subject.profile, models={**subject.profile.models, name: share}, tiers=())
    with tempfile.TemporaryDirectory(prefix="roadwork-tune-") as folder:
        copy = Path(folder) / "model_repository"
        ignore = shutil.ignore_patterns("__pycache__")
        if subject.asks_others:
            shutil.copytree(source, copy, ignore=ignore)
            for change in pending(copy, [profile]):
                change.write()
            server = prepare(copy, profile).server
        else:
            shutil.copytree(subject.model.folder, copy / name, ignore=ignore)
            config = copy / name / "configs" / f"{profile.config_name}.pbtxt"
            config.parent.mkdir(exist_ok=True)
            config.write_text(profile_config(subject.model, profile, share), encoding="utf-8")
            budget = dataclasses.replace(profile.budget, instances=candidate.instances)
            server = EmbeddedServer(
                copy, [name], config_name=profile.config_name, budget=budget, environment=dict(profile.environment)
            )
        with server:
            yield inspect(server.grpc_url, name, profile)
