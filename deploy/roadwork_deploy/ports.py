"""Ports of the server: free ones for tests, and a clear word where one is taken."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from roadwork_deploy.errors import PortTakenError

DEFAULTS = {"grpc": 8001, "http": 8000, "metrics": 8002}
NAMES = {"grpc": "gRPC", "http": "HTTP", "metrics": "metrics"}


@dataclass(frozen=True)
class Ports:
    """TCP ports of one server."""

    grpc: int
    http: int
    metrics: int


def choose_ports(host: str, grpc: int | None, http: int | None, metrics: int | None) -> Ports:
    """Ports as given, checked to be free; a free one where None is given.

    Raises:
        PortTakenError: names the port and the option that moves it.
    """
    wanted = {"grpc": grpc, "http": http, "metrics": metrics}
    given = [port for port in wanted.values() if port is not None]
    for name, port in wanted.items():
        if port is None:
            continue
        if given.count(port) > 1:
            raise PortTakenError(
                f"port {port} is asked for twice; give --grpc-port, --http-port and --metrics-port their own"
            )
        if not 1 <= port <= 65535:
            raise PortTakenError(f"port {port} ({NAMES[name]}) is not between 1 and 65535; change --{name}-port")
        _check_free(host, name, port)
    free = iter(_free_ports(host, 3))
    return Ports(**{name: next(free) if port is None else port for name, port in wanted.items()})


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _check_free(host: str, name: str, port: int) -> None:
    with socket.socket(_family(host)) as probe:
        # As tritonserver does: connections that linger from an earlier server do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(
                f"port {port} ({NAMES[name]}) on {host} cannot be used: {error.strerror or error}; "
                f"stop what uses it, or choose another with --{name}-port"
            ) from None


def _free_ports(host: str, count: int) -> list[int]:
    """Distinct ports that nothing listens on now; all are held until the last is found."""
    sockets = [socket.socket(_family(host)) for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
