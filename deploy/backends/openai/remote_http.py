"""Speaks HTTP with the server: who is there, one answer, a streamed one; what goes wrong becomes one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import aiohttp
from remote_settings import FILE, RemoteSettings
from vllm_engine import EngineError
from vllm_request import RequestError

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
MOST_BYTES = 64 << 20
"""Of one answer, and of one line of a streamed one."""
KEEP_SECONDS = 2.0
"""An idle connection is kept this long: shorter than servers do (uvicorn 5 s), which would close it under a request."""


class NotThere(EngineError):
    """The server does not answer yet, or is busy: asking later may help."""


class Remote:
    """One server. Made and used on one event loop."""

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        headers = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
        times = settings.timeouts
        self._session = aiohttp.ClientSession(
            headers={**headers, "User-Agent": "roadwork"},
            connector=aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=KEEP_SECONDS),
            timeout=aiohttp.ClientTimeout(total=times.total, sock_connect=times.connect),
        )

    async def close(self) -> None:
        await self._session.close()

    async def check(self) -> None:
        """Ask once whether the server has the model. Raises EngineError, NotThere where asking again may help."""
        settings = self._settings
        limit = min(10.0, settings.timeouts.ready)
        async with self._answering("GET", "/models", None, limit) as response:
            data = self._json(await self._body(response))
        models = data.get("data") if isinstance(data, dict) else None
        if not isinstance(models, list):
            raise self._error("/models is no list of models; is url the address of an OpenAI-compatible API (.../v1)?")
        known = [str(model.get("id")) for model in models if isinstance(model, dict)]
        if settings.model not in known:
            raise self._error(f"has no model {settings.model!r} (model in {FILE}), but {', '.join(known) or 'none'}")

    async def ask(self, body: Mapping[str, Any]) -> Any:
        """The answer that comes at once. Raises EngineError, RequestError."""
        async with self._answering("POST", PATHS[self._settings.api], body, self._settings.timeouts.total) as response:
            return self._json(await self._body(response))

    async def listen(self, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The pieces of a streamed answer, to its end. Raises EngineError, RequestError."""
        times = self._settings.timeouts
        until = time.monotonic() + times.first_byte
        async with self._answering("POST", PATHS[self._settings.api], body, times.total) as response:
            if "event-stream" not in response.headers.get("Content-Type", ""):
                raise self._error(f"streams no events but {response.headers.get('Content-Type', 'nothing')!r}")
            lines = self._lines(response)
            begun = False
            while True:
                try:
                    left = None if begun else max(0.001, until - time.monotonic())
                    line = await asyncio.wait_for(anext(lines), left)
                except StopAsyncIteration:
                    return
                except asyncio.TimeoutError:
                    if begun or time.monotonic() < until:  # the time of the whole request is over
                        raise
                    raise self._error(
                        f"has not begun to answer within {times.first_byte:g} s (timeouts.first_byte)"
                    ) from None
                if not line.startswith(b"data:"):
                    continue  # comments keep the connection open; names of events mean nothing here
                begun = True
                text = line[5:].strip()
                if text == b"[DONE]":
                    return
                data = self._json(text)
                if isinstance(data, dict) and data.get("error"):
                    raise self._error(f"gave up amid its answer: {_said(data)}")
                yield data

    @contextlib.asynccontextmanager
    async def _answering(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 200. Leaving it early closes the connection, by which the server learns of it."""
        settings = self._settings
        try:
            timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=settings.timeouts.connect)
            async with self._session.request(
                method, settings.url + path, json=body, timeout=timeout, proxy=settings.proxy, allow_redirects=False
            ) as response:
                try:
                    if response.status != 200:
                        raise self._refusal(response, await self._body(response), body or {})
                    yield response
                finally:
                    if not response.content.at_eof():
                        response.close()
        except aiohttp.ConnectionTimeoutError:
            raise NotThere(self._line(f"takes no connection within {settings.timeouts.connect:g} s")) from None
        except asyncio.TimeoutError:
            raise self._error(f"has not answered within {seconds:g} s (timeouts.total)") from None
        except aiohttp.ClientConnectorError as error:
            raise NotThere(self._line(f"cannot be reached ({error.strerror or error.os_error or error})")) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError, ConnectionError):
            raise NotThere(self._line("closed the connection amid its answer")) from None
        except aiohttp.ClientError as error:
            raise self._error(f"does not answer as a server should: {type(error).__name__}: {error}") from None

    def _refusal(self, response: aiohttp.ClientResponse, raw: bytes, body: Mapping[str, Any]) -> Exception:
        status, settings = response.status, self._settings
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError):
            data = raw.decode("utf-8", "replace")
        said = self._line(_said(data), whole=False)
        if status in (401, 403):
            if settings.key_env is None:
                return self._error(f"wants a key ({status}): name its environment variable as key_env in {FILE}")
            return self._error(f"does not take the key in the environment variable {settings.key_env} ({status})")
        if status == 404:
            return self._error(f"answered 404 (is url or model in {FILE} wrong?): {said}")
        if status == 429:
            after = response.headers.get("Retry-After", "")
            when = f", to be asked again in {after[:40]} s" if after else ""
            return NotThere(self._line(f"has too much to do (429{when}): {said}"))
        if status in (400, 413, 422):
            return _refused(said, data, body)
        kind = NotThere if status in (502, 503, 504) else EngineError
        return kind(self._line(f"answered {status}: {said}"))

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise self._error(f"sends more than {MOST_BYTES >> 20} MiB as one answer")
        return b"".join(parts)

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        rest = b""
        async for part in response.content.iter_any():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r")
            if len(rest) > MOST_BYTES:
                raise self._error(f"sends more than {MOST_BYTES >> 20} MiB as one line")
        if rest:
            yield rest

    def _json(self, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            shown = raw[:80].decode("utf-8", "replace")
            raise self._error(f"sent what is no JSON: {shown!r}") from None

    def _error(self, text: str) -> EngineError:
        return EngineError(self._line(text))

    def _line(self, text: str, *, whole: bool = True) -> str:
        """One line, without the key: a server may repeat what it was sent."""
        line = f"{self._settings.url} {text}" if whole else text
        if self._settings.key:
            line = line.replace(self._settings.key, "***")
        return " ".join(line.split())[:500]


def _said(data: Any) -> str:
    """The message of an error in the forms that are about: OpenAI's, FastAPI's, a text."""
    if isinstance(data, dict):
        for name in ("error", "message", "detail"):
            if data.get(name):
                return _said(data[name])
    return data if isinstance(data, str) and data.strip() else json.dumps(data)


def _refused(said: str, data: Any, body: Mapping[str, Any]) -> RequestError:
    """The caller's own fault, as far as the server knows: the field that it names stands first."""
    error = data.get("error") if isinstance(data, dict) else None
    name = error.get("param") if isinstance(error, dict) else None
    if name == "input_tokens" or "context length" in said or "maximum context" in said:
        return RequestError(f"text_input: {said}")
    if isinstance(name, str) and name in body and name not in ("messages", "prompt", "model"):
        return RequestError(f"sampling_parameters.{name}: {said}")
    if "image" in said.lower():
        return RequestError(f"image: {said}")
    return RequestError(f"sampling_parameters: the server refuses the request: {said}")
