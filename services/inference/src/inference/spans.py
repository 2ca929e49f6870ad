"""The spans of an operation and of its attempts, in OpenTelemetry's GenAI names. No message of anybody gets into them.

Source: https://github.com/open-telemetry/semantic-conventions-genai, in development; a renaming happens here alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from common.errors import ServiceError
from inference.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span, Tracer

    from common.sse import ChatStream
    from common.usage import Usage

PROVIDER = "openai"
"""The wire's flavour, whoever speaks it."""
_LONGEST_TEXT = 256


@contextlib.contextmanager
def operation(tracer: Tracer, name: str, model: str, *, is_stream: bool) -> Iterator[Span]:
    """The span of a whole operation; it ends here if the body fails, else with `finish`."""
    span = tracer.start_span(
        f"{name} {model}".rstrip(),
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": name,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": is_stream,
        },
    )
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except ServiceError as error:
            finish(span, error)
            raise
        except BaseException:  # the client left (not the model's error), or what nobody foresaw: it goes on its way
            span.end()
            raise


@contextlib.contextmanager
def attempt(tracer: Tracer, number: int, target: str, model: str) -> Iterator[Span]:
    """The span of one attempt, ended with its reason: an exception's own message may quote the upstream."""
    span = tracer.start_span(
        "attempt",
        kind=SpanKind.CLIENT,
        attributes={
            "spillway.attempt.number": number,
            "spillway.target": target,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
        },
    )
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except AttemptFailedError as failed:
            span.set_attribute("error.type", failed.reason)
            span.set_status(Status(StatusCode.ERROR))
            raise
        except asyncio.CancelledError:
            span.set_attribute("error.type", "cancelled")
            raise
        finally:
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


def describe(span: Span, told: Told, usage: Usage | None, details: Mapping[str, int]) -> None:
    if told.response_id:
        span.set_attribute("gen_ai.response.id", told.response_id)
    if told.response_model:
        span.set_attribute("gen_ai.response.model", told.response_model)
    if told.finish_reasons:
        span.set_attribute("gen_ai.response.finish_reasons", told.finish_reasons)
    if usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)
        span.set_attribute("spillway.usage.is_estimated", usage.is_estimated)
        if usage.cost_usd is not None:
            span.set_attribute("spillway.cost_usd", usage.cost_usd)
    for name, tokens in details.items():
        span.set_attribute(f"gen_ai.usage.{name}", tokens)


def finish(span: Span, error: ServiceError | None, attempts: int | None = None) -> None:
    if attempts is not None:
        span.set_attribute("spillway.attempts", attempts)
    if error is not None and error.code != "client_gone":
        span.set_attribute("error.type", error.code or error.type)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _text(value: object) -> str | None:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else None
