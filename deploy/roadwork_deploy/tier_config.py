"""`configs/<config_name>.pbtxt` of a tier: its `config.pbtxt` with the GPUs and engine settings of a profile, and with
what the policy says of its sleep.

Our vLLM backend reads them from parameters (`deploy/backends/vllm/vllm_overlay.py`, `vllm_settings.py`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from roadwork_deploy.errors import RepositoryError
from roadwork_deploy.profile import Profile, TierShare
from roadwork_deploy.repository import Model, read_config

SLEEP_AFTER, SLEEP_LEVEL = "SLEEP_AFTER_SECONDS", "SLEEP_LEVEL"


def rare_tiers(repository: Path) -> dict[str, dict[str, str]]:
    """Model -> parameters of its sleep, of every tier that `roadwork/policy.yaml` calls rare.

    Raises:
        RepositoryError: the policy cannot be used.
    """
    path = repository / "roadwork" / "policy.yaml"
    if not path.exists():
        return {}
    from roadwork_cascade.policy import PolicyError, load_policy

    try:
        tiers = load_policy(path).tiers
    except PolicyError as error:
        raise RepositoryError(str(error)) from None
    return {
        tier.member.name: {SLEEP_AFTER: f"{tier.rare.sleep_after_seconds:g}", SLEEP_LEVEL: str(tier.rare.level)}
        for tier in tiers
        if tier.rare is not None
    }


def tier_configs(
    models: Mapping[str, Model], profile: Profile, rare: Mapping[str, Mapping[str, str]], generated: str
) -> dict[Path, str]:
    """File -> text, of every tier that the profile or the policy sets apart, and of those that the policy did before.

    Args:
        models: of the repository; a tier without a folder is left to `serve`, which tells of it.
        profile: sleeping needs a GPU, so that others know nothing of it.
        rare: see `rare_tiers`.
        generated: beginning of the first line.

    Raises:
        RepositoryError: one of them is no tier of the vllm backend.
    """
    asleep = rare if profile.device == "gpu" else {}
    found = {}
    for name, model in models.items():
        path = model.folder / "configs" / f"{profile.config_name}.pbtxt"
        if name in profile.tier_shares or name in asleep or (model.backend == "vllm" and _sleeps(path)):
            share = profile.tier_shares.get(name, TierShare())
            found[path] = tier_config(model, profile, share, generated, asleep.get(name, {}))
    return found


def _sleeps(path: Path) -> bool:
    return path.is_file() and SLEEP_AFTER in read_config(path).parameters


def tier_config(
    model: Model, profile: Profile, share: TierShare, generated: str, sleep: Mapping[str, str] | None = None
) -> str:
    """Text of a tier's configuration under a profile; `generated` is its first line's beginning.

    Raises:
        RepositoryError: the folder is no tier of the vllm backend.
    """
    if model.backend != "vllm":
        where = f"{model.folder / 'config.pbtxt'}: backend is {model.backend!r}, and"
        if sleep:
            raise RepositoryError(f"{where} only engines of vllm sleep; take rare out of its tier in policy.yaml")
        raise RepositoryError(
            f"{where} profile {profile.name} has settings of a vLLM engine for it; name it without any in tiers, or "
            "take it out"
        )
    config = copy.deepcopy(model.config)
    config.name = model.name
    # One engine, whatever its GPUs: KIND_GPU would be one process a GPU.
    del config.instance_group[:]
    config.instance_group.add(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_MODEL)
    if share.gpus:
        config.parameters["gpus"].string_value = ",".join(map(str, share.gpus))
    if share.settings:
        config.parameters["engine"].string_value = json.dumps(share.settings, sort_keys=True)
    for key, value in (sleep or {}).items():
        config.parameters[key].string_value = value
    return f"{generated} It is ../config.pbtxt with profile {profile.name}.\n{text_format.MessageToString(config)}"
