"""Get, put and delete sealed entries. Bodies are opaque bytes."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request
from starlette.responses import Response

from cache.dependencies import Identity, platform_call, state_of
from cache.lean_route import LeanRoute
from cache.names import FINGERPRINT, FLIGHT
from common import framing, wire
from common.errors import InvalidRequest, NotFound, PayloadTooLarge

router = APIRouter(prefix="/v1/entries", tags=["entries"], dependencies=[Depends(platform_call)])
lean = APIRouter(prefix="/v1/entries", tags=["entries"], route_class=LeanRoute)
Fingerprint = Annotated[str, Path(pattern=FINGERPRINT)]
TtlS = Annotated[int, Header(alias=wire.ENTRY_TTL_S, ge=1)]
MOST_AT_ONCE = 256
_FINGERPRINT = re.compile(FINGERPRINT.encode())
_FLIGHT = re.compile(FLIGHT)
_MOST_DIGITS = 12


@router.get("/{fingerprint}", summary="Get an entry", response_class=Response)
async def get_entry(request: Request, identity: Identity, fingerprint: Fingerprint) -> Response:
    entry = await state_of(request)["entries"].get(identity.tenant, fingerprint)
    if entry is None:
        raise NotFound("No such entry.", code="no_entry")
    return Response(entry.value, headers={"age": str(entry.age_s)}, media_type=wire.OCTETS)


@lean.put(
    "/{fingerprint}",  # noqa: FAST003  # a lean route reads its parameters itself
    summary="Store an entry; x-flight names the flight that its writer led, which ends with it",
    status_code=204,
    response_class=Response,
    openapi_extra={
        "parameters": [
            {
                "in": "path",
                "name": "fingerprint",
                "required": True,
                "schema": {"type": "string", "pattern": FINGERPRINT},
            },
            {"in": "header", "name": wire.ENTRY_TTL_S, "required": True, "schema": {"type": "integer", "minimum": 1}},
            {"in": "header", "name": wire.FLIGHT, "schema": {"type": "string", "pattern": FLIGHT}},
        ]
    },
)
async def put_entry(request: Request, identity: Identity) -> Response:
    settings = state_of(request)["settings"]
    fingerprint = _fingerprint(request.path_params["fingerprint"].encode())
    ttl_s, flight = request.headers.get(wire.ENTRY_TTL_S, ""), request.headers.get(wire.FLIGHT, "")
    if not ttl_s.isdecimal() or int(ttl_s[:_MOST_DIGITS]) < 1 or (flight and not _FLIGHT.fullmatch(flight)):
        raise InvalidRequest("A header of the entry is malformed.", param=wire.FLIGHT if flight else wire.ENTRY_TTL_S)
    value = await _body(request, settings.max_entry_bytes)
    life_s = min(int(ttl_s[:_MOST_DIGITS]), settings.max_ttl_s)
    await state_of(request)["entries"].put(identity.tenant, fingerprint, value, ttl_s=life_s, flight=flight)
    return Response(status_code=204)


@router.put(
    "",
    summary="Store several entries: frames, in turn a fingerprint and its entry",
    status_code=204,
    response_class=Response,
)
async def put_entries(request: Request, identity: Identity, ttl_s: TtlS) -> Response:
    settings = state_of(request)["settings"]
    frames = framing.unpack(await _body(request, settings.max_batch_bytes))
    names, values = frames[::2], frames[1::2]
    if len(names) != len(values) or not 1 <= len(names) <= MOST_AT_ONCE:
        raise InvalidRequest(f"A batch holds 1 to {MOST_AT_ONCE} pairs.")
    if any(len(value) > settings.max_entry_bytes for value in values):
        raise PayloadTooLarge("An entry is too large.")
    fingerprints = [_fingerprint(name) for name in names]
    await state_of(request)["entries"].put_many(
        identity.tenant, list(zip(fingerprints, values, strict=True)), ttl_s=min(ttl_s, settings.max_ttl_s)
    )
    return Response(status_code=204)


@router.delete("/{fingerprint}", summary="Delete an entry", status_code=204, response_class=Response)
async def delete_entry(request: Request, identity: Identity, fingerprint: Fingerprint) -> Response:
    await state_of(request)["entries"].delete(identity.tenant, fingerprint)
    return Response(status_code=204)


def _fingerprint(name: bytes) -> str:
    if _FINGERPRINT.fullmatch(name) is None:
        raise InvalidRequest("A fingerprint is 64 hex digits.")
    return name.decode()


async def _body(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise PayloadTooLarge("The entry is too large.")
    return bytes(body)
