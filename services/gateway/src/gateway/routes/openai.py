"""OpenAI's wire: chat completions (streamed and not), embeddings, models."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from common.errors import UpstreamFailed
from gateway.answers.answer import OK, Answer
from gateway.call import CHAT, EMBEDDINGS, Call, ModelsCall
from gateway.dependencies import Calls, ModelBody, acceptable_content, authenticated, state_of
from gateway.governor import no_such_model
from gateway.jobs.submissions import prefers_async
from gateway.requests import ChatCompletionRequest, EmbeddingsRequest, check
from gateway.routes import jobs
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    prefix="/v1", tags=["openai"], dependencies=[Depends(acceptable_content), Depends(authenticated)], responses=ERRORS
)


@router.post("/chat/completions", summary="Create a chat completion", openapi_extra=json_body(ChatCompletionRequest))
async def create_chat_completion(request: Request, calls: Calls, body: ModelBody) -> Response:
    if state_of(request)["jobs"] is not None and prefers_async(request.headers):
        return await jobs.submit_instead(request, calls, CHAT, body)
    chat = check(body, ChatCompletionRequest)
    call = calls(CHAT, body, is_stream=bool(chat.stream), choices=chat.n or 1)
    return await _serve(request, call)


@router.post("/embeddings", summary="Create embeddings", openapi_extra=json_body(EmbeddingsRequest))
async def create_embeddings(request: Request, calls: Calls, body: ModelBody) -> Response:
    if state_of(request)["jobs"] is not None and prefers_async(request.headers):
        return await jobs.submit_instead(request, calls, EMBEDDINGS, body)
    check(body, EmbeddingsRequest)
    return await _serve(request, calls(EMBEDDINGS, body))


@router.get("/models", summary="List the models that the key may use")
async def list_models(request: Request, calls: Calls) -> Response:
    answer, models = await _models(request, calls)
    if models is None:
        return answer.response()
    return replace(answer, body=orjson.dumps({"object": "list", "data": models})).response()


@router.get("/models/{model:path}", summary="Show a model that the key may use")
async def show_model(request: Request, calls: Calls, model: Annotated[str, Path(max_length=256)]) -> Response:
    answer, models = await _models(request, calls)
    if models is None:
        return answer.response()
    for known in models:
        if known["id"] == model:
            return replace(answer, body=orjson.dumps(known)).response()
    raise no_such_model()


async def _models(request: Request, calls: Calls) -> tuple[Answer, list[dict[str, Any]] | None]:
    """Inference's answer and, unless it is an error, the models in it that the key may use."""
    call = ModelsCall(calls.identity(), request.scope["state"]["request_id"], calls.deadline())
    answer = await state_of(request)["completions"].models(call, request.receive)
    if answer.status != OK:
        return answer, None
    allowed = calls.caller.policy.models
    try:
        listed = orjson.loads(answer.body)["data"]
        return answer, [model for model in listed if model["id"] and (allowed is None or model["id"] in allowed)]
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise UpstreamFailed("The list of models was none.") from error


async def _serve(request: Request, call: Call) -> Response:
    state = state_of(request)

    async def answer(admitted: Call) -> Response:
        if admitted.is_stream:
            return await state["completions"].stream(admitted, admitted.receive)
        return (await state["completions"].answer(admitted, admitted.receive)).response()

    return await state["governor"].serve(call, answer)
