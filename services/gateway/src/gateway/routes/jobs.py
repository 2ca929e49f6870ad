"""`/v1/jobs`: long work. Accepted for later, then polled or followed. `/admin/jobs`: the same for an operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import httpx2
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from starlette.responses import Response

from common import wire
from common.deadline import Deadline, Patience
from common.errors import InvalidRequest, ServiceError
from common.identity import HopIdentity
from common.streams.event_stream import EventStream
from gateway import admin_answers as answers
from gateway.admin_requests import TenantName
from gateway.call import Call
from gateway.decision import Decision
from gateway.dependencies import (
    CallFactory,
    Calls,
    JsonBody,
    acceptable_content,
    administrator,
    authenticated,
    state_of,
)
from gateway.idempotency.errors import HEADER
from gateway.idempotency.keyed_requests import key_in
from gateway.jobs.jobs_client import CALL_S, OPERATOR, JobsClient, relayed
from gateway.jobs.submissions import JobRequest, rendered
from gateway.requests import check
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    prefix="/v1/jobs",
    tags=["jobs"],
    dependencies=[Depends(acceptable_content), Depends(authenticated)],
    responses=ERRORS,
)
admin_router = APIRouter(prefix="/admin/jobs", tags=["admin"], dependencies=[Depends(administrator)], responses=ERRORS)

JobId = Annotated[str, Path(pattern="^job_[0-9a-f]{32}$")]
Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(pattern="^job_[0-9a-f]{32}$", description="`last_id` of the page before.")]
State = Literal["queued", "running", "delayed", "succeeded", "failed", "cancelled", "expired"]
MAX_WAIT_S = 30
_PASSED_ON = ("location", "retry-after")
_OK = 200


@router.post(
    "",
    status_code=202,
    summary="Submit a job; answered once it is on disk",
    openapi_extra=json_body(JobRequest),
    response_class=Response,
)
async def create_job(request: Request, calls: Calls, body: JsonBody) -> Response:
    asked = check(body, JobRequest)
    return await submit(request, calls, asked)


@router.get("", summary="List the tenant's jobs, newest first", response_class=Response)
async def list_jobs(
    request: Request,
    calls: Calls,
    state: Annotated[State | None, Query()] = None,
    limit: Limit = 20,
    after: After = None,
) -> Response:
    params = {"state": state, "limit": limit, "after": after}
    return await _passed(request, calls.identity(), "GET", "/v1/jobs", params=params)


@router.get("/{job_id}", summary="Show a job, with its result or error once it is final", response_class=Response)
async def show_job(
    request: Request,
    calls: Calls,
    job_id: JobId,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the job's end.")] = 0,
) -> Response:
    params = {"wait": wait} if wait else None
    return await _passed(request, calls.identity(), "GET", f"/v1/jobs/{job_id}", params=params, patience_s=wait)


@router.get("/{job_id}/events", summary="Follow a job as server-sent events", response_class=Response)
async def follow_job(
    request: Request, calls: Calls, job_id: JobId, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    scope_state = request.scope["state"]
    if last_event_id is not None and not (last_event_id.isascii() and last_event_id.isdecimal()):
        raise InvalidRequest("Last-Event-ID has to be the id of an event of this job.", param="last-event-id")
    response = await _jobs(request).follow(
        f"/v1/jobs/{job_id}/events",
        identity=calls.identity(),
        request_id=scope_state["request_id"],
        headers={} if last_event_id is None else {"last-event-id": last_event_id},
    )
    if response.status_code != _OK:
        return _answer(request, response)

    async def finish(error: ServiceError | None) -> None:
        await response.aclose()
        scope_state["log"]["outcome"] = "done" if error is None else error.own_code

    return EventStream(relayed(response), finish=finish)


@router.delete("/{job_id}", summary="Cancel a job, running or not", response_class=Response)
async def cancel_job(request: Request, calls: Calls, job_id: JobId) -> Response:
    return await _passed(request, calls.identity(), "DELETE", f"/v1/jobs/{job_id}")


async def submit(request: Request, calls: CallFactory, asked: JobRequest) -> Response:
    """Judge what is to run later as if it ran now, pay the request rate, and have it accepted."""
    call = calls(asked.endpoint, asked.body)
    key = key_in(request.headers)

    async def accept(admitted: Call) -> Response:
        return await _passed(
            request,
            admitted.identity,
            "POST",
            "/v1/jobs",
            content=rendered(asked),
            headers={} if key is None else {HEADER: key},
        )

    return await state_of(request)["governor"].submit(call, accept)


async def submit_instead(request: Request, calls: CallFactory, endpoint: str, body: dict[str, Any]) -> Response:
    """Make a job of a request that was sent to `endpoint` with `Prefer: respond-async`."""
    answer = await submit(request, calls, JobRequest.model_validate({"endpoint": endpoint, "body": body}))
    answer.headers["preference-applied"] = "respond-async"
    return answer


@admin_router.get(
    "",
    summary="List jobs of all tenants; dead letters unless a state is named",
    response_class=Response,
    responses={200: {"model": answers.JobPage}},
)
async def list_all_jobs(
    request: Request,
    state: Annotated[State | Literal["dead", "open", "all"], Query()] = "dead",
    tenant: TenantName | None = None,
    limit: Limit = 20,
    after: After = None,
) -> Response:
    params = {"state": state, "tenant": tenant, "limit": limit, "after": after}
    return await _passed(request, OPERATOR, "GET", "/v1/admin/jobs", params=params)


@admin_router.get(
    "/{job_id}",
    summary="Show a job's record, without what it holds",
    response_class=Response,
    responses={200: {"model": answers.JobShown}},
)
async def inspect_job(request: Request, job_id: JobId) -> Response:
    return await _passed(request, OPERATOR, "GET", f"/v1/admin/jobs/{job_id}")


@admin_router.put(
    "/{job_id}/retry",
    status_code=202,
    summary="Run a dead letter again, as a new job",
    response_class=Response,
    responses={202: {"model": answers.JobShown}},
)
async def retry_job(request: Request, job_id: JobId) -> Response:
    return await _passed(request, OPERATOR, "PUT", f"/v1/admin/jobs/{job_id}/retry")


@admin_router.put(
    "/{job_id}/cancel",
    summary="Cancel a job of any tenant",
    response_class=Response,
    responses={200: {"model": answers.JobShown}},
)
async def cancel_any_job(request: Request, job_id: JobId) -> Response:
    return await _passed(request, OPERATOR, "PUT", f"/v1/admin/jobs/{job_id}/cancel")


@admin_router.delete("/{job_id}", status_code=204, summary="Remove a dead letter", response_class=Response)
async def purge_job(request: Request, job_id: JobId) -> Response:
    return await _passed(request, OPERATOR, "DELETE", f"/v1/admin/jobs/{job_id}")


async def _passed(  # noqa: PLR0913  # an HTTP request, most by keyword
    request: Request,
    identity: HopIdentity,
    method: str,
    path: str,
    *,
    content: bytes | None = None,
    params: Mapping[str, str | float | None] | None = None,
    headers: Mapping[str, str] | None = None,
    patience_s: float = 0,
) -> Response:
    """The jobs service's answer to this, as long as the caller waits for it."""
    given = {name: value for name, value in (params or {}).items() if value is not None}
    async with Patience(Deadline.after(2 * CALL_S + patience_s), request.receive):
        answer = await _jobs(request).request(
            method,
            path,
            identity=identity,
            request_id=request.scope["state"]["request_id"],
            content=content,
            params=given or None,
            headers=headers,
            patience_s=patience_s,
        )
    return _answer(request, answer)


def _answer(request: Request, response: httpx2.Response) -> Response:
    decision: Decision | None = request.scope["state"].get("decision")  # an operator's request has none
    if decision is not None:
        decision.note("status", response.status_code)
    headers = {name: response.headers[name] for name in _PASSED_ON if name in response.headers}
    return Response(response.content, response.status_code, headers, media_type=wire.JSON)


def _jobs(request: Request) -> JobsClient:
    jobs = state_of(request)["jobs"]
    assert jobs is not None, "without a jobs service these routes do not exist"  # noqa: S101  # for the type checker
    return jobs
