"""One server as `vllm_session` knows engines: an event loop of its own, asked for answers until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from remote_answer import AnswerError, Reader, Result
from remote_body import make_body
from remote_http import NotThere, Remote
from remote_settings import RemoteSettings
from vllm_engine import EngineError
from vllm_request import Request

ASK_AGAIN_SECONDS = 0.5


class RemoteEngine:
    """A server's model. A server that is gone fails requests one by one; when it is back, it is asked again.

    Args:
        name: of the tier, for messages.
        settings: of the tier.
        log: takes one line.
    """

    def __init__(self, name: str, settings: RemoteSettings, log: Callable[[str], None]) -> None:
        self.name = name
        self.settings = settings
        self.loop = asyncio.new_event_loop()
        self.why_not: str | None = f"{name} is being loaded"
        self._log = log
        self._remote: Remote | None = None
        self._closing = False
        self._told = False
        self._thread = threading.Thread(target=self.loop.run_forever, name="remote-tier", daemon=True)

    def start(self) -> None:
        """Return when the server has answered that it has the model; with `lazy`, without asking.

        Raises:
            EngineError: it has not, or does not answer within `timeouts.ready`.
        """
        self._thread.start()
        self._call(self._open()).result()
        self.why_not = None

    def died(self) -> None:
        """Nothing of it runs here that could die."""

    def close(self) -> None:
        """End connections and the loop. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self.why_not = f"{self.name} is being unloaded"
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._call(self._end()).result(10)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)
            if not self._thread.is_alive():
                self.loop.close()

    async def generate(self, request_id: str, request: Request, images: list[Any]) -> AsyncGenerator[Result, None]:
        """What is new each time where the request streams, else one result at the end.

        Closing the iterator, or cancelling the task that iterates it, closes the HTTP request.

        Args:
            request_id: unused: a connection stands for the request.
            request: what is asked.
            images: data URLs.

        Raises:
            RequestError: the server does not take the request.
            EngineError: it cannot be reached, answers with an error or not as it should.
        """
        assert self._remote is not None, "started"
        body = make_body(request, images, self.settings)
        wanted = body.get("logprobs") not in (None, False)
        reader = Reader(self.settings, wanted, shown=request.sampling.get("logprobs") is not None)
        checked = not body.get("return_prompt_text")
        try:
            if not request.stream:
                result = reader.whole(await self._remote.ask(body))
                self._compare(result.prompt_text, request.prompt, checked)
                yield result
                return
            async with contextlib.aclosing(self._pieces(body, reader)) as results:
                async for result in results:
                    self._compare(result.prompt_text, request.prompt, checked)
                    checked = True
                    if result.outputs[0].text or result.outputs[0].token_ids or result.finished:
                        yield result
        except AnswerError as error:
            raise EngineError(f"the answer of {self.settings.url} {error}") from None

    async def _pieces(self, body: dict[str, Any], reader: Reader) -> AsyncGenerator[Result, None]:
        """The last piece is held back until the end: the number of tokens may come behind it."""
        assert self._remote is not None, "started"
        last: Result | None = None
        async with contextlib.aclosing(self._remote.listen(body)) as listened:
            async for data in listened:
                result = reader.piece(data)
                if result is None:
                    continue
                if last is not None:  # what comes behind the last piece are numbers
                    last.outputs[0].token_ids = [*last.outputs[0].token_ids, *result.outputs[0].token_ids]
                    last.prompt_token_ids = result.prompt_token_ids
                elif result.finished:
                    last = result
                else:
                    yield result
        if last is None:
            raise EngineError(f"{self.settings.url} broke off amid its answer")
        last.prompt_token_ids = range(reader.input_tokens)
        yield last

    def _compare(self, rendered: str | None, asked: str, done: bool) -> None:
        """The server renders the prompt itself: what it made must be what was asked for."""
        if done:
            return
        if rendered is None:
            if not self._told:
                self._told = True
                self._log(
                    f"{self.name}: {self.settings.url} does not tell the prompt that it renders: it is not checked"
                )
            return
        if rendered != asked:
            at = next((i for i, (a, b) in enumerate(itertools.zip_longest(rendered, asked)) if a != b), 0)
            raise EngineError(
                f"{self.settings.url} renders another prompt than prompt.json has: {rendered[at : at + 40]!r} where "
                f"{asked[at : at + 40]!r} is asked for (character {at}); is it another model or chat template? "
                "check_prompt: false in remote.json lets it be"
            )

    # Life ------------------------------------------------------------------------------------------------------------
    def _call(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def _open(self) -> None:
        self._remote = Remote(self.settings)
        if self.settings.lazy:
            return
        until = time.monotonic() + self.settings.timeouts.ready
        while True:
            try:
                await self._remote.check()
                return
            except NotThere as error:
                if time.monotonic() + ASK_AGAIN_SECONDS > until:
                    waited = f"after {self.settings.timeouts.ready:g} s (timeouts.ready in remote.json)"
                    raise EngineError(f"{self.name}: {error} {waited}") from None
            except EngineError as error:
                raise EngineError(f"{self.name}: {error}") from None
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _end(self) -> None:
        if self._remote is not None:
            await self._remote.close()
