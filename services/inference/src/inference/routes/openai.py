"""OpenAI's wire, for the gateway: what it sends reaches the upstream with the upstream's name of the model."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from common import wire
from common.deadline import Patience
from common.errors import ServiceError
from common.streams.event_stream import EventStream
from inference.dependencies import Asked, note_route, platform_call, question, report_usage, state_of
from inference.questions import Question

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(platform_call)])


@router.post("/chat/completions", summary="Create a chat completion, streamed or not")
async def create_chat_completion(request: Request, asked: Asked) -> Response:
    chat = question(request, "chat", "/chat/completions", asked)
    if asked.get("stream") is not True:
        return await _whole(request, chat)
    try:
        async with Patience(chat.deadline, request.receive):
            stream = await state_of(request)["answers"].stream(chat)
    except ServiceError:
        report_usage(request, chat)
        raise
    note_route(request, chat)
    return EventStream(
        stream.events,
        finish=stream.close,
        headers={wire.ATTEMPTS: str(stream.attempts)},
        trailer=stream.trailer,
        deadline=chat.deadline,
    )


@router.post("/embeddings", summary="Create embeddings")
async def create_embeddings(request: Request, asked: Asked) -> Response:
    return await _whole(request, question(request, "embeddings", "/embeddings", asked))


@router.get("/models", summary="List models")
async def list_models(request: Request) -> Response:
    """Those of the catalogue; without one, what the upstream lists."""
    known = state_of(request)["router"].served.catalogue
    if known is not None:
        return Response(known.listed(), media_type=wire.JSON)
    return await _whole(request, question(request, "models", "/models", None))


async def _whole(request: Request, asked: Question) -> Response:
    try:
        async with Patience(asked.deadline, request.receive):
            answer = await state_of(request)["answers"].whole(asked)
    finally:
        report_usage(request, asked)
    note_route(request, asked)
    return Response(answer.body, 200, {wire.ATTEMPTS: str(answer.attempts)}, media_type=wire.JSON)
