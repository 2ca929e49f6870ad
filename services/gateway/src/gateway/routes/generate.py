"""`POST /generate`: a prompt in, a text out. A chat completion underneath, so it shares cache entries with those."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from common.errors import UpstreamFailed
from gateway.answers.answer import Answer
from gateway.call import Call
from gateway.dependencies import Calls, JsonBody, acceptable_content, authenticated, state_of
from gateway.jobs.submissions import prefers_async
from gateway.judging import GENERATE
from gateway.requests import GenerateRequest, GenerateResponse
from gateway.routes import jobs
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    tags=["generate"], dependencies=[Depends(acceptable_content), Depends(authenticated)], responses=ERRORS
)
_OK = 200


@router.post(
    "/generate",
    summary="Answer a prompt",
    openapi_extra=json_body(GenerateRequest),
    responses={200: {"model": GenerateResponse}},
)
async def generate(request: Request, calls: Calls, body: JsonBody) -> Response:
    state = state_of(request)
    if state["jobs"] is not None and prefers_async(request.headers):
        return await jobs.submit_instead(request, calls, GENERATE, body)

    async def answer(admitted: Call) -> Response:
        found = await state["completions"].answer(admitted, admitted.receive)
        if found.status != _OK:
            return found.response()
        return Answer(_OK, _generated(found), found.headers).response()

    return await state["governor"].serve(calls(GENERATE, body), answer)


def _generated(answer: Answer) -> bytes:
    try:
        completion: dict[str, Any] = orjson.loads(answer.body)
        message = completion["choices"][0]["message"]
        result = message.get("content") or message.get("refusal") or ""
        shown = {"result": result, "model": completion["model"], "cached": answer.is_cached}
        return orjson.dumps(shown | {"usage": completion.get("usage")})
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise UpstreamFailed("The upstream's answer was not a chat completion.") from error
