"""Flights between gateways: their leader attends, appends and lets go; their followers read as the frames come."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse, Response

from cache.bells import rung
from cache.dependencies import Identity, platform_call, state_of
from cache.flights import MAX_FLIGHT_BYTES, Ending
from cache.frame_stream import FrameStream
from cache.names import FINGERPRINT, FLIGHT, followers_of
from cache.presence import while_present
from common import framing
from common.errors import ClientGone, PayloadTooLarge, ServiceError

router = APIRouter(prefix="/v1/flights/{fingerprint}/{flight}", tags=["flights"], dependencies=[Depends(platform_call)])
Fingerprint = Annotated[str, Path(pattern=FINGERPRINT)]
Flight = Annotated[str, Path(pattern=FLIGHT)]
ATTENDANCE_S = 1.0
"""Half a dozen fit into a lease."""


class FlightLost(ServiceError):
    """The lease was another's, or forgotten, or the flight too large: nobody follows it any more."""

    status = 409
    type = "invalid_request_error"
    code = "flight_lost"


@router.post("/attendance", summary="Renew the lease; answers within a second, at once when followers come or go")
async def attend(
    request: Request, identity: Identity, fingerprint: Fingerprint, flight: Flight, *, followed: bool = False
) -> JSONResponse:
    state, name = state_of(request), (identity.tenant, fingerprint, flight)
    with state["flights"].attending(), state["bells"].at(followers_of(flight)) as bell:
        held, followers = await state["flights"].renew(*name)
        if held and bool(followers) == followed:
            if not await while_present(request.receive, rung(bell, ATTENDANCE_S)):
                raise ClientGone("The leader closed the connection.")
            held, followers = await state["flights"].renew(*name)
    return JSONResponse({"held": held, "followers": followers})


@router.post("/frames", summary="Append frames, and end the flight with them", status_code=204, response_class=Response)
async def append_frames(  # noqa: PLR0913, PLR0917  # what FastAPI reads of a request
    request: Request, identity: Identity, fingerprint: Fingerprint, flight: Flight,
    first: Annotated[int, Query(ge=0)], ending: Annotated[Ending, Query()] = "",
) -> Response:  # fmt: skip
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FLIGHT_BYTES:
            raise PayloadTooLarge("The frames are too large.")
    taken = await state_of(request)["flights"].append(
        identity.tenant, fingerprint, flight, framing.unpack(bytes(body)), first=first, ending=ending
    )
    if not taken:
        raise FlightLost("The flight is not led by the caller any more.")
    return Response(status_code=204)


@router.get("/frames", summary="Follow: the frames so far, then each as it comes", response_class=Response)
async def follow(  # noqa: PLR0913, PLR0917  # as above
    request: Request, identity: Identity, fingerprint: Fingerprint, flight: Flight,
    follower: Annotated[str, Query(pattern=FLIGHT)], first: Annotated[int, Query(ge=0)] = 0,
) -> Response:  # fmt: skip
    state = state_of(request)
    name = (identity.tenant, fingerprint, flight)
    return FrameStream(state["flights"], state["gateways"], state["bells"], name, follower=follower, first=first)


@router.delete("", summary="Let go of the lease; `released` is false if somebody follows and that was a condition")
async def release(
    request: Request, identity: Identity, fingerprint: Fingerprint, flight: Flight, *, unless_followed: bool = False
) -> JSONResponse:
    released = await state_of(request)["flights"].release(
        identity.tenant, fingerprint, flight, unless_followed=unless_followed
    )
    return JSONResponse({"released": released})
