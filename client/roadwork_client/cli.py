"""The command `roadwork`.

Exit status of `predict` and `stream`: 0 every image got a verdict, 1 some did not, 2 no server. Of `health`: 0 only
when a real inference answered, 1 the server is there and that failed, 2 no server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from roadwork_client import TLS, Result, RoadworkClient, RoadworkError, ServerBusy, ServerUnavailable, __version__
from roadwork_client.draw import save_overlay
from roadwork_client.errors import DeadlineExceeded
from roadwork_client.images import SUFFIXES
from roadwork_client.inputs import Input, expand
from roadwork_client.terminal import Progress, Terminal
from roadwork_client.verdict import Verdict
from roadwork_client.wire import DEFAULT_DEADLINE, DEFAULT_IN_FLIGHT, DEFAULT_URL

DONE, FAILED, NO_SERVER = 0, 1, 2
# Seconds that a server has to say that it is there, before the first image is sent.
LIVE_SECONDS = 5.0
# Characters of a tier's text that are shown together.
THOUGHT = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with _client(options) as client:
            return options.run(client, options)
    except KeyboardInterrupt:
        print("roadwork: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough (`| head`); the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (RoadworkError, ValueError, OSError) as error:
        print(f"roadwork: {error}", file=sys.stderr)
        return NO_SERVER if _absent(error) else FAILED


def _predict(client: RoadworkClient, options: argparse.Namespace) -> int:
    inputs = list(expand(options.images))
    usable = [entry for entry in inputs if entry.problem is None]
    if usable:
        _check_there(client)
    terminal, progress = Terminal(), Progress(len(inputs))
    overlays = _Overlays(options.overlay) if options.overlay else None
    results = client.predict_many(
        (entry.path for entry in usable),
        in_flight=options.in_flight,
        deadline=options.deadline,
        **_wishes(options),
    )
    failed, unavailable = 0, False
    for entry, outcome in _in_order(inputs, results):
        problem: RoadworkError | str | None = outcome.error if outcome else entry.problem
        verdict = outcome.verdict if outcome else None
        unavailable |= _absent(problem)
        progress.hide()
        if verdict is not None and overlays is not None:
            try:
                overlays.write(entry, verdict)
            except RoadworkError as error:
                failed += 1
                print(f"roadwork: {error}", file=sys.stderr)
        failed += verdict is None
        terminal.print(_line(terminal, entry, verdict, problem, as_json=options.json))
        progress.step()
    return _status(client, failed, unavailable)


def _stream(client: RoadworkClient, options: argparse.Namespace) -> int:
    """One image after another, each event as it comes."""
    inputs, terminal = list(expand(options.images)), Terminal()
    if any(entry.problem is None for entry in inputs):
        _check_there(client)
    failed, unavailable = 0, False
    for entry in inputs:
        problem: RoadworkError | str | None = entry.problem
        if problem is None:
            try:
                _watch(client, options, terminal, entry)
            except RoadworkError as error:
                problem = error
        if problem is not None:
            failed += 1
            unavailable |= _absent(problem)
            terminal.print(_line(terminal, entry, None, problem, as_json=options.json))
    return _status(client, failed, unavailable)


def _status(client: RoadworkClient, failed: int, unavailable: bool) -> int:
    """Exit status after `failed` images; `unavailable`: of one it seemed that there is no server."""
    if unavailable and not _is_there(client):
        print(f"roadwork: no server answers at {client.url}", file=sys.stderr)
        return NO_SERVER
    return FAILED if failed else DONE


def _watch(client: RoadworkClient, options: argparse.Namespace, terminal: Terminal, entry: Input) -> None:
    name, said = str(entry.path), ""
    for event in client.stream(entry.path, deadline=options.deadline, **_wishes(options)):
        if options.json:
            terminal.print(json.dumps({"image": name, **event.data}, allow_nan=False))
            continue
        if event.event == "partial":
            # A token a line is unreadable: what a tier thinks is told in pieces of a line's length.
            said += event.text or ""
            if len(said) < THOUGHT:
                continue
            event, said = replace(event, text=said), ""
        elif said:
            terminal.print(terminal.event(name, replace(event, event="partial", text=said, tier=None, verdict=None)))
            said = ""
        terminal.print(terminal.event(name, event))


def _wishes(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for beside the deadline."""
    return {
        "all_stages": options.all_stages or None,
        "tiers": options.tiers,
        "max_tokens": options.max_tokens,
        "max_cost": options.max_cost,
    }


def _line(
    terminal: Terminal, entry: Input, verdict: Verdict | None, problem: RoadworkError | str | None, *, as_json: bool
) -> str:
    name = str(entry.path)
    if not as_json:
        return terminal.error(name, str(problem)) if verdict is None else terminal.verdict(name, verdict)
    if verdict is not None:
        return json.dumps({"image": name, **_named(verdict)}, allow_nan=False)
    kind = type(problem).__name__ if isinstance(problem, RoadworkError) else "InvalidImage"
    retryable = isinstance(problem, RoadworkError) and problem.retryable
    return json.dumps({"image": name, "error": str(problem), "kind": kind, "retryable": retryable})


def _named(verdict: Verdict) -> dict[str, object]:
    """The verdict's fields; its own `image`, which the file's name replaces, becomes `size`."""
    fields = verdict.to_dict()
    return {("size" if name == "image" else name): value for name, value in fields.items()}


def _in_order(inputs: list[Input], results: Iterator[Result]) -> Iterator[tuple[Input, Result | None]]:
    """Every input with its result; those that were never sent have none."""
    for entry in inputs:
        yield entry, next(results) if entry.problem is None else None


