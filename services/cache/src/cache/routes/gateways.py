"""Gateways show that they live, so that nobody waits for a flight whose leader died."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from cache.dependencies import platform_call, state_of
from cache.errors import StoreUnavailable
from cache.names import GATEWAY
from cache.presence import while_present
from common.errors import ClientGone

router = APIRouter(prefix="/v1/gateways/{gateway}", tags=["flights"], dependencies=[Depends(platform_call)])
PRESENCE_S = 4.0
"""A gateway makes such a call every two seconds: one at least is open, also when it is late with the next."""


@router.post(
    "/presence",
    summary="A gateway lives while this call is open; answers within 4 s. When it breaks off, its flights are lost",
    status_code=204,
    response_class=Response,
)
async def show(request: Request, gateway: Annotated[str, Path(pattern=GATEWAY)]) -> Response:
    gateways = state_of(request)["gateways"]
    with gateways.seen(gateway):
        is_there = await while_present(request.receive, asyncio.sleep(PRESENCE_S))
    if not is_there:
        with contextlib.suppress(StoreUnavailable):
            await asyncio.shield(gateways.lose(gateway))
        raise ClientGone("The gateway closed the connection.")
    return Response(status_code=204)
