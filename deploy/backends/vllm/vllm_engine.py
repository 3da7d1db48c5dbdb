"""One vLLM engine on an event loop of its own: start, ask, notice its death, start it again, end it.

Every call that touches the engine runs on that loop's thread, which lives as long as the model does: the kernel kills
the engine's processes when the thread that started them ends (`vllm_guard`).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import os
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import vllm_guard
from vllm_bed import EngineBed
from vllm_memory import memory_of
from vllm_request import Request, RequestError
from vllm_sampling import check_sampling, fail
from vllm_settings import Settings
from vllm_sleep import CannotWake, Sleeper, State

RESTARTS = 3
RESTART_WINDOW = 600.0  # seconds
PORT_TRIES = 3  # vLLM picks a free port and listens there only some time later


class EngineError(Exception):
    """The engine does not start, has died or is not there; one line that says why."""


class Engine:
    """A vLLM engine.

    Args:
        name: of the model, for messages.
        settings: of the model.
        stat_loggers: factories for vLLM, as `AsyncLLM` takes them.
        log: takes one line.
        lost: called (on the loop's thread) when the engine has died and is not started again.
        slept: called (there too) with each state of an engine that may sleep, and the seconds that waking took.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        stat_loggers: list[Any],
        log: Callable[[str], None],
        lost: Callable[[], None],
        slept: Callable[[State, float | None], None] = lambda state, seconds: None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.loop = asyncio.new_event_loop()
        self.image_count = 0
        self._stat_loggers = stat_loggers
        self._log = log
        self._lost = lost
        self._slept = slept
        self._sleeper: Sleeper | None = None
        self._client: Any = None
        self._why_not: str | None = "the engine is being started"
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._reviving: asyncio.Task | None = None
        self._closing = False
        self._thread = threading.Thread(target=self.loop.run_forever, name="vllm-engine", daemon=True)

    def start(self) -> None:
        """Start, and return when the engine takes requests.

        Raises:
            EngineError: it does not start.
        """
        self._thread.start()
        self._call(self._create()).result()

    def _call(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Run a coroutine on the engine's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @property
    def why_not(self) -> str | None:
        """None while the engine takes requests, else the reason why it does not. Also notices a death."""
        if self._why_not is None and self._client is not None and self._client.errored:
            return f"the engine of {self.name} has died"
        return self._why_not

    def close(self) -> None:
        """End the engine's processes and the loop. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        self._why_not = f"the engine of {self.name} is being stopped"
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._call(self._end()).result(60)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(10)

    # Asking ----------------------------------------------------------------------------------------------------------
    async def generate(self, request_id: str, request: Request, images: list[Any]) -> AsyncIterator[Any]:
        """`vllm.RequestOutput`s: what is new each time where the request streams, else one at the end.

        Closing the iterator, or cancelling the task that iterates it, ends the engine's work.

        Args:
            request_id: unlike any other request's that is under way.
            request: what is asked.
            images: its decoded images.

        Raises:
            RequestError: vLLM does not take the request.
            EngineError: the engine has died.
        """
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params, lora = self._sampling(request), self._lora(request.lora_name)
        # Held awake from here on: falling asleep empties the cache of pixel values that a prompt refers to.
        async with self._awake():
            prompt = await self._render(request.prompt, images)
            try:
                answers = self._client.generate(prompt, params, request_id, lora_request=lora)
                async with contextlib.aclosing(answers):
                    async for answer in answers:
                        yield answer
            except (*_client_errors(), ValueError) as error:
                raise _refused(error, request) from None
            except EngineDeadError:
                raise EngineError(f"the engine of {self.name} has died") from None
            except EngineGenerateError as error:
                if isinstance(error.__cause__, ValueError):
                    raise _refused(error.__cause__, request) from None
                raise EngineError(f"the engine of {self.name} failed: {error.__cause__!r}") from None

    @contextlib.asynccontextmanager
    async def _awake(self) -> AsyncIterator[None]:
        if self._sleeper is None:
            yield
            return
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._sleeper.awake())
            except CannotWake as error:
                raise EngineError(f"the engine of {self.name} does not answer: {error}") from None
            yield

    async def _render(self, text: str, images: list[Any]) -> Any:
        """Tokens and pixel values as the engine takes them; made in vLLM's threads, off this loop."""
        prompt: dict[str, Any] = {"prompt": text}
        if images:
            prompt["multi_modal_data"] = {"image": images}
        try:
            return (await self._client.renderer.render_cmpl_async([prompt]))[0]
        except Exception as error:
            said = " ".join(str(error).split())
            if "maximum context length" in said or "maximum model length" in said:
                raise await self._too_long(text, images, said) from None
            if (images and "prompt replacement" in said) or "placeholder" in said:
                raise RequestError(f"text_input: has not one placeholder for each of {len(images)} images") from None
            raise RequestError(f"text_input: cannot be used: {said or repr(error)}") from None

    async def _too_long(self, text: str, images: list[Any], said: str) -> RequestError:
        """vLLM stops counting at the limit; the caller is told how much too long the prompt is."""
        counted = re.search(r"length (\d+)", said)
        if counted:
            tokens = int(counted[1])
        else:
            tokenizer = self._client.renderer.get_tokenizer()
            tokens = len(await self.loop.run_in_executor(None, tokenizer.encode, text))
        beside = " beside its images" if images and not counted else ""
        most = self._client.model_config.max_model_len
        limit = f"prompt and answer may have {most} (max_model_len in model.json)"
        return RequestError(f"text_input: has {tokens} tokens{beside}, and {limit}")

    def _sampling(self, request: Request) -> Any:
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        checked = check_sampling(request.sampling, sampling_names(), request.stream)
        try:
            if "structured_outputs" in checked:
                checked["structured_outputs"] = StructuredOutputsParams(**checked["structured_outputs"])
            kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
            return SamplingParams.from_optional(**checked, output_kind=kind)
        except (*_client_errors(), ValueError, TypeError) as error:
            parameter = getattr(error, "parameter", None) or next((n for n in checked if n in str(error)), "")
            if parameter:
                raise fail(parameter, str(error.args[0] if error.args else error)) from None
            raise RequestError(f"sampling_parameters: {error}") from None

    def _lora(self, name: str | None) -> Any:
        if name is None:
            return None
        loras = self.settings.loras
        if not loras:
            raise RequestError("sampling_parameters.lora_name: LoRA is not enabled (enable_lora in model.json)")
        if name not in loras:
            raise RequestError(f"sampling_parameters.lora_name: {name!r} is unknown; known are {', '.join(loras)}")
        from vllm.lora.request import LoRARequest

        number = list(loras).index(name) + 1
        return LoRARequest(name, number, loras[name])

    # Life ------------------------------------------------------------------------------------------------------------
    async def _create(self) -> None:
        config = self._begin()
        await self._client.reset_mm_cache()  # the start has filled it with made-up images
        self._why_not = None
        if self.settings.sleep is not None:
            if self._sleeper is None:
                after, level = self.settings.sleep.after, self.settings.sleep.level
                memory = memory_of(config.parallel_config.world_size)
                bed = EngineBed(lambda: self._client, level, memory)
                self._sleeper = Sleeper(after, bed, self._overslept, self._slept)
            self._sleeper.start()

    def _begin(self) -> Any:
        """Start the engine's processes and wait for them; vLLM's settings of the engine. Tries again where the port
        that vLLM has chosen is taken by the time that it listens there.
        """
        for tries_left in reversed(range(PORT_TRIES)):
            try:
                return self._try()
            except EngineError as error:
                if not tries_left or "EADDRINUSE" not in str(error):
                    raise
                self._log(f"{self.name}: the port that vLLM has chosen is taken; starting the engine again")
        raise AssertionError("the last try returns or raises")

    def _try(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        vllm_guard.install()
        with tempfile.TemporaryDirectory(prefix="roadwork-engine-") as folder:
            reason = Path(folder) / "reason"
            os.environ[vllm_guard.REASON_FILE] = str(reason)
            try:
                arguments = AsyncEngineArgs(**self.settings.engine)
                config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
                multimodal = config.model_config.multimodal_config
                self.image_count = multimodal.get_limit_per_prompt("image") if multimodal else 0
                # Statistics go to our own logger alone: vLLM's default ones cost time on this thread.
                self._client = AsyncLLM.from_vllm_config(
                    config,
                    usage_context=UsageContext.OPENAI_API_SERVER,
                    stat_loggers=self._stat_loggers,
                    disable_log_stats=True,
                )
                return config
            except Exception as error:
                why = vllm_guard.read_reason(reason) or " ".join(str(error).split()) or repr(error)
                raise EngineError(f"{self.name}: the engine does not start with this model.json: {why}") from None
            finally:
                os.environ.pop(vllm_guard.REASON_FILE, None)

    def _overslept(self, why: str) -> None:
        """Sleeping or waking went wrong, so that nobody knows what is in its memory."""
        self._log(f"the engine of {self.name} is of no use any more: {why}")
        self._died()

    def died(self) -> None:
        """Take note that the engine has died: start it again in the background, or give it up. Any thread."""
        self.loop.call_soon_threadsafe(self._died)

    def _died(self) -> None:
        if self._closing or self._reviving is not None or self._why_not is not None:
            return
        if self._sleeper is not None:
            self._sleeper.stop()
        now = time.monotonic()
        recent = [at for at in self._restarts if now - at < RESTART_WINDOW]
        if self.settings.health_check or len(recent) >= RESTARTS:
            self._why_not = f"the engine of {self.name} has died; load the model again"
            self._log(f"{self._why_not} (unloading)")
            self._lost()
            return
        self._restarts.append(now)
        self._why_not = f"the engine of {self.name} has died and is being started again"
        self._log(self._why_not)
        self._reviving = self.loop.create_task(self._revive())

    async def _revive(self) -> None:
        try:
            await asyncio.sleep(0.5)  # requests that were under way are told first: starting blocks this loop
            client, self._client = self._client, None
            client.shutdown()
            await self._create()
            self._log(f"the engine of {self.name} runs again")
        except Exception as error:
            self._why_not = f"the engine of {self.name} has died and could not be started again: {error}"
            self._log(self._why_not)
            self._lost()
        finally:
            self._reviving = None

    async def _end(self) -> None:
        if self._reviving is not None:
            self._reviving.cancel()
        if self._sleeper is not None:
            self._sleeper.stop()
        if self._client is not None:
            self._client.shutdown()
            self._client = None


def engine_names() -> list[str]:
    """Names that model.json may have with the installed vLLM."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    return [item.name for item in dataclasses.fields(AsyncEngineArgs)]


@functools.cache
def sampling_names() -> list[str]:
    """Names of the installed vLLM's sampling parameters."""
    from vllm.sampling_params import SamplingParams

    return list(inspect.signature(SamplingParams.from_optional).parameters)


def _refused(error: Exception, request: Request) -> RequestError:
    """vLLM's own refusal of a prompt that it has taken: the field in front of it is one of the sampling parameters."""
    parameter = getattr(error, "parameter", None)
    text = " ".join(str(error.args[0] if error.args else error).split())
    if parameter in sampling_names():
        return fail(str(parameter), text)
    if "structured_outputs" in request.sampling and ("grammar" in text.lower() or "structured" in text.lower()):
        return fail("structured_outputs", text)
    return RequestError(f"sampling_parameters: {text}")


def _client_errors() -> tuple[type[Exception], ...]:
    """What vLLM raises for a request that it does not take. Releases before 0.32 had `ValueError` alone."""
    try:
        from vllm.exceptions import VLLMClientError
    except ImportError:
        return ()
    return (VLLMClientError,)
