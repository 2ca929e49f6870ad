"""What the model routes take. A body is judged alike whether it is answered now or becomes a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import InvalidRequest
from gateway.call import CHAT, EMBEDDINGS
from gateway.requests import (
    DENIED_FIELDS,
    ChatCompletionRequest,
    EmbeddingsRequest,
    GenerateRequest,
    check,
    refuse_denied,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GENERATE = "/generate"
NOT_ONE_TEXT = (
    "messages", "tools", "tool_choice", "functions", "function_call", "parallel_tool_calls",
    "logprobs", "top_logprobs", "modalities", "audio", "stream", "stream_options",
)  # fmt: skip
"""Fields of a chat completion that `/generate` has no answer for: a prompt goes in, and one text comes out."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A body that a model route takes, as the call that it becomes."""

    endpoint: str
    body: Mapping[str, Any]
    is_stream: bool = False
    choices: int = 1


def judge(
    endpoint: str, body: dict[str, Any], *, default_model: str | None, denied: Iterable[str] = DENIED_FIELDS
) -> Judged:
    """Judge a body as `endpoint` does. Raises `InvalidRequest`."""
    refuse_denied(body, denied)
    if endpoint == GENERATE:
        return Judged(CHAT, _chat_behind(body, default_model))
    if endpoint == EMBEDDINGS:
        check(body, EmbeddingsRequest)
        return Judged(EMBEDDINGS, body)
    chat = check(body, ChatCompletionRequest)
    return Judged(CHAT, body, is_stream=bool(chat.stream), choices=chat.n or 1)


def _chat_behind(body: dict[str, Any], default_model: str | None) -> dict[str, Any]:
    """The chat completion behind a `/generate`. Raises `InvalidRequest`."""
    for name in NOT_ONE_TEXT:
        if body.get(name) not in (None, False):
            _refuse_as_no_text(name)
    if body.get("n") not in (None, 1):
        _refuse_as_no_text("n")
    asked = check(body, GenerateRequest)
    model = asked.model or default_model
    if model is None:
        raise InvalidRequest("'model' is required: this gateway has no default model.", param="model")
    further = {name: value for name, value in body.items() if name not in ("prompt", "model", "stream")}
    chat = {**further, "model": model, "messages": [{"role": "user", "content": asked.prompt}]}
    check(chat, ChatCompletionRequest)
    return chat


def _refuse_as_no_text(name: str) -> None:
    raise InvalidRequest(
        f"/generate answers a prompt with one text: '{name}' is for /v1/chat/completions.",
        param=name,
        code="unsupported_parameter",
    )
