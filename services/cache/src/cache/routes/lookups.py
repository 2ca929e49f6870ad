"""Hit, lead or follow, in one call; and several entries at once, for batches that nobody leads."""

from __future__ import annotations

import struct
from typing import Annotated, Any

from fastapi import APIRouter, Request
from opentelemetry import trace
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from cache.dependencies import Identity, state_of
from cache.entries import Entry
from cache.lean_route import LeanRoute
from cache.names import FINGERPRINT, FLIGHT
from common import framing, wire
from common.errors import InvalidRequest
from common.telemetry import conventions

router = APIRouter(prefix="/v1/lookups", tags=["lookups"], route_class=LeanRoute)

MOST_AT_ONCE = 256
Fingerprint = Annotated[str, Field(pattern=FINGERPRINT)]
_AGE = struct.Struct(">I")


class Lookup(BaseModel):
    """What is looked for, and what the caller would do about it."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: Fingerprint
    own_id: Annotated[str, Field(pattern=FLIGHT, description="To lead or follow; without it: only look.")] | None = None
    failed_id: Annotated[str, Field(pattern=FLIGHT, description="The flight that failed the caller.")] | None = None
    max_age_s: Annotated[float, Field(ge=0, description="An older entry is none.")] | None = None
    leads: Annotated[bool, Field(description="Without it the caller may follow, but others shall not wait for it.")] = (
        True
    )


class Lookups(BaseModel):
    model_config = ConfigDict(extra="forbid")

    fingerprints: Annotated[list[Fingerprint], Field(min_length=1, max_length=MOST_AT_ONCE)]
    max_age_s: Annotated[float, Field(ge=0)] | None = None


def _json(model: type[BaseModel]) -> dict[str, Any]:
    content = {wire.JSON: {"schema": model.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "",
    summary="Look an answer up: hit (the entry), lead (with a lease), follow, or none",
    response_class=Response,
    openapi_extra=_json(Lookup),
)
async def look_up(request: Request, identity: Identity) -> Response:
    asked = await _read(request, Lookup)
    found = await state_of(request)["flights"].look_up(
        identity.tenant,
        asked.fingerprint,
        own_id=asked.own_id or "",
        failed_id=asked.failed_id or "",
        max_age_s=asked.max_age_s,
        leads=asked.leads,
    )
    trace.get_current_span().set_attribute(conventions.LOOKUP_OUTCOME, found.word)
    headers: dict[str, str] = {wire.LOOKUP: found.word}
    if found.entry is not None:
        headers["age"] = str(found.entry.age_s)
        return Response(found.entry.value, headers=headers, media_type=wire.OCTETS)
    if found.flight:
        headers[wire.FLIGHT] = found.flight
    return Response(headers=headers)


@router.post(
    "/batch",
    summary="Get several entries: for each a frame of 4 bytes of age and the entry, or an empty one",
    response_class=Response,
    openapi_extra=_json(Lookups),
)
async def look_up_many(request: Request, identity: Identity) -> Response:
    asked = await _read(request, Lookups)
    entries = state_of(request)["entries"]
    found = await entries.get_many(identity.tenant, asked.fingerprints, max_age_s=asked.max_age_s)
    frames = (b"" if entry is None else _frame(entry) for entry in found)
    return Response(framing.pack(frames), media_type=wire.OCTETS)


def _frame(entry: Entry) -> bytes:
    return _AGE.pack(entry.age_s) + entry.value


async def _read(request: Request, shape: type[Any]) -> Any:
    try:
        return shape.model_validate_json(await request.body())
    except ValidationError as error:
        raise InvalidRequest(f"The look-up is malformed ({error.error_count()} problems).") from None
