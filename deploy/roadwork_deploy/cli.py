"""`roadwork-deploy`: start a server on this machine, and keep the repository in step with its folders."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from roadwork_deploy import launch
from roadwork_deploy.errors import DeployError
from roadwork_deploy.planner import command as plan_command
from roadwork_deploy.ports import DEFAULTS

REFUSED = 2


def default_repository() -> Path:
    """The checkout's; imported when it is asked for, as planning needs no Triton client."""
    from roadwork_deploy import repository

    return repository.default_repository()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 not so (drift found, server died), 2 refused with one line that says what to do."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except DeployError as error:
        print(f"roadwork-deploy: {error}", file=sys.stderr)
        return REFUSED
    except ModuleNotFoundError as error:
        print(f"roadwork-deploy: package {error.name} is missing; run: pip install 'roadwork[serve]'", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="roadwork-deploy", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start tritonserver here and serve until Ctrl-C")
    serve.add_argument("--profile", default="cpu", help="what to serve and with how much of the machine (default: cpu)")
    serve.add_argument("--host", default="127.0.0.1", help="address to bind to; 0.0.0.0 lets other machines in")
    for name, port in DEFAULTS.items():
        serve.add_argument(f"--{name}-port", type=int, default=port, help=f"default: {port}; 0 takes a free one")
    serve.add_argument("--model-repository", type=Path, default=None, metavar="DIR", help="default: this checkout's")
    serve.add_argument("--startup-timeout", type=float, default=180.0, metavar="SECONDS", help="default: 180")
    serve.add_argument("--drain", type=float, default=10.0, metavar="SECONDS", help="for requests in flight at the end")
    serve.add_argument("--log", type=Path, default=None, metavar="FILE", help="where tritonserver's own output goes")
    serve.add_argument("-v", "--verbose", action="store_true", help="show tritonserver's own output")
    serve.set_defaults(run=_serve)

    wire = commands.add_parser("wire", help="carry folders and profiles into ensembles, policy and configs")
    wire.add_argument("--profile", default=None, help="one alone, such as a file that plan has written")
    wire.add_argument("--check", action="store_true", help="write nothing; exit 1 if something would be written")
    wire.add_argument("--model-repository", type=Path, default=None, metavar="DIR", help="default: this checkout's")
    wire.set_defaults(run=_wire)

    models = commands.add_parser("models", help="list the folders: what each is, and the command for missing weights")
    models.add_argument("--json", action="store_true", help="for programs")
    models.add_argument("--model-repository", type=Path, default=None, metavar="DIR", help="default: this checkout's")
    models.set_defaults(run=_models)

    plan_command.add_parser(commands)

    tier = commands.add_parser("tier", help="load a tier into a running server, or unload it to give its memory back")
    tier.add_argument("action", choices=("load", "unload"))
    tier.add_argument("name", help="of its folder")
    tier.add_argument("--grpc-url", default=f"localhost:{DEFAULTS['grpc']}", metavar="HOST:PORT", help="of the server")
    tier.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: 600")
    tier.add_argument("--model-repository", type=Path, default=None, metavar="DIR", help="default: this checkout's")
    tier.set_defaults(run=_tier)

    launch.add_parser(commands)

    profiles = commands.add_parser("profiles", help="list the profiles")
    profiles.set_defaults(run=_profiles)
    return parser


def _serve(options: argparse.Namespace) -> int:
    # From here on both signals mean "end in good order": a default SIGTERM would leave the server to its watchdog.
    stop = _Stop()
    try:
        return _serve_until(stop, options)
    except KeyboardInterrupt:
        return 0


def _serve_until(stop: _Stop, options: argparse.Namespace) -> int:
    from roadwork_deploy.claim import claimed
    from roadwork_deploy.gpu import list_gpus
    from roadwork_deploy.serve import prepare
    from roadwork_deploy.table import show_server
    from roadwork_deploy.watchdog import Watchdog

    served = prepare(
        options.model_repository or default_repository(),
        options.profile,
        host=options.host,
        grpc_port=options.grpc_port or None,
        http_port=options.http_port or None,
        metrics_port=options.metrics_port or None,
        startup_timeout=options.startup_timeout,
        drain=options.drain,
        log_path=options.log,
    )
    server = served.server
    follower = _Follower() if options.verbose else None
    printed = threading.Event()  # tiers are told of below the table, which says that the server answers

    def tell(tier: object) -> None:
        printed.wait(10)
        print(tier, flush=True)

    server.on_tier = tell
    began = time.monotonic()
    held, watching = contextlib.ExitStack(), contextlib.ExitStack()
    try:
        if follower:
            follower.follow(server)
        held.enter_context(claimed(served.profile, list_gpus()))
        server.start()
        show_server(served, time.monotonic() - began)
        printed.set()
        watchdog = Watchdog(server, lambda text: print(text, file=sys.stderr, flush=True))
        watchdog.start()
        watching.callback(watchdog.stop)
        while not stop.wait(0.5):
            if not server.running:
                print(f"roadwork-deploy: tritonserver ended by itself; see {server.log_path}", file=sys.stderr)
                server.close(keep_log=True)
                return 1
        print("stopping: requests in flight may finish", file=sys.stderr)
        return 0
    finally:
        watching.close()
        server.close(keep_log=not stop.asked)
        held.close()
        if follower:
            follower.end()


class _Stop:
    """SIGINT and SIGTERM: while the server starts they break in, later they are waited for."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False
        self._event = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first, self.asked = not self.asked, True
        self._event.set()
        if first and not self._waiting:
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> bool:
        self._waiting = True
        return self._event.wait(seconds)


class _Follower:
    """Copies a growing log to standard error."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, server: object) -> None:
        self._thread = threading.Thread(target=self._run, args=(server,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._done.set()
        if self._thread:
            self._thread.join(2)

    def _run(self, server: object) -> None:
        from roadwork_deploy.errors import StartError

        position = 0
        while True:
            last = self._done.wait(0.1)
            try:
                with server.log_path.open("rb") as log:  # type: ignore[attr-defined]
                    log.seek(position)
                    data = log.read()
            except (StartError, OSError):
                data = b""
            position += len(data)
            sys.stderr.write(data.decode(errors="replace"))
            sys.stderr.flush()
            if last:
                return


def _wire(options: argparse.Namespace) -> int:
    from roadwork_deploy.profile import load_profile
    from roadwork_deploy.wire import pending

    repository = options.model_repository or default_repository()
    changes = pending(repository, [load_profile(options.profile)] if options.profile else None)
    for change in changes:
        path = change.path.relative_to(repository)
        if options.check:
            print(f"differs: {path} ({change.why})")
        else:
            change.write()
            print(f"wrote {path} ({change.why})")
    if not changes:
        print("nothing to do: folders, profiles and files agree")
    elif options.check:
        print("run: roadwork-deploy wire", file=sys.stderr)
    return 1 if options.check and changes else 0


def _models(options: argparse.Namespace) -> int:
    from roadwork_deploy.models import list_models, models_json, show_models

    rows = list_models(options.model_repository or default_repository())
    if options.json:
        print(models_json(rows))
    else:
        show_models(rows)
    return 0


def _tier(options: argparse.Namespace) -> int:
    from roadwork_deploy.tier_control import load_tier, unload_tier

    if options.action == "load":
        repository = options.model_repository or default_repository()
        seconds = load_tier(options.grpc_url, options.name, repository, options.timeout)
        print(f"tier {options.name} has joined after {seconds:.0f} s")
    else:
        seconds = unload_tier(options.grpc_url, options.name, options.timeout)
        back = f"roadwork-deploy tier load {options.name}"
        print(f"tier {options.name} is gone after {seconds:.0f} s; {back} brings it back")
    return 0


def _profiles(options: argparse.Namespace) -> int:
    from roadwork_deploy.profile import known_profiles, load_profile

    for name in known_profiles():
        profile = load_profile(name)
        print(f"{name:12} {profile.description}")
        for index in profile.claimed():
            print(f"{'':12} GPU {index}: {', '.join(profile.on(index))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
