"""What a route may ask for: the answers, and the question that the gateway asks."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict, cast

import orjson
from fastapi import Depends, Request

from common import wire
from common.deadline import Deadline, positive_number
from common.errors import InvalidRequest
from common.identity import HopIdentity, HopVerifier
from inference.answers import Answers, Question

DEFAULT_TIMEOUT_MS = "120000"


class State(TypedDict):
    verifier: HopVerifier
    answers: Answers


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def platform_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform."""
    return state_of(request)["verifier"].verify(request.headers.get("authorization"))


async def asked(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The body as bytes, which go on, and as an object, of which a few fields are read."""
    payload = await request.body()
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        raise InvalidRequest("The request body is not a JSON object with a model.", param="model")
    return payload, body


Asked = Annotated[tuple[bytes, dict[str, Any]], Depends(asked)]


def question(request: Request, operation: str, path: str, asked: tuple[bytes, dict[str, Any]] | None) -> Question:
    payload, body = asked or (None, {})
    choices = body.get("n")
    return Question(
        operation=operation,
        path=path,
        model=body.get("model", ""),
        payload=payload,
        request_id=request.scope["state"]["request_id"],
        deadline=_deadline_of(request),
        choices=choices if isinstance(choices, int) and choices > 0 else 1,
    )


def _deadline_of(request: Request) -> Deadline:
    """The deadline that the gateway forwarded; 120 s when it named none."""
    given = request.headers.get(wire.TIMEOUT_MS, DEFAULT_TIMEOUT_MS)
    return Deadline.after(positive_number(given, wire.TIMEOUT_MS) / 1000)