class _Overlays:
    """Names and writes the copies below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[Path] = set()

    def write(self, entry: Input, verdict: Verdict) -> None:
        """Draw the copy. Raise InvalidImage where that is not possible."""
        relative = entry.relative
        if relative.suffix.lower() not in SUFFIXES:
            relative = relative.with_name(relative.name + ".jpg")
        target = self._folder / relative
        number = 1
        # Two folders may hold files of one name, and a copy must never take the place of an original.
        while target in self._used or target.resolve() == entry.path.resolve():
            number += 1
            target = self._folder / relative.with_stem(f"{relative.stem}-{number}")
        self._used.add(target)
        save_overlay(entry.path, target, verdict)


def _health(client: RoadworkClient, options: argparse.Namespace) -> int:
    _check_there(client, options.deadline)
    health = client.health(deadline=options.deadline, all_stages=options.all_stages or None)
    info = client.metadata(deadline=options.deadline)
    missing = "".join(f", {absent.member} missing ({absent.reason})" for absent in health.verdict.missing)
    print(
        f"{health.url} answers: {info.model} on {info.server} {info.version}, policy {health.verdict.versions.policy}, "
        f"status {health.verdict.status}{missing}, {health.milliseconds:.0f} ms"
    )
    return DONE


def _check_there(client: RoadworkClient, seconds: float = LIVE_SECONDS) -> None:
    """Raise ServerUnavailable where nobody answers; one clear line instead of one for each image."""
    try:
        client.is_live(deadline=min(seconds, LIVE_SECONDS))
    except DeadlineExceeded as error:
        raise ServerUnavailable(f"no server answers at {client.url}: {error}") from error


def _is_there(client: RoadworkClient) -> bool:
    try:
        _check_there(client)
    except ServerUnavailable:
        return False
    return True


def _absent(problem: object) -> bool:
    """Whether this says that there is no server, not only that it is busy."""
    return isinstance(problem, ServerUnavailable) and not isinstance(problem, ServerBusy)


def _client(options: argparse.Namespace) -> RoadworkClient:
    files = TLS(options.root_certificates, options.private_key, options.certificate_chain)
    tls: bool | TLS = files if files != TLS() else options.tls
    return RoadworkClient(options.url, model=options.model, tls=tls, headers=dict(options.header))


def _tiers(text: str) -> bool | list[str]:
    words = {"none": False, "all": True}
    return words[text] if text in words else [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of tokens")


def _amount(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (amount := float(text)) < float("inf"):
            return amount
    raise argparse.ArgumentTypeError(f"{text!r} is not an amount")


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (count := int(text)) > 0:
            return count
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="roadwork", description="Ask a server whether street images show roadwork.")
    parser.add_argument("--version", action="version", version=f"roadwork {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    server = argparse.ArgumentParser(add_help=False)
    group = server.add_argument_group("server")
    group.add_argument(
        "--url",
        default=os.environ.get("ROADWORK_URL", DEFAULT_URL),
        metavar="HOST:PORT",
        help=f"Triton's gRPC port (default: $ROADWORK_URL, else {DEFAULT_URL})",
    )
    group.add_argument("--model", default="roadwork", help="name of the cascade on the server (default: roadwork)")
    group.add_argument("--header", action="append", type=_header, default=[], metavar="NAME=VALUE")
    group.add_argument("--tls", action="store_true", help="secure channel, with gRPC's default roots")
    group.add_argument("--root-certificates", metavar="PEM", help="whom to trust (implies --tls)")
    group.add_argument("--private-key", metavar="PEM", help="the client's own key, for mutual TLS")
    group.add_argument("--certificate-chain", metavar="PEM", help="the client's own certificates, for mutual TLS")
    group.add_argument(
        "--deadline", type=_seconds, default=DEFAULT_DEADLINE, metavar="S", help="seconds for each image"
    )
    group.add_argument("--all-stages", action="store_true", help="ask every member, whatever the first ones say")

    wishes = argparse.ArgumentParser(add_help=False)
    group = wishes.add_argument_group("vision-language tiers")
    group.add_argument(
        "--tiers", type=_tiers, metavar="NAMES", help="those that may be asked: fast,precise; none; all (default)"
    )
    group.add_argument("--max-tokens", type=_whole, metavar="N", help="the most that tiers may read and write")
    group.add_argument("--max-cost", type=_amount, metavar="X", help="the most that a request may cost")

    predict = commands.add_parser(
        "predict",
        parents=[server, wishes],
        help="a verdict a line",
        description="A verdict a line.",
        epilog="Exit status: 0 done, 1 some images failed, 2 no server.",
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders (searched through) and globs")
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line: image and verdict, or error")
    form.add_argument("--table", action="store_true", help="lines to read (default)")
    predict.add_argument("--overlay", type=Path, metavar="DIR", help="write copies with boxes and words drawn on")
    predict.add_argument("--in-flight", type=_count, default=DEFAULT_IN_FLIGHT, metavar="N", help="requests at a time")
    predict.set_defaults(run=_predict)

    stream = commands.add_parser(
        "stream",
        parents=[server, wishes],
        help="watch the server decide, a line a step",
        description="What the server sees and thinks while it works on each image, a line a step.",
        epilog="Exit status: 0 done, 1 some images failed, 2 no server.",
    )
    stream.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders (searched through) and globs")
    stream.add_argument("--json", action="store_true", help="one JSON object a line: image and event, or error")
    stream.set_defaults(run=_stream)

    health = commands.add_parser(
        "health",
        parents=[server],
        help="exit 0 only when a real inference answers",
        description="Send a real inference with a tiny image.",
        epilog="Exit status: 0 it answered, 1 the server is there but it failed, 2 no server.",
    )
    health.set_defaults(run=_health)
    return parser


if __name__ == "__main__":
    sys.exit(main())
