"""The server that is put under load: one that runs already, or one that is started for it."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tritonclient.grpc as grpc
from roadwork_deploy.profile import Profile, load_profile
from roadwork_deploy.serve import prepare
from tritonclient.utils import InferenceServerException

from roadwork_bench.errors import BenchError
from roadwork_bench.output import saying

ASK_SECONDS = 10.0
TIER_SECONDS = 900.0


@dataclass(frozen=True)
class Serving:
    """A server that answers.

    Attributes:
        url: HOST:PORT of gRPC.
        config: `ModelConfig` of the model that is to be loaded.
        described: what it is, for the result file: Triton's version, the profile, and a digest of all configurations,
            so that figures of two different servers are told apart.
    """

    url: str
    config: Any
    described: dict[str, Any]


@contextmanager
def serving(model: str, repository: Path, profile: str, url: str | None) -> Iterator[Serving]:
    """A server with this model: the one at `url`, or the embedded one with `profile` for as long as the block lasts.

    Raises:
        BenchError: nobody answers at `url`, or the server does not serve the model.
        DeployError: the embedded server cannot start.
    """
    if url is not None:
        yield inspect(url, model, None)
        return
    chosen = load_profile(profile)
    prepared = prepare(repository, chosen)
    names = [*prepared.models, *chosen.tiers]
    if model not in names:
        raise unknown(model, names, f"profile {chosen.name}")
    saying(f"starting the server, profile {chosen.name}")
    with prepared.server as server:
        if model in chosen.tiers:
            tier = server.wait_for_tiers(TIER_SECONDS, [model])[model]
            if tier.state != "ready":
                raise BenchError(f"tier {model} is {tier.state}: {tier.reason}")
        yield inspect(server.grpc_url, model, chosen)


def inspect(url: str, model: str, profile: Profile | None) -> Serving:
    """Ask a server what it is and what it knows of the model."""
    try:
        with grpc.InferenceServerClient(url) as client:
            return _inspected(client, url, model, profile)
    except InferenceServerException as error:
        line = (error.message() or "").strip().partition("\n")[0]
        raise BenchError(f"no Triton server answers at {url}: {line}") from None


def _inspected(client: Any, url: str, model: str, profile: Profile | None) -> Serving:
    version = client.get_server_metadata(client_timeout=ASK_SECONDS).version
    index = client.get_model_repository_index(client_timeout=ASK_SECONDS).models
    ready = sorted({entry.name for entry in index if entry.state == "READY"})
    if model not in ready:
        raise unknown(model, ready, f"the server at {url}")
    total, own = hashlib.sha256(), None
    for name in ready:
        config = client.get_model_config(name, client_timeout=ASK_SECONDS).config
        total.update(config.SerializeToString(deterministic=True))
        if name == model:
            own = config
    described = {
        "triton": version,
        "profile": None if profile is None else profile.name,
        "configurations": total.hexdigest()[:16],
    }
    return Serving(url, own, described)


def unknown(model: str, names: list[str], where: str) -> BenchError:
    """The error about a model that is not served."""
    near = difflib.get_close_matches(model, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BenchError(f"{where} does not serve model {model!r}{hint} (served: {', '.join(names)})")


def on_this_machine(url: str) -> bool:
    """Whether the address is this machine's loopback, so that shared memory can be shared."""
    host = url.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
