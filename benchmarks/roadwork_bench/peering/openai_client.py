"""Child process: asks a server with OpenAI's API about images, over connections that are kept.

    python -m roadwork_bench.peering.openai_client SETTINGS.json

SETTINGS.json: `url`, `model`, `question` (the user's text), `sampling` (of the tier's prompt). Messages and answers are
those of `tiers.bare_engine`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

from roadwork_bench.tiers.images import read_images
from roadwork_bench.tiers.worker import answer_lines, claim_stdout

ANSWERS_IN_FLIGHT = 4
REQUEST_SECONDS = 120.0
TOKEN = "token_id:"  # how vLLM names a token where it is asked for ids


class OpenAIClient:
    """One session on one event loop, which stands still between messages."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._url = f"{settings['url']}/chat/completions"
        self._question = settings["question"]
        self._body = make_body(settings["model"], settings["sampling"])
        self._loop = asyncio.new_event_loop()
        self._session: aiohttp.ClientSession = self._loop.run_until_complete(self._open())

    async def _open(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(REQUEST_SECONDS)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def one(self, image: bytes) -> bytes:
        """The body of the answer to one JPEG. Raises ValueError with what the server said instead."""
        url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self._question}]
        body = {**self._body, "messages": [{"role": "user", "content": content}]}
        async with self._session.post(self._url, json=body) as answer:
            text = await answer.read()
            if answer.status != 200:
                raise ValueError(f"status {answer.status}: {text[:300]!r}")
            return text

    async def block(self, images: list[bytes], in_flight: int, seconds: float, least: int) -> dict[str, Any]:
        times: list[tuple[float, float]] = []
        indices = iter(range(len(images)))
        stop = time.monotonic() + seconds

        async def work() -> None:
            for index in indices:
                begin = time.monotonic()
                if begin >= stop and index >= least:
                    return
                await self.one(images[index])
                times.append((begin, time.monotonic()))

        await asyncio.gather(*(work() for _ in range(in_flight)))
        return {"begins": [begin for begin, _ in times], "ends": [end for _, end in times]}

    async def answers(self, images: list[bytes]) -> dict[str, Any]:
        slots = asyncio.Semaphore(ANSWERS_IN_FLIGHT)

        async def work(image: bytes) -> dict[str, Any]:
            async with slots:
                return dict(json.loads(await self.one(image)))

        found = await asyncio.gather(*(work(image) for image in images))
        return {"answers": [read_tokens(data) for data in found], "input_tokens": found[0]["usage"]["prompt_tokens"]}

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        images = read_images(message["images"])
        if message["do"] == "answers":
            return self._loop.run_until_complete(self.answers(images))
        work = self.block(images, message["in_flight"], message["seconds"], message["least"])
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.close()


def make_body(model: str, sampling: dict[str, Any]) -> dict[str, Any]:
    """All of a request but its messages: the tier's sampling as vLLM's server takes it, log-probabilities by id."""
    settings = {key: value for key, value in sampling.items() if key != "logprobs"}
    logprobs = {"logprobs": True, "top_logprobs": sampling["logprobs"], "return_tokens_as_token_ids": True}
    return {"model": model, **settings, **logprobs}


def read_tokens(data: dict[str, Any]) -> dict[str, float]:
    """Token id -> log-probability of the one token of an answer."""
    entry = data["choices"][0]["logprobs"]["content"][0]
    entries = [entry, *entry["top_logprobs"]]
    return {found["token"].removeprefix(TOKEN): float(found["logprob"]) for found in entries}


def main() -> None:
    out = claim_stdout()
    client = OpenAIClient(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        answer_lines(out, client.handle, {"ready": True})
    finally:
        client.close()


if __name__ == "__main__":
    main()
