"""What may become a job: a request that one of the model routes would take. It is judged as that route judges it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from common.errors import InvalidRequest
from gateway.call import CHAT, EMBEDDINGS
from gateway.requests import (
    DENIED_FIELDS,
    ChatCompletionRequest,
    EmbeddingsRequest,
    GenerateRequest,
    _Body,
    check,
    refuse_denied,
)
from gateway.strict_json import render

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GENERATE = "/generate"
Endpoint = Literal["/v1/chat/completions", "/v1/embeddings", "/generate"]


class JobRequest(_Body):
    """A request to be run later, by the platform."""

    model_config = ConfigDict(extra="forbid")

    endpoint: Endpoint
    body: Annotated[dict[str, Any], Field(description="What the endpoint takes.")]
    deadline_s: (
        Annotated[float, Field(gt=0, le=86_400, description="Seconds; after them the job is expired.")] | None
    ) = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None


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
        return Judged(CHAT, chat_of(body, default_model=default_model))
    if endpoint == EMBEDDINGS:
        check(body, EmbeddingsRequest)
        return Judged(EMBEDDINGS, body)
    chat = check(body, ChatCompletionRequest)
    return Judged(CHAT, body, is_stream=bool(chat.stream), choices=chat.n or 1)


def chat_of(body: dict[str, Any], *, default_model: str | None) -> dict[str, Any]:
    """The chat completion behind a `/generate`. Raises `InvalidRequest`."""
    asked = check(body, GenerateRequest)
    model = asked.model or default_model
    if model is None:
        raise InvalidRequest("'model' is required: this gateway has no default model.", param="model")
    further = {name: value for name, value in body.items() if name not in ("prompt", "model", "stream")}
    chat = {**further, "model": model, "messages": [{"role": "user", "content": asked.prompt}]}
    check(chat, ChatCompletionRequest)
    return chat


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Whether the client asked for a job instead of an answer. Source: RFC 7240, 4.1."""
    prefer = headers.get("prefer")
    if prefer is None:
        return False
    return any(part.partition(";")[0].strip().lower() == "respond-async" for part in prefer.split(","))


def rendered(asked: JobRequest) -> bytes:
    """The submission as it goes to the jobs service. Raises `InvalidRequest`."""
    return render(asked.model_dump(exclude_none=True))
