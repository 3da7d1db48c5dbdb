"""From a profile and a repository to a server that is ready to start, with everything checked that can be."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadwork_deploy.claim import check_room
from roadwork_deploy.embedded import check_platform
from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.gpu import check_gpu, list_gpus
from roadwork_deploy.profile import Profile, load_profile
from roadwork_deploy.repository import Model, check_files, check_wired, read_config, read_models, without_weights
from roadwork_deploy.server import EmbeddedServer
from roadwork_deploy.tiers import find_tiers
from roadwork_deploy.wire import pending


@dataclass(frozen=True)
class Served:
    """A server that has not been started, and what it will serve.

    Attributes:
        models: name -> (model, configuration of the profile).
        without_weights: name -> command that brings them, of folders that are not served for want of weights.
    """

    server: EmbeddedServer
    profile: Profile
    models: Mapping[str, tuple[Model, Any]]
    without_weights: Mapping[str, str] = field(default_factory=dict)


def prepare(repository: str | Path, profile: str | Profile = "cpu", **settings: Any) -> Served:
    """Check profile, repository and files, and make the server of them.

    Args:
        repository: folder of models.
        profile: name of one, or one that was read.
        settings: of `EmbeddedServer`, such as ports, host, timeouts.

    Raises:
        DeployError: one line that says what to do.
    """
    check_platform()
    repository = Path(repository).resolve()
    chosen = load_profile(profile) if isinstance(profile, str) else profile
    if chosen.device == "gpu":
        check_gpu(chosen.name)
        check_room(chosen, list_gpus())
    models = read_models(repository)
    plan = list(chosen.plan(models))
    check_wired(models, plan)
    changes = pending(repository, [chosen])
    if changes:
        names = ", ".join(str(change.path.relative_to(repository)) for change in changes[:3])
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise RepositoryError(
            f"folders and profile {chosen.name} disagree with {names}{more}; run: roadwork-deploy wire"
        )
    check_files(models, plan)
    served = {name: (models[name], _config(models[name], chosen.config_name)) for name in plan}
    instances = sum(group.count for _, config in served.values() for group in config.instance_group)
    checkpoints = {name: share.checkpoint for name, share in chosen.tier_shares.items() if share.checkpoint}
    tiers = find_tiers(repository, chosen.tiers, prompts=True, checkpoints=checkpoints)
    instances += sum(tier.state == "waiting" for tier in tiers.values())
    environment = {name: text for name, text in chosen.environment.items() if name not in os.environ}
    server = EmbeddedServer(
        repository,
        plan,
        config_name=chosen.config_name,
        probes=chosen.entries,
        budget=dataclasses.replace(chosen.budget, instances=instances),
        tiers=tiers,
        **{**settings, "environment": {**environment, **settings.get("environment", {})}},
    )
    return Served(server, chosen, served, without_weights(models))


def _config(model: Model, config_name: str) -> Any:
    path = model.folder / "configs" / f"{config_name}.pbtxt"
    return read_config(path) if path.exists() else model.config
