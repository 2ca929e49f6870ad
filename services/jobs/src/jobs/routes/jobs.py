"""`/v1/jobs`: submit, show, list, follow and cancel jobs of one tenant."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import JSONResponse, Response

from common import wire
from common.errors import ServiceError
from common.streams.event_stream import EventStream
from jobs.dead_letters import refuse_unless_accepted
from jobs.dependencies import Identity, state_of, tenant_call
from jobs.errors import NoSuchJob, RequestTooLarge
from jobs.events import PING, EventLog, first_wanted, is_last
from jobs.record import State as JobState
from jobs.submission import new_job, parse

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(tenant_call)])
JobId = Annotated[str, Path(pattern="^job_[0-9a-f]{32}$")]
After = Annotated[str | None, Query(pattern="^job_[0-9a-f]{32}$", description="The last id of the page before.")]
Limit = Annotated[int, Query(ge=1, le=100)]
PING_S = 15
_ENVELOPE_BYTES = 64 * 1024
"""What a submission may have around its `body`."""


@router.post("", status_code=202, summary="Accept a job; answered once it is on disk")
async def submit(
    request: Request, identity: Identity, idempotency_key: Annotated[str | None, Header()] = None
) -> Response:
    state = state_of(request)
    payload = bytearray()
    async for part in request.stream():
        payload += part
        if len(payload) > state["settings"].max_request_bytes + _ENVELOPE_BYTES:
            raise RequestTooLarge(state["settings"].max_request_bytes)
    job = new_job(
        parse(bytes(payload)),
        identity,
        key=idempotency_key,
        request_id=request.scope["state"]["request_id"],
        sealer=state["sealer"],
        settings=state["settings"],
    )
    outcome, job_id = await state["transitions"].accept(job, state["bounds"])
    refuse_unless_accepted(outcome, state["bounds"])
    request.scope["state"]["log"] |= {"job_id": job_id, "outcome": outcome}
    headers = {"location": f"/v1/jobs/{job_id}", "retry-after": "1"}
    # What was accepted before may have gone on: whoever asks again is told where to look, not how far it is.
    shown = {"id": job_id, "object": "job", "state": "queued" if outcome == "ok" else "accepted"}
    return JSONResponse(shown, 202, headers)


@router.get("", summary="List the tenant's jobs, newest first")
async def list_jobs(
    request: Request,
    identity: Identity,
    state: Annotated[JobState | None, Query()] = None,
    limit: Limit = 20,
    after: After = None,
) -> Response:
    states = None if state is None else frozenset({state})
    store, showing = state_of(request)["store"], state_of(request)["showing"]
    records, more_after = await store.page(f"of:{identity.tenant}", states=states, limit=limit, after=after)
    data = [showing.summary(record) for record in records]
    return JSONResponse({"object": "list", "data": data, "has_more": more_after is not None, "last_id": more_after})


@router.get("/{job_id}", summary="Show a job, with its result or error once it is final")
async def show(
    request: Request,
    identity: Identity,
    job_id: JobId,
    wait: Annotated[float, Query(ge=0, description="Seconds to wait for the job's end.")] = 0,
) -> Response:
    state = state_of(request)
    record = await state["store"].get(job_id, identity.tenant)
    if wait and not record.is_final:
        await _wait_for_end(request, job_id, min(wait, state["settings"].max_wait_s))
        record = await state["store"].get(job_id, identity.tenant)
    headers = {} if record.is_final else {"retry-after": str(state["showing"].retry_after_s(record))}
    return Response(await state["showing"].whole(record), headers=headers, media_type=wire.JSON)


@router.get("/{job_id}/events", summary="Follow a job: its states, and the chunks of a streamed chat")
async def follow(
    request: Request, identity: Identity, job_id: JobId, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    store = state_of(request)["store"]
    await store.get(job_id, identity.tenant)
    start = first_wanted(last_event_id, (await store.versions([job_id]))[0])

    async def finish(error: ServiceError | None) -> None:
        request.scope["state"]["log"]["outcome"] = "done" if error is None else error.own_code

    return EventStream(_events(request, identity.tenant, job_id, start), finish=finish)


@router.delete("/{job_id}", summary="Cancel a job; what runs of it is stopped")
async def cancel(request: Request, identity: Identity, job_id: JobId) -> Response:
    state = state_of(request)
    if await state["transitions"].cancel(job_id, tenant=identity.tenant) == "none":
        await state["store"].get(job_id, identity.tenant)  # raises: gone is another answer than never there
        raise NoSuchJob
    record = await state["store"].get(job_id, identity.tenant)
    return Response(await state["showing"].whole(record), media_type=wire.JSON)


async def _wait_for_end(request: Request, job_id: str, timeout_s: float) -> None:
    (version,) = await state_of(request)["store"].versions([job_id])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            async for _ in _stored(request, job_id, max(0, version - 1)):
                pass


async def _events(request: Request, tenant: str, job_id: str, start: int) -> AsyncIterator[bytes]:
    log = EventLog(state_of(request)["sealer"], tenant=tenant, job_id=job_id)
    async for number, stored in _stored(request, job_id, start):
        yield PING if number is None else log.rendered(number, stored)


async def _stored(request: Request, job_id: str, start: int) -> AsyncIterator[tuple[int | None, bytes]]:
    """Events with their numbers, from `start` on, until the last one; a None each 15 s in which nothing came."""
    state = state_of(request)
    if start and (before := await state["store"].events(job_id, start - 1, 1)) and is_last(before[0]):
        return
    async with state["watch"].following(job_id) as follower:
        while True:
            found = await state["store"].events(job_id, start)
            for stored in found:
                yield start, stored
                start += 1
                if is_last(stored):
                    return
            if not found and not await follower.beyond(start, PING_S):
                yield None, b""
                await state["store"].get(job_id)  # raises when the record went meanwhile
