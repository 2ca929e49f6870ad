"""What a route may ask for: the answers, and the question that the gateway asks."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict, cast

import orjson
from fastapi import Depends, Request
from opentelemetry.metrics import UpDownCounter

from common import wire
from common.deadline import Deadline, positive_number
from common.errors import InvalidRequest
from common.identity import HopIdentity, HopVerifier
from common.usage import HEADER as USAGE
from inference.answers import Answers
from inference.metering import Meter
from inference.questions import Question

DEFAULT_TIMEOUT_MS = "120000"


class State(TypedDict):
    in_flight: UpDownCounter
    verifier: HopVerifier
    answers: Answers


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def platform_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform."""
    return state_of(request)["verifier"].verify(request.headers.get("authorization"))


async def asked(request: Request) -> dict[str, Any]:
    """The body, of which a few fields are read; the others go on as they are."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise InvalidRequest("The request body is not a JSON object with a model.", param="model")
    return body


Asked = Annotated[dict[str, Any], Depends(asked)]


def question(request: Request, operation: str, path: str, body: dict[str, Any] | None) -> Question:
    """It is in flight, and what it comes to use is in its log line, whatever ends it."""
    body = body or {}
    choices = body.get("n")
    state = request.scope["state"]
    meter = Meter(body)
    attributes = {"gen_ai.operation.name": operation}
    state["in_flight"].add(1, attributes)
    state["ending"].callback(state["in_flight"].add, -1, attributes)
    state["ending"].callback(lambda: state["log"].update(meter.log_fields()))
    return Question(
        operation=operation,
        path=path,
        model=body.get("model", ""),
        body=body,
        request_id=state["request_id"],
        deadline=_deadline_of(request),
        choices=choices if isinstance(choices, int) and choices > 0 else 1,
        meter=meter,
    )


def report_usage(request: Request, question: Question) -> None:
    """Say in a header of the answer what a whole answer or an error used; a stream says it at its end, in a comment."""
    if (usage := question.meter.total()) is not None:
        request.scope["state"]["headers"][USAGE] = usage.to_json()


def _deadline_of(request: Request) -> Deadline:
    """The deadline that the gateway forwarded; 120 s when it named none."""
    given = request.headers.get(wire.TIMEOUT_MS, DEFAULT_TIMEOUT_MS)
    return Deadline.after(positive_number(given, wire.TIMEOUT_MS) / 1000)
