"""`/v1/admin/jobs`: what an operator may look at and do, of every tenant; never what a tenant sent or got."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, Response

from jobs.dependencies import operator_call, state_of
from jobs.errors import NoSuchJob
from jobs.record import State as JobState
from jobs.routes.jobs import After, JobId, Limit

router = APIRouter(prefix="/v1/admin/jobs", tags=["admin"], dependencies=[Depends(operator_call)])
Shown = JobState | Literal["dead", "open", "all"]
_OPEN: frozenset[str] = frozenset({"queued", "running", "delayed"})


@router.get("", summary="List jobs of all tenants, or of one; dead letters unless a state is named")
async def list_jobs(
    request: Request,
    state: Annotated[Shown, Query()] = "dead",
    tenant: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Response:
    store, showing = state_of(request)["store"], state_of(request)["showing"]
    index = "dead" if state == "dead" else "all" if tenant is None else f"of:{tenant}"
    states = {"open": _OPEN, "dead": None, "all": None}.get(state, frozenset({state}))
    records, more_after = await store.page(index, states=states, limit=limit, after=after)
    data = [showing.for_operator(record) for record in records if tenant in (None, record.tenant)]
    shown = {"object": "list", "data": data, "has_more": more_after is not None, "last_id": more_after}
    return JSONResponse(shown | {"counts": await store.counts()})


@router.get("/{job_id}", summary="Show a job's record")
async def show(request: Request, job_id: JobId) -> Response:
    state = state_of(request)
    return JSONResponse(state["showing"].for_operator(await state["store"].get(job_id)))


@router.put("/{job_id}/retry", status_code=202, summary="Run a dead letter's request again, as a new job")
async def retry(request: Request, job_id: JobId) -> Response:
    state = state_of(request)
    new_id = await state["dead_letters"].retry(job_id, state["bounds"])
    return JSONResponse(state["showing"].for_operator(await state["store"].get(new_id)), 202)


@router.put("/{job_id}/cancel", summary="Cancel a job")
async def cancel(request: Request, job_id: JobId) -> Response:
    state = state_of(request)
    if await state["transitions"].cancel(job_id, tenant="") == "none":
        raise NoSuchJob
    return await show(request, job_id)


@router.delete("/{job_id}", status_code=204, summary="Remove a dead letter")
async def purge(request: Request, job_id: JobId) -> Response:
    await state_of(request)["dead_letters"].purge(job_id)
    return Response(status_code=204)
