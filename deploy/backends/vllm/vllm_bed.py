"""How vLLM's sleep mode is used: levels 1 and 2, beside other engines on the same GPU.

Level 1 copies the weights to the host's memory, level 2 throws them away and reads them again; both forget the
key-value cache. Written against vLLM 0.25.1 and 0.32 (`AsyncLLM.sleep`, `wake_up`, `collective_rpc`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from vllm_memory import Memory, gigabytes
from vllm_sleep import CannotWake

ROOM_SECONDS = 30.0
"""That an engine which shall wake waits for others to give memory back."""
ROOM_POLL_SECONDS = 0.1
QUESTION = tuple(range(10, 42))
"""Token ids: every vocabulary has them, and what they mean does not matter."""
ASKED_LOGPROBS = 5
NEAR = 0.1
"""Difference of log-probabilities, in nats, within which an engine gives the same answer as before it slept."""


class EngineBed:
    """Sleeping of one engine.

    Args:
        client: gives vLLM's `AsyncLLM`; a new one after a restart.
        level: 1 or 2.
        memory: of the GPUs that it runs on.
    """

    def __init__(self, client: Callable[[], Any], level: int, memory: Memory) -> None:
        self._client = client
        self._level = level
        self._memory = memory
        self._needed: list[int] = []
        self._answer: Mapping[int, float] | None = None
        self._numbers = itertools.count()

    async def sleep(self) -> None:
        """Give the GPU's memory back, and note how much that was."""
        client = self._client()
        if self._level == 2 and self._answer is None:
            self._answer = await self._ask(client)
        async with self._memory.alone():
            before = self._memory.free()
            await client.sleep(level=self._level)
            given = [after - then for after, then in zip(self._memory.free(), before, strict=True)]
        # The least seen: what another program gives back in this moment does not belong to it.
        self._needed = [min(pair) for pair in zip(given, self._needed or given, strict=True)]

    async def wake_up(self) -> None:
        """Take the memory again, where there is enough, and read the weights again at level 2.

        Raises:
            CannotWake: others hold the memory.
            RuntimeError: its answers are not those from before.
        """
        client = self._client()
        until = time.monotonic() + ROOM_SECONDS
        async with contextlib.AsyncExitStack() as stack:
            while True:
                # Between looking and taking, nobody else may take; while it waits for others, they may give back.
                await stack.enter_async_context(self._memory.alone())
                problem = self._no_room()
                if not problem:
                    break
                await stack.aclose()
                if time.monotonic() > until:
                    raise CannotWake(problem)
                await asyncio.sleep(ROOM_POLL_SECONDS)
            if self._level == 1:
                await client.wake_up()
            else:
                await client.wake_up(tags=["weights"])
                await client.collective_rpc("reload_weights")
                await client.wake_up(tags=["kv_cache"])
        if self._level == 2:
            self._compare(await self._ask(client))

    def _no_room(self) -> str:
        for index, (free, needed) in enumerate(zip(self._memory.free(), self._needed, strict=False)):
            if free < needed:
                return (
                    f"it sleeps and needs {gigabytes(needed)} GB of GPU {self._memory.names[index]}, where "
                    f"{gigabytes(free)} GB are free: others hold the rest"
                )
        return ""

    async def _ask(self, client: Any) -> Mapping[int, float]:
        """The likeliest next tokens behind a fixed prompt, with their log-probabilities."""
        (prompt,) = await client.renderer.render_cmpl_async([{"prompt_token_ids": list(QUESTION)}])
        answers = [answer async for answer in client.generate(prompt, one_token(), f"sleep-{next(self._numbers)}")]
        if not answers:
            raise RuntimeError("it gave no answer to the question by which sleep level 2 is checked")
        return {token: entry.logprob for token, entry in answers[-1].outputs[0].logprobs[0].items()}

    def _compare(self, answer: Mapping[int, float]) -> None:
        """Level 2 is known to leave some architectures with wrong weights (vLLM issue 29341), and nothing says so."""
        before = self._answer or {}
        best = max(before, key=before.__getitem__)
        if not abs(answer.get(best, math.nan) - before[best]) <= NEAR:  # not a number is not near either
            raise RuntimeError(
                "its answers are not those from before it slept: this model's weights do not survive SLEEP_LEVEL 2; "
                "set 1 in config.pbtxt"
            )


def one_token() -> Any:
    """Sampling parameters that ask for the likeliest next token, and those beside it."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    final = RequestOutputKind.FINAL_ONLY
    return SamplingParams(max_tokens=1, temperature=0.0, logprobs=ASKED_LOGPROBS, output_kind=final)
