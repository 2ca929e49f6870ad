"""The spans of an operation and of its attempts, in OpenTelemetry's GenAI names. No message of anybody gets into them.

Source: https://github.com/open-telemetry/semantic-conventions-genai, in development; a renaming happens here alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from inference.errors import AttemptFailedError
from inference.targets import CANCELLED, OK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from common.sse import ChatStream
    from common.usage import Usage
    from inference.questions import Question

ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
GEN_AI_USAGE: Final = "gen_ai.usage."
"""And `cache_read.input_tokens` or `reasoning.output_tokens`."""
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  # not that kind of token
TARGET: Final = "spillway.target"
FALLBACK_MODEL: Final = "spillway.fallback.model"
ATTEMPTS: Final = "spillway.attempts"
ATTEMPT_NUMBER: Final = "spillway.attempt.number"
ATTEMPT_REASON: Final = "spillway.attempt.reason"
ATTEMPT_OUTCOME: Final = "spillway.attempt.outcome"
COST_USD: Final = "spillway.cost_usd"
USAGE_IS_ESTIMATED: Final = "spillway.usage.is_estimated"
BATCH_REQUESTS: Final = "spillway.batch.requests"
FIRST_TOKEN: Final = "first_token"  # noqa: S105  # as above
PROVIDER: Final = "openai"
"""The wire's flavour, whoever speaks it."""
_LONGEST_TEXT = 256


def start(tracer: Tracer, question: Question, model: str) -> Span:
    """The span of a whole operation. `model` is what may be said of the model that is asked for."""
    span = tracer.start_span(
        f"{question.operation} {model}".rstrip(),
        kind=SpanKind.CLIENT,
        attributes={
            GEN_AI_OPERATION: question.operation,
            GEN_AI_PROVIDER: PROVIDER,
            GEN_AI_REQUEST_MODEL: model,
            GEN_AI_REQUEST_STREAM: question.is_stream,
        },
    )
    if span.is_recording():
        asked = question.body
        tokens, temperature = asked.get("max_completion_tokens", asked.get("max_tokens")), asked.get("temperature")
        if type(tokens) is int:
            span.set_attribute(GEN_AI_REQUEST_MAX_TOKENS, tokens)
        if type(temperature) in (int, float):
            span.set_attribute(GEN_AI_REQUEST_TEMPERATURE, temperature)
    return span


@contextlib.contextmanager
def attempt(tracer: Tracer, question: Question) -> Iterator[Span]:
    """The span of one attempt, ended with its outcome: an exception's own message may quote the upstream."""
    route = question.route
    span = tracer.start_span("attempt", kind=SpanKind.CLIENT)
    if span.is_recording() and route.asked is not None:
        target = route.asked
        span.set_attributes(
            {
                ATTEMPT_NUMBER: route.attempts,
                ATTEMPT_REASON: route.why,
                TARGET: target.name,
                SERVER_ADDRESS: target.upstream.address,
                SERVER_PORT: target.upstream.port,
                GEN_AI_PROVIDER: PROVIDER,
                GEN_AI_REQUEST_MODEL: target.name_for(route.asked_as),
            }
        )
        if route.asked_as != question.model:
            span.set_attribute(FALLBACK_MODEL, route.asked_as)
    outcome = CANCELLED
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield span
            outcome = OK
        except AttemptFailedError as failed:
            outcome = failed.reason
            fail(span, outcome)
            raise
        except asyncio.CancelledError:  # the caller left: no error of the upstream's
            raise
        except Exception as error:
            outcome = type(error).__name__
            fail(span, outcome)
            raise
        finally:
            span.set_attribute(ATTEMPT_OUTCOME, outcome)
            span.end()


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer said of itself."""

    response_id: str | None
    response_model: str | None
    finish_reasons: list[str]

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any]) -> Self:
        choices = answer.get("choices")
        reasons = (
            [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)]
            if isinstance(choices, list)
            else []
        )
        return cls(
            _text(answer.get("id")), _text(answer.get("model")), [reason for reason in map(_text, reasons) if reason]
        )

    @classmethod
    def of_stream(cls, stream: ChatStream) -> Self:
        return cls(stream.response_id, stream.response_model, stream.finish_reasons)


def describe(span: Span, told: Told) -> None:
    if told.response_id:
        span.set_attribute(GEN_AI_RESPONSE_ID, told.response_id)
    if told.response_model:
        span.set_attribute(GEN_AI_RESPONSE_MODEL, told.response_model)
    if told.finish_reasons:
        span.set_attribute(GEN_AI_FINISH_REASONS, told.finish_reasons)


def use(span: Span, usage: Usage, details: Mapping[str, int]) -> None:
    """`details`: of the attempt that answered, what is within its tokens."""
    span.set_attribute(GEN_AI_INPUT_TOKENS, usage.input_tokens)
    span.set_attribute(GEN_AI_OUTPUT_TOKENS, usage.output_tokens)
    span.set_attribute(USAGE_IS_ESTIMATED, usage.is_estimated)
    if usage.cost_usd is not None:
        span.set_attribute(COST_USD, usage.cost_usd)
    for name, tokens in details.items():
        span.set_attribute(f"{GEN_AI_USAGE}{name}", tokens)


def fail(span: Span, error_type: str) -> None:
    span.set_attribute(ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR))


def _text(value: object) -> str | None:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else None
