"""The catalogue as the gateway needs it: prices and caps, never an address or a key."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from common import wire
from inference.dependencies import platform_call, state_of

router = APIRouter(prefix="/v1", tags=["catalogue"], dependencies=[Depends(platform_call)])


@router.get("/catalogue", summary="Prices and caps of the models", responses={304: {"description": "As you know it"}})
async def get_catalogue(request: Request) -> Response:
    published = state_of(request)["router"].served.published()
    tag = f'"{published["revision"]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    known = request.headers.get("if-none-match", "")
    if tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(None, 304, headers)
    return Response(orjson.dumps(published), 200, headers, media_type=wire.JSON)
