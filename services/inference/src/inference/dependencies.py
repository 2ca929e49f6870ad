"""What a route may ask for: the answers, and the question that the gateway asks."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict, cast

import orjson
from fastapi import Depends, Request

from common import wire
from common.deadline import Deadline, positive_number
from common.errors import InvalidRequest
from common.identity import HopIdentity, HopVerifier
from common.usage import HEADER as USAGE
from inference.answers import Answers
from inference.metering import Meter
from inference.questions import MOST_ATTEMPTS, Question, Route
from inference.router import Router

DEFAULT_TIMEOUT_MS = "120000"


class State(TypedDict):
    verifier: HopVerifier
    router: Router
    answers: Answers


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def platform_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform."""
    identity = state_of(request)["verifier"].verify(request.headers.get("authorization"))
    request.scope["state"]["identity"] = identity
    return identity


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
    """Its route ends with the answer, and its log line says what it used, whatever ends it."""
    body = body or {}
    choices = body.get("n")
    state = request.scope["state"]
    meter = Meter(body)
    state["ending"].callback(lambda: state["log"].update(meter.log_fields()))
    route = Route()
    state["ending"].callback(route.end)
    return Question(
        operation=operation,
        path=path,
        model=body.get("model", ""),
        body=body,
        request_id=state["request_id"],
        deadline=_deadline_of(request),
        choices=choices if isinstance(choices, int) and choices > 0 else 1,
        identity=state["identity"],
        max_attempts=_max_attempts_of(request),
        route=route,
        meter=meter,
    )


def note_route(request: Request, question: Question) -> None:
    """Say in headers of the answer who gave it."""
    route = question.route
    if route.model is not None and route.target is not None:
        request.scope["state"]["headers"] |= {wire.MODEL: route.model, wire.TARGET: route.target}
        request.scope["state"]["log"] |= {"model": route.model, "target": route.target}


def report_usage(request: Request, question: Question) -> None:
    """Say in a header of the answer what a whole answer or an error used; a stream says it at its end, in a comment."""
    if (usage := question.meter.total()) is not None:
        request.scope["state"]["headers"][USAGE] = usage.to_json()


def _max_attempts_of(request: Request) -> int:
    """What the caller allows; the catalogue's bound when it says nothing, or nonsense."""
    given = request.headers.get(wire.MAX_ATTEMPTS, "")
    return max(1, int(given)) if given.isdecimal() and len(given) == 1 else MOST_ATTEMPTS


def _deadline_of(request: Request) -> Deadline:
    """The deadline that the gateway forwarded; 120 s when it named none."""
    given = request.headers.get(wire.TIMEOUT_MS, DEFAULT_TIMEOUT_MS)
    return Deadline.after(positive_number(given, wire.TIMEOUT_MS) / 1000)
