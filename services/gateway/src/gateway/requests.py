"""What the gateway must be able to trust of a request before it forwards it. Everything else passes untouched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from common.errors import InvalidRequest, param_path
from gateway import embedding_inputs
from gateway.media_urls import check_media_urls
from gateway.strict_json import render

if TYPE_CHECKING:
    from collections.abc import Iterable

Model = Annotated[str, Field(min_length=1, max_length=256, description="The public name of a model.")]
MAX_TOKENS = 2**20
"""No model of today writes more in one answer; an engine reserves memory for what is asked."""
MAX_SCHEMA_BYTES = 256 * 1024
"""Of `tools` or `response_format`, as JSON: an engine compiles them to a grammar."""

DENIED_FIELDS = (
    "api_base", "base_url", "api_key", "api_version", "api_type", "organization",
    "extra_headers", "extra_query", "extra_body",
    "chat_template", "chat_template_kwargs", "prompt_embeds", "mm_processor_kwargs",
)  # fmt: skip
"""A client never chooses where its request goes, nor with which credentials; nor code of an engine's, which templates
are, nor raw embeddings, which it loads as they are."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)


class Message(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]  # pydantic's way to configure

    role: str


class ChatCompletionRequest(_Body):
    """OpenAI's chat completion request: the fields that are checked here; unknown ones reach the upstream as sent."""

    model: Model
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=300)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stop: (
        Annotated[str, Field(max_length=1024)]
        | Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=16)]
        | None
    ) = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    response_format: dict[str, Any] | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self


_Tokens = Annotated[list[int], Field(min_length=1, max_length=embedding_inputs.MAX_TOKENS)]
_Inputs = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=embedding_inputs.MAX_ITEMS)]
    | _Tokens
    | Annotated[list[_Tokens], Field(min_length=1, max_length=embedding_inputs.MAX_ITEMS)]
)


class EmbeddingsRequest(_Body):
    """OpenAI's embeddings request."""

    model: Model
    input: Annotated[Any, PlainValidator(embedding_inputs.judged, json_schema_input_type=_Inputs)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None


class GenerateRequest(_Body):
    """The simplest door: a prompt in, a text out. Further fields are those of a chat completion, but for what one text
    has no place for: tools, log probabilities, audio, more than one answer, a stream.
    """

    prompt: Annotated[str, Field(min_length=1)]
    model: Model | None = None
    stream: Literal[False] | None = None


class CachePurge(_Body):
    """Which entries of the cache go: those to which everything that is named applies."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"tenant": "acme", "older_than_s": 600}]})

    tenant: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    model: Model | None = None
    older_than_s: Annotated[float, Field(ge=0)] | None = None
    everything: Annotated[bool, Field(description="Said when nothing is named: all entries of all tenants.")] = False


class GenerateResponse(BaseModel):
    result: str
    model: str
    cached: bool
    usage: dict[str, Any] | None


BodyT = TypeVar("BodyT", bound=BaseModel)


def refuse_denied(body: dict[str, Any], denied: Iterable[str]) -> None:
    """Raises `InvalidRequest` naming a field that no client may set."""
    for field in denied:
        if field in body:
            raise InvalidRequest(f"'{field}' may not be set by a client.", param=field, code="unsupported_parameter")


def check(body: dict[str, Any], shape: type[BodyT]) -> BodyT:
    """Judge a parsed body. Raises `InvalidRequest` that names the first field at fault and never repeats its value."""
    try:
        judged = shape.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Only names of ours: the rest are the union's branches, or names that a client made up (of any length).
        known = shape.model_fields.keys() | _NESTED
        param = param_path([part for part in first["loc"] if isinstance(part, int) or part in known])
        if param is None and first["loc"]:
            param = str(first["loc"][0])[:_LONGEST_NAME]
        elif param is None and first["type"] == "value_error":
            param = "stream_options"  # the one rule that concerns two fields
        message = first["msg"].removeprefix("Value error, ")
        subject = "request" if param is None else f"'{param}'"
        raise InvalidRequest(f"Invalid {subject}: {message}.", param=param, code="invalid_value") from None
    if isinstance(judged, ChatCompletionRequest):
        _check_engine_work(body)
        check_media_urls(body["messages"])
    return judged


def _check_engine_work(body: dict[str, Any]) -> None:
    for name in ("tools", "response_format"):
        if body.get(name) and len(render({name: body[name]})) > MAX_SCHEMA_BYTES:
            raise InvalidRequest(f"'{name}' is larger than {MAX_SCHEMA_BYTES} bytes.", param=name, code="invalid_value")


_NESTED = frozenset(
    {
        "role",
        "requests_per_minute",
        "tokens_per_minute",
        "max_concurrency",
        "budget_usd_per_day",
        "budget_usd_per_month",
    }
    | {"mode"}
)
_LONGEST_NAME = 64
