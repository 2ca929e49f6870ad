"""Get, put and delete sealed entries. Bodies are opaque bytes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Request
from starlette.responses import Response

from cache.dependencies import Identity, platform_call, state_of
from common import wire
from common.errors import NotFound, PayloadTooLarge

router = APIRouter(prefix="/v1/entries", tags=["entries"], dependencies=[Depends(platform_call)])
Fingerprint = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
TtlS = Annotated[int, Header(alias=wire.ENTRY_TTL_S, ge=1)]


@router.get("/{fingerprint}", summary="Get an entry", response_class=Response)
async def get_entry(request: Request, identity: Identity, fingerprint: Fingerprint) -> Response:
    entry = await state_of(request)["entries"].get(identity.tenant, fingerprint)
    if entry is None:
        raise NotFound("No such entry.", code="no_entry")
    return Response(entry.value, headers={"age": str(entry.age_s)}, media_type=wire.OCTETS)


@router.put("/{fingerprint}", summary="Store an entry", status_code=204, response_class=Response)
async def put_entry(request: Request, identity: Identity, fingerprint: Fingerprint, ttl_s: TtlS) -> Response:
    state = state_of(request)
    value = bytearray()
    async for chunk in request.stream():
        value += chunk
        if len(value) > state["settings"].max_entry_bytes:
            raise PayloadTooLarge("The entry is too large.")
    ttl_s = min(ttl_s, state["settings"].max_ttl_s)
    await state["entries"].put(identity.tenant, fingerprint, bytes(value), ttl_s=ttl_s)
    return Response(status_code=204)


@router.delete("/{fingerprint}", summary="Delete an entry", status_code=204, response_class=Response)
async def delete_entry(request: Request, identity: Identity, fingerprint: Fingerprint) -> Response:
    await state_of(request)["entries"].delete(identity.tenant, fingerprint)
    return Response(status_code=204)
