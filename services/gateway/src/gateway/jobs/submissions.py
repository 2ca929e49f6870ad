"""What may become a job: a request that one of the model routes would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field

from gateway.requests import _Body
from gateway.strict_json import render

if TYPE_CHECKING:
    from collections.abc import Mapping

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


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Whether the client asked for a job instead of an answer. Source: RFC 7240, 4.1."""
    prefer = headers.get("prefer")
    if prefer is None:
        return False
    return any(part.partition(";")[0].strip().lower() == "respond-async" for part in prefer.split(","))


def rendered(asked: JobRequest) -> bytes:
    """The submission as it goes to the jobs service. Raises `InvalidRequest`."""
    return render(asked.model_dump(exclude_none=True))
