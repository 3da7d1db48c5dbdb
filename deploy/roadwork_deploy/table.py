"""The one table that `serve` prints: what is served where."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from tritonclient.grpc import model_config_pb2

from roadwork_deploy.repository import Model
from roadwork_deploy.serve import Served

KINDS = {"boxes": "box detector", "scene": "scene model", "distance": "distance model"}


def show_server(served: Served, seconds: float, console: Console | None = None) -> None:
    """Print models and endpoints of a started server. `seconds` is how long the start took."""
    console = console or Console()
    ready = _ready(served)
    table = Table(title=f"profile {served.profile.name}: {served.profile.description}", title_justify="left")
    for heading in ("model", "kind", "backend", "instances", "device", "ready"):
        table.add_column(heading, justify="right" if heading == "instances" else "left")
    for name, (model, config) in served.models.items():
        state = "answers" if name in served.server.probes else "yes" if name in ready else "[red]no[/red]"
        table.add_row(name, _kind(model), model.backend, _instances(config), _device(config), state)
    console.print(table)
    lacking = [name for name in served.profile.placement if name not in served.models]
    if lacking:
        console.print(f"there is room for {', '.join(lacking)}: roadwork-export onnx NAME, then roadwork-deploy wire")
    server = served.server
    for line in (
        f"gRPC {server.grpc_url}   HTTP http://{server.http_url}   metrics {server.metrics_url}",
        f"log {server.log_path}",
        *_unserved(len(served.without_weights)),
        f"ready after {seconds:.1f} s; Ctrl-C stops all of it",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _unserved(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count} more model{'s have' if count > 1 else ' has'} no weights here: roadwork-deploy models"]


def _ready(served: Served) -> set[str]:
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(served.server.grpc_url) as client:
        return {name for name in served.models if client.is_model_ready(name, client_timeout=5.0)}


def _kind(model: Model) -> str:
    if model.ensemble:
        return "ensemble"
    return KINDS.get(model.kind or "", "cascade" if model.name.startswith("roadwork") else "model")


def _instances(config: Any) -> str:
    return "" if config.platform == "ensemble" else str(sum(group.count for group in config.instance_group) or 1)


def _device(config: Any) -> str:
    kinds = {
        model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind).removeprefix("KIND_")
        for group in config.instance_group
    }
    return ", ".join(sorted(kinds)).lower()
