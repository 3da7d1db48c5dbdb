"""A small HTTP server that plays the bad answers of OpenAI-compatible servers: what is tested is how they are told.

Not an engine: no answer of it says anything about a picture. Errors of vLLM have the shape that vLLM 0.32 sends.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Play = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """One connection; what it does with a POST is the server's `play`."""

    protocol_version = "HTTP/1.1"
    server: BadServer

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), {}))
        self.server.listed(self, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        self.server.play(self, body)

    def answer(self, status: int, content: Any, **headers: str) -> None:
        """A whole answer; text goes out as it is, anything else as JSON."""
        raw = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, *pieces: Any, end: bool = True) -> None:
        """Server-sent events; `end` closes the stream as it should be, else the connection breaks."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            text = piece if isinstance(piece, str) else f"data: {json.dumps(piece)}\n\n"
            self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
            self.wfile.flush()
        if end:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error."""


class BadServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1. `seen` are the requests: path, headers, body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.play: Play = lambda handler, body: handler.answer(500, "no play")
        self.listed: Play = lambda handler, body: handler.answer(200, {"data": [{"id": "m"}]})
        self.gone = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.gone.set()
        self.shutdown()
        self.server_close()
        self._thread.join(5)
