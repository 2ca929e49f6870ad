"""For operators, through the gateway's `/admin/cache`: statistics, and purge by tenant, model or age."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from cache.dependencies import platform_call, state_of
from cache.names import MODEL
from common.errors import InvalidRequest

router = APIRouter(prefix="/v1", tags=["inventory"], dependencies=[Depends(platform_call)])
PURGE_S = 5.0


class Purge(BaseModel):
    """Which entries go: those to which everything that is named applies. `is_everything` says it when nothing is."""

    model_config = ConfigDict(extra="forbid")

    tenant: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    model: Annotated[str, Field(pattern=MODEL, description="The first 16 digits of its fingerprints.")] | None = None
    older_than_s: Annotated[float, Field(ge=0)] | None = None
    is_everything: bool = False


@router.get("/stats", summary="Hits, misses, follows and stored entries by tenant; the store's memory")
async def statistics(request: Request) -> dict[str, Any]:
    return await state_of(request)["inventory"].statistics()


@router.post("/purges", summary="Delete entries; `is_complete` is false when the same call has to be made again")
async def purge(request: Request, asked: Purge) -> JSONResponse:
    narrows = (asked.tenant, asked.model, asked.older_than_s)
    if all(part is None for part in narrows) != asked.is_everything:
        raise InvalidRequest("Name what is to be purged, or say is_everything, not both.")
    purged = await state_of(request)["inventory"].purge(
        tenant=asked.tenant, model=asked.model, older_than_s=asked.older_than_s, within_s=PURGE_S
    )
    return JSONResponse(purged)
