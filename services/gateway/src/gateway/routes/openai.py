"""OpenAI's wire: chat completions (streamed and not), embeddings, models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from common.errors import UpstreamFailed
from gateway.answers.answer import OK
from gateway.call import CHAT, EMBEDDINGS, MODELS, Call
from gateway.dependencies import CallFactory, Calls, JsonBody, acceptable_content, authenticated, state_of
from gateway.governor import no_such_model
from gateway.jobs.submissions import prefers_async
from gateway.requests import ChatCompletionRequest, EmbeddingsRequest
from gateway.routes import jobs
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    prefix="/v1", tags=["openai"], dependencies=[Depends(acceptable_content), Depends(authenticated)], responses=ERRORS
)


@router.post("/chat/completions", summary="Create a chat completion", openapi_extra=json_body(ChatCompletionRequest))
async def create_chat_completion(request: Request, calls: Calls, body: JsonBody) -> Response:
    return await _serve(request, calls, CHAT, body)


@router.post("/embeddings", summary="Create embeddings", openapi_extra=json_body(EmbeddingsRequest))
async def create_embeddings(request: Request, calls: Calls, body: JsonBody) -> Response:
    return await _serve(request, calls, EMBEDDINGS, body)


@router.get("/models", summary="List the models that the key may use")
async def list_models(request: Request, calls: Calls) -> Response:
    return await _of_models(request, calls, lambda models: {"object": "list", "data": models})


@router.get("/models/{model:path}", summary="Show a model that the key may use")
async def show_model(request: Request, calls: Calls, model: Annotated[str, Path(max_length=256)]) -> Response:
    def find(models: list[dict[str, Any]]) -> dict[str, Any]:
        for known in models:
            if known["id"] == model:
                return known
        raise no_such_model()

    return await _of_models(request, calls, find)


async def _of_models(
    request: Request, calls: CallFactory, shown: Callable[[list[dict[str, Any]]], dict[str, Any]]
) -> Response:
    """Inference's answer, and unless it is an error what `shown` makes of the models in it that the key may use."""
    allowed = calls.caller.policy.models

    async def answer(call: Call) -> Response:
        found = await state_of(request)["completions"].models(call, call.receive)
        if found.status != OK:
            return found.response()
        try:
            listed = orjson.loads(found.body)["data"]
            models = [model for model in listed if model["id"] and (allowed is None or model["id"] in allowed)]
        except (orjson.JSONDecodeError, LookupError, TypeError) as error:
            raise UpstreamFailed("The list of models was none.") from error
        return replace(found, body=orjson.dumps(shown(models))).response()

    return await state_of(request)["governor"].serve_at_request_rate(calls.without_body(MODELS), answer)


async def _serve(request: Request, calls: CallFactory, endpoint: str, body: dict[str, Any]) -> Response:
    state = state_of(request)
    if state["jobs"] is not None and prefers_async(request.headers):
        return await jobs.submit_instead(request, calls, endpoint, body)

    async def answer(admitted: Call) -> Response:
        if admitted.is_stream:
            return await state["completions"].stream(admitted, admitted.receive)
        return (await state["completions"].answer(admitted, admitted.receive)).response()

    return await state["governor"].serve(calls(endpoint, body), answer)
