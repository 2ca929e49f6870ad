"""`/admin/cache`: what is in the cache, and taking it out by tenant, model or age. The admin key opens it."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from common.errors import InvalidRequest, Unavailable
from common.identity import HopIdentity
from gateway import admin_answers as answers
from gateway.caching.fingerprint import model_digits
from gateway.dependencies import JsonBody, acceptable_content, administrator, state_of
from gateway.requests import CachePurge, check
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    prefix="/admin/cache",
    tags=["admin"],
    dependencies=[Depends(acceptable_content), Depends(administrator)],
    responses=ERRORS,
)
TIMEOUT_S = 10
"""A purge takes up to 5 s a call; statistics read a key of each tenant."""
_OPERATOR = HopIdentity("operator", "admin")


@router.get(
    "/stats",
    summary="Hits and misses by tenant, the store's memory, and this replica's own counts",
    responses={200: {"model": answers.CacheStatistics}},
)
async def cache_statistics(request: Request) -> JSONResponse:
    completions = state_of(request)["completions"]
    cache = completions.cache
    return JSONResponse(
        await _told(request, "GET", "stats")
        | {
            "replica": {
                "hits_from_memory": completions.hot.hits,
                "flights": completions.flights.count,
                "dropped_puts": completions.writer.dropped,
                "broken_seals": cache.broken_seals,
                "faults": cache.breaker.faults,
                "breaker_openings": cache.breaker.openings,
                "is_left_alone": cache.breaker.is_open,
            }
        }
    )


@router.post(
    "/purges",
    summary="Delete entries; `is_complete` is false when the same call has to be made again",
    openapi_extra=json_body(CachePurge),
    responses={200: {"model": answers.Purged}},
)
async def purge_cache(request: Request, body: JsonBody) -> JSONResponse:
    """What other replicas of the gateway remember shows for as long as they remember it: two seconds by default."""
    asked = check(body, CachePurge)
    completions = state_of(request)["completions"]
    if all(part is None for part in (asked.tenant, asked.model, asked.older_than_s)) != asked.everything:
        raise InvalidRequest("Name what is to be purged, or say 'everything', not both.", param="everything")
    purge = {"tenant": asked.tenant, "older_than_s": asked.older_than_s, "is_everything": asked.everything}
    if asked.model is not None:
        purge["model"] = model_digits(completions.fingerprint_key, asked.model)
    purged = await _told(request, "POST", "purges", purge)
    completions.hot.clear()
    return JSONResponse(purged)


async def _told(request: Request, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    response = await state_of(request)["completions"].cache.tell(
        method,
        path,
        identity=_OPERATOR,
        timeout_s=TIMEOUT_S,
        content=None if body is None else orjson.dumps(body),
        headers={"content-type": "application/json"},
    )
    if response is None or response.is_error:
        raise Unavailable("The cache does not answer.", code="cache_unavailable")
    told: dict[str, Any] = response.json()
    return told
