"""OpenAI's wire: chat completions (streamed and not), embeddings, models."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from gateway.call import CHAT, EMBEDDINGS, Call, ModelsCall
from gateway.dependencies import Calls, JsonBody, acceptable_content, authenticated, state_of
from gateway.requests import ChatCompletionRequest, EmbeddingsRequest, check
from gateway.routes import jobs
from gateway.routes.describe import json_body
from gateway.submissions import prefers_async

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(acceptable_content), Depends(authenticated)])


@router.post("/chat/completions", summary="Create a chat completion", openapi_extra=json_body(ChatCompletionRequest))
async def create_chat_completion(request: Request, calls: Calls, body: JsonBody) -> Response:
    if state_of(request)["jobs"] is not None and prefers_async(request.headers):
        return await jobs.submit_instead(request, calls, CHAT, body)
    chat = check(body, ChatCompletionRequest)
    call = calls(CHAT, body, is_stream=bool(chat.stream), choices=chat.n or 1)
    return await _serve(request, call)


@router.post("/embeddings", summary="Create embeddings", openapi_extra=json_body(EmbeddingsRequest))
async def create_embeddings(request: Request, calls: Calls, body: JsonBody) -> Response:
    if state_of(request)["jobs"] is not None and prefers_async(request.headers):
        return await jobs.submit_instead(request, calls, EMBEDDINGS, body)
    check(body, EmbeddingsRequest)
    return await _serve(request, calls(EMBEDDINGS, body))


@router.get("/models", summary="List the models that the key may use")
async def list_models(request: Request, calls: Calls) -> Response:
    call = ModelsCall(calls.identity(), request.scope["state"]["request_id"], calls.deadline())
    return (await state_of(request)["completions"].models(call, request.receive)).response()


async def _serve(request: Request, call: Call) -> Response:
    state = state_of(request)

    async def answer(admitted: Call) -> Response:
        if admitted.is_stream:
            return await state["completions"].stream(admitted, request.receive)
        return (await state["completions"].answer(admitted, request.receive)).response()

    return await state["governor"].serve(call, answer)
