"""Any OpenAI-compatible endpoint as a policy: a served Qwen-VL, GPT, Gemini, …

`openai:URL#MODEL`, for example `openai:http://127.0.0.1:8000/v1#my-model`. The endpoint is asked and
read by our protocol, so that it is compared fairly; images are sent as PNG, without loss, already
at the size the coordinates refer to.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from eval.answerers.checkpoint import SamplerAnswerer
from prompter.chat import SamplingRequest
from prompter.checkpoint import Checkpoint, load_policy
from prompter.coords import FrameKind
from prompter.errors import UserError
from prompter.policy import Policy, PolicySettings
from prompter.runs.config import describe_validation_error
from prompter.sampling.base import Sampler, SamplingSettings
from prompter.sampling.token_sampler import suppressed_ids
from prompter.types import Completion

_RETRIED_STATUS = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
_TEXT_PARTS = ("text", "output_text")


class EndpointSettings(PolicySettings):
    """How an endpoint is asked: a policy's settings, and how it is reached.

    Args:
        frame: coordinates the model speaks: `absolute` pixels of the image it is sent (Qwen2.5-VL,
            GPT) or `thousandths` of each side (Qwen2-VL, Qwen3-VL, Gemini); `prompter probe` tells.
        factor: sides of the sent image are multiples of this, so that a served Qwen-VL does not
            resize it again: 28 for Qwen2.5-VL, 32 for Qwen3-VL.
        protocol_from: folder or hub id of a checkpoint whose own protocol is used, for a checkpoint
            that is served elsewhere; settings that are given replace those of that protocol. It is then
            also decoded as our own samplers do: see `checkpoint_fields`.
        api_key_env: environment variable that holds the key; none is sent if it is not set.
        concurrency: requests in flight.
        retries: how often a request is tried again after a refused connection, a timeout, or one of
            the statuses 408, 409, 425, 429, 500, 502, 503, 504.
        timeout_seconds: longest wait for an answer.
        body: further fields of the request; null removes a field, as some models want
            {"max_completion_tokens": 512, "max_tokens": null, "temperature": null}.
    """

    frame: FrameKind = "absolute"
    factor: int = Field(default=28, ge=1)
    protocol_from: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = Field(default=4, ge=1, le=64)
    retries: int = Field(default=4, ge=0, le=20)
    timeout_seconds: float = Field(default=120.0, gt=0)
    body: dict[str, Any] = Field(default_factory=dict)


class EndpointSampler(Sampler):
    """Samples from `URL/chat/completions`.

    Args:
        url: base address, such as `http://127.0.0.1:8000/v1`.
        model: name the endpoint knows the model by.
        settings: how to reach it.

    Raises:
        UserError: if the address is not http(s), a key would travel unencrypted to another machine, or
            the key cannot be sent in a header.
    """

    def __init__(self, url: str, model: str, settings: EndpointSettings) -> None:
        from openai import DefaultHttpxClient, Omit, OpenAI  # half a second, and only endpoints need it

        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"The endpoint {url!r} is not an address such as http://127.0.0.1:8000/v1.")
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        key = os.environ.get(settings.api_key_env, "")
        if key and parts.scheme == "http" and not local:
            raise UserError(
                f"The key in {settings.api_key_env} would be sent unencrypted to {parts.hostname}; "
                f"use https, or unset the variable."
            )
        if not (key.isascii() and key.isprintable()):  # refused here: the client's error would print it
            raise UserError(f"The key in {settings.api_key_env} holds a line break or a sign beyond ASCII.")
        self._url = url.rstrip("/") + "/chat/completions"
        self._model = model
        self._settings = settings
        # Tries nothing again by itself: its pauses are drawn at random, and it takes any text for an answer.
        # On this machine no proxy of the environment is asked.
        self._client = OpenAI(
            base_url=url,
            api_key=key or "none",
            max_retries=0,
            timeout=settings.timeout_seconds,
            http_client=DefaultHttpxClient(trust_env=not local, follow_redirects=False),
        )
        # The client reads more from the environment than the key; none of it is sent.
        self._unsent = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        if not key:
            self._unsent["Authorization"] = Omit()
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="endpoint")

    def sample(
        self, requests: Sequence[SamplingRequest], settings: SamplingSettings, *, logprobs: bool = False
    ) -> list[list[Completion]]:
        """See `Sampler.sample`. Token ids are unknown here; as many zeros stand for their number.

        Raises:
            UserError: if the endpoint refuses a request or does not answer within the retries.
            ValueError: if log-probabilities are asked for.
        """
        if logprobs:
            raise ValueError("an endpoint gives no log-probabilities of sampled tokens")
        return list(self._pool.map(lambda request: self._ask(request, settings), requests))

    def sync_adapter(self, adapter: Path, version: int) -> None:
        """Not possible: an endpoint serves the weights it serves."""
        raise UserError(f"The endpoint {self._url} cannot load the adapter {adapter}; serve it there.")

    def close(self) -> None:
        """Stop the threads and close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ask(self, request: SamplingRequest, settings: SamplingSettings) -> list[Completion]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": _with_image(request),
            "temperature": settings.temperature,
            "max_tokens": settings.max_new_tokens,
            "n": settings.n,
        }
        if settings.temperature > 0:
            body["top_p"] = settings.top_p
        seed = settings.seed if request.seed is None else request.seed
        if seed is not None:
            body["seed"] = seed
        if request.template_options:
            body["chat_template_kwargs"] = dict(request.template_options)
        for name, value in self._settings.body.items():
            body[name] = value
        body = {name: value for name, value in body.items() if value is not None}
        return self._completions(self._post(body), settings.n)

    def _completions(self, reply: Any, count: int) -> list[Completion]:
        try:
            choices = reply["choices"]
            tokens = int((reply.get("usage") or {}).get("completion_tokens") or 0) // max(1, len(choices))
            found = [
                Completion(
                    text=_content_text(choice["message"].get("content"), self._url),
                    token_ids=(0,) * tokens,
                    logprobs=None,
                    finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
                )
                for choice in choices
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(f"{self._url} answered something that is no chat completion.") from None
        if len(found) != count:
            raise UserError(f"{self._url} gave {len(found)} completions where {count} were asked for.")
        return found

    def _post(self, body: Mapping[str, Any]) -> Any:
        """Send a request, trying again with growing pauses; return the parsed reply."""
        from openai import APIConnectionError, APIStatusError

        problem = ""
        for attempt in range(self._settings.retries + 1):
            wait = min(_LONGEST_WAIT, 0.5 * 2**attempt)
            try:
                # As text: a proxy that answers for a server still loading its model says 200 and no JSON.
                text = self._client.post(
                    "/chat/completions", cast_to=str, body=body, options={"headers": self._unsent}
                )
                return json.loads(text)
            except APIStatusError as error:
                problem = f"status {error.status_code}: {' '.join(error.response.text[:2000].split())[:300]}"
                if error.status_code not in _RETRIED_STATUS:
                    break
                wait = _asked_wait(error.response.headers.get("Retry-After"), wait)
            except APIConnectionError as error:
                problem = str(error.__cause__ or error) or type(error).__name__
            except ValueError:
                problem = "the reply is not JSON"
            if attempt < self._settings.retries:
                time.sleep(wait)
        raise UserError(
            f"The endpoint {self._url} did not answer ({problem}); mend it and give the command again."
        )


def _content_text(content: Any, url: str) -> str:
    """The text of a message's `content`: a text, nothing, or a list of parts, whose texts are joined.

    Parts of other kinds (a thought, an image) hold nothing that is read. What an endpoint's answer is made
    of: https://platform.openai.com/docs/api-reference/chat.

    Raises:
        UserError: if it is something else, such as a number or a list in a list.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(_part_text(part, url) for part in content)
    raise UserError(f"{url} answered with a content that is no text but a {type(content).__name__}.")


def _part_text(part: Any, url: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        text = part.get("text") if part["type"] in _TEXT_PARTS else None
        if text is None or isinstance(text, str):
            return text or ""
    raise UserError(f"{url} answered with a part of content that has no known form: {part!r:.80}.")


def _asked_wait(header: str | None, otherwise: float) -> float:
    """Seconds a server asks to wait in `Retry-After`, capped; `otherwise` if it does not say."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(header or "")))
    except ValueError:
        return otherwise


def _with_image(request: SamplingRequest) -> list[dict[str, Any]]:
    """The chat with the image in its place, as a PNG data URL."""
    buffer = io.BytesIO()
    request.image.save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    image = {"type": "image_url", "image_url": {"url": url}}
    return [
        {
            **message,
            "content": [image if part["type"] == "image" else part for part in message["content"]],
        }
        for message in request.messages
    ]


def checkpoint_fields(policy: Checkpoint) -> dict[str, Any]:
    """Fields of a request that make a served checkpoint decode as our own samplers do.

    They never sample a vision token, and know nothing of the penalties in a checkpoint's
    `generation_config.json`, which servers apply unless told otherwise. Special tokens are left in the
    text where the dialect reads them.
    """
    suppressed = suppressed_ids(policy.processor.tokenizer)
    fields = {"logit_bias": {str(token): -100 for token in suppressed}, "repetition_penalty": 1.0}
    return {**fields, "skip_special_tokens": False} if policy.dialect.special_tokens else fields


def asked_policy(options: Mapping[str, Any]) -> tuple[EndpointSettings, Policy]:
    """How a model that somebody else runs is asked and read, from the fields of `EndpointSettings`.

    Returns:
        The settings, and the policy they make: a `Checkpoint` where `protocol_from` names one.

    Raises:
        UserError: if an option is unknown or bad.
    """
    try:
        settings = EndpointSettings.model_validate(dict(options)).resolved()
    except ValidationError as error:
        raise UserError(f"Policy options: {describe_validation_error(error)}") from None
    if settings.protocol_from is None:
        return settings, Policy(settings, settings.frame, settings.factor)
    given = {name: value for name, value in options.items() if name in PolicySettings.model_fields}
    return settings, load_policy(settings.protocol_from, given)


def build_endpoint(address: str, options: Mapping[str, Any]) -> SamplerAnswerer:
    """Make the answerer of `URL#MODEL`, greedy, from the fields of `EndpointSettings`.

    Raises:
        UserError: if the address lacks the model's name or an option is unknown or bad.
    """
    url, mark, model = address.partition("#")
    if not mark or not model:
        raise UserError(f"Give the endpoint as openai:URL#MODEL; {address!r} names no model.")
    settings, policy = asked_policy(options)
    if isinstance(policy, Checkpoint):
        settings = settings.model_copy(update={"body": {**checkpoint_fields(policy), **settings.body}})
    greedy = SamplingSettings(
        max_new_tokens=policy.settings.max_new_tokens, temperature=0.0, top_p=1.0, top_k=0, n=1
    )
    return SamplerAnswerer(policy, EndpointSampler(url, model, settings), greedy)
