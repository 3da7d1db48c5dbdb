"""Turns a tier's request into the body of an OpenAI-compatible one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from remote_engines import ENGINES
from remote_settings import Frame, RemoteSettings
from vllm_request import Request, RequestError
from vllm_sampling import check_sampling, fail

DEFAULT_TOKENS = 16
"""What the tiers' contract makes where the caller does not say (`max_tokens`)."""


def make_body(request: Request, images: Sequence[str], settings: RemoteSettings) -> dict[str, Any]:
    """The JSON object to post.

    Args:
        request: of the tier's caller.
        images: data URLs.
        settings: of the tier.

    Raises:
        RequestError: what is asked cannot be asked of that server; the message begins with the field.
    """
    api = ENGINES[settings.engine]
    if request.lora_name is not None:
        raise fail("lora_name", "is not taken by a remote tier; name the adapter as model in remote.json")
    body: dict[str, Any] = {"model": settings.model, **api.neutral, "max_tokens": DEFAULT_TOKENS}
    if settings.api == "chat":
        assert settings.frame is not None, "checked when the settings are read"
        body |= {**api.always, **_messages(request.prompt, images, settings.frame, settings)}
    else:
        if images:
            raise RequestError("image: the completions API takes no images; set api: chat in remote.json")
        body["prompt"] = request.prompt
    body |= _sampling(request, settings)
    if api.token_ids:
        if settings.api == "chat":
            body |= {"return_tokens_as_token_ids": True, "return_prompt_text": settings.check_prompt}
        else:
            body["return_token_ids"] = True
    if request.stream:
        body |= {"stream": True, "stream_options": dict(api.usage)}
    return {**body, **settings.extra_body}


def _messages(text: str, images: Sequence[str], frame: Frame, settings: RemoteSettings) -> dict[str, Any]:
    """The rendered prompt turned back into messages: the server renders the model's chat template itself.

    Behind the prompt the beginning of an answer may stand (the repair of a broken one).
    """
    middle = text.removeprefix(frame.before)
    end = middle.find(frame.question + frame.after)
    if not text.startswith(frame.before) or end < 0:
        raise RequestError(
            "text_input: is not the prompt of this tier's prompt.json; a remote tier takes that one alone, because its "
            "server renders the chat template"
        )
    if len(images) != 1:
        raise RequestError(f"image: the prompt has a placeholder for one image, got {len(images)}")
    content = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    content.append({"type": "text", "text": middle[:end] + frame.question})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    begun = middle[end + len(frame.question + frame.after) :]
    if not begun:
        return {"messages": messages}
    continues = ENGINES[settings.engine].continues
    if continues is None:
        raise RequestError(f"text_input: an answer that has begun cannot be gone on with over {settings.engine}'s API")
    return {"messages": [*messages, {"role": "assistant", "content": begun}], **continues}


def _sampling(request: Request, settings: RemoteSettings) -> dict[str, Any]:
    api = ENGINES[settings.engine]
    checked = check_sampling(request.sampling, api.names, request.stream)
    body = {api.fields[name]: value for name, value in checked.items() if name in api.fields and value is not None}
    allowed = checked.get("allowed_token_ids")
    if allowed is not None:
        if api.allows:
            body["allowed_token_ids"] = allowed
        elif checked.get("max_tokens", DEFAULT_TOKENS) != 1:
            # Of a single token the log-probabilities are read, which stand before any mask: only its text changes.
            raise fail("allowed_token_ids", f"{settings.engine} has it not, and max_tokens is not 1")
    structured = checked.get("structured_outputs")
    if structured is not None:
        body |= {"structured_outputs": structured} if api.structured else _response_format(structured, settings.engine)
    number = checked.get("logprobs")
    if number is None and "cumulative_logprob" in request.returns:
        number = 0
    if number is not None:
        body |= {"logprobs": number} if settings.api == "completions" else {"logprobs": True, "top_logprobs": number}
    return body


def _response_format(structured: dict[str, Any], engine: str) -> dict[str, Any]:
    schema = structured.get("json")
    if schema is None:
        raise fail("structured_outputs", f"{engine} takes json alone, got {', '.join(structured)}")
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise fail("structured_outputs", f"json: is not JSON ({error})") from None
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
