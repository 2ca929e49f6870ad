"""The spans of an operation and of its attempts, in OpenTelemetry's GenAI names. No message of anybody gets into them.

Source: https://github.com/open-telemetry/semantic-conventions-genai, in development.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from common.telemetry import conventions
from common.telemetry.traces import unrecorded_span
from inference.errors import AttemptFailedError
from inference.targets import CANCELLED, OK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from common.streams.sse import ChatStream
    from common.usage import Usage
    from inference.questions import Question

PROVIDER = "openai"
"""The wire's flavour, whoever speaks it."""
_LONGEST_TEXT = 256


def start(tracer: Tracer, question: Question, model: str) -> Span:
    """The span of a whole operation. `model` is what may be said of the model that is asked for."""
    if (unrecorded := unrecorded_span()) is not None:
        return unrecorded
    span = tracer.start_span(
        conventions.OPERATION.format(operation=question.operation, model=model).rstrip(),
        kind=SpanKind.CLIENT,
        attributes={
            conventions.GEN_AI_OPERATION: question.operation,
            conventions.GEN_AI_PROVIDER: PROVIDER,
            conventions.GEN_AI_REQUEST_MODEL: model,
            conventions.GEN_AI_REQUEST_STREAM: question.is_stream,
        },
    )
    if span.is_recording():
        asked = question.body
        tokens, temperature = asked.get("max_completion_tokens", asked.get("max_tokens")), asked.get("temperature")
        if type(tokens) is int:
            span.set_attribute(conventions.GEN_AI_REQUEST_MAX_TOKENS, tokens)
        if type(temperature) in (int, float):
            span.set_attribute(conventions.GEN_AI_REQUEST_TEMPERATURE, temperature)
    return span


@contextlib.contextmanager
def attempt(tracer: Tracer, question: Question) -> Iterator[Span]:
    """The span of one attempt, ended with its outcome: an exception's own message may quote the upstream."""
    if (unrecorded := unrecorded_span()) is not None:
        yield unrecorded
        return
    route = question.route
    span = tracer.start_span(conventions.ATTEMPT, kind=SpanKind.CLIENT)
    if span.is_recording() and route.asked is not None:
        target = route.asked
        span.set_attributes(
            {
                conventions.ATTEMPT_NUMBER: route.attempts,
                conventions.ATTEMPT_REASON: route.why,
                conventions.TARGET: target.name,
                conventions.SERVER_ADDRESS: target.upstream.address,
                conventions.SERVER_PORT: target.upstream.port,
                conventions.GEN_AI_PROVIDER: PROVIDER,
                conventions.GEN_AI_REQUEST_MODEL: target.name_for(route.asked_as),
            }
        )
        if route.asked_as != question.model:
            span.set_attribute(conventions.FALLBACK_MODEL, route.asked_as)
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
            span.set_attribute(conventions.ATTEMPT_OUTCOME, outcome)
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
        span.set_attribute(conventions.GEN_AI_RESPONSE_ID, told.response_id)
    if told.response_model:
        span.set_attribute(conventions.GEN_AI_RESPONSE_MODEL, told.response_model)
    if told.finish_reasons:
        span.set_attribute(conventions.GEN_AI_FINISH_REASONS, told.finish_reasons)


def use(span: Span, usage: Usage, details: Mapping[str, int]) -> None:
    """`details`: of the attempt that answered, what is within its tokens."""
    span.set_attribute(conventions.GEN_AI_INPUT_TOKENS, usage.input_tokens)
    span.set_attribute(conventions.GEN_AI_OUTPUT_TOKENS, usage.output_tokens)
    span.set_attribute(conventions.USAGE_IS_ESTIMATED, usage.is_estimated)
    if usage.cost_usd is not None:
        span.set_attribute(conventions.COST_USD, usage.cost_usd)
    for name, tokens in details.items():
        span.set_attribute(f"{conventions.GEN_AI_USAGE}{name}", tokens)


def fail(span: Span, error_type: str) -> None:
    span.set_attribute(conventions.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR))


def _text(value: object) -> str | None:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else None
