"""`/admin/tenants`: what applies to all keys of a tenant together; and `/admin/audit`: who changed what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse, Response

from common.errors import NotFound
from gateway import admin_answers as answers
from gateway.access import audit, key_store
from gateway.access.records import TenantRecord
from gateway.admin_requests import TenantChange, TenantName, TenantRequest
from gateway.dependencies import Administrator, JsonBody, acceptable_content, administrator, state_of
from gateway.errors import AlreadyDeclared
from gateway.requests import check
from gateway.routes.admin import PageSize
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(acceptable_content), Depends(administrator)],
    responses=ERRORS,
)
Tenant = Annotated[TenantName, Path()]


@router.get(
    "/tenants",
    summary="List tenants that have a record, in the order of their names",
    responses={200: {"model": answers.TenantPage}},
)
async def list_tenants(
    request: Request, after: Annotated[str, Query(max_length=64)] = "", limit: PageSize = 100
) -> JSONResponse:
    state = state_of(request)
    records, next_after = await key_store.list_tenants(state["store"], after=after, count=limit)
    declared = list(state["declared"].now.tenants.values()) if not after else []
    return JSONResponse({"data": [record.shown() for record in declared + records], "next_after": next_after})


@router.get("/tenants/{tenant}", summary="Show a tenant's record", responses={200: {"model": answers.TenantShown}})
async def show_tenant(request: Request, tenant: Tenant) -> JSONResponse:
    state = state_of(request)
    record = state["declared"].now.tenants.get(tenant) or await key_store.fetch_tenant(state["store"], tenant)
    if record is None:
        raise _no_such_tenant()
    return JSONResponse(record.shown())


@router.put(
    "/tenants/{tenant}",
    summary="Set a tenant's limits, or disable all its keys; every replica follows within 10 s",
    openapi_extra=json_body(TenantRequest),
    responses={200: {"model": answers.TenantShown}},
)
async def put_tenant(request: Request, administrator: Administrator, tenant: Tenant, body: JsonBody) -> JSONResponse:
    record = check(body, TenantRequest).record(tenant)
    return await _changed(request, administrator, tenant, lambda _: record, "tenant.put")


@router.patch(
    "/tenants/{tenant}",
    summary="Change a tenant: a merge patch (RFC 7396), also of one without a record, which has no limits",
    openapi_extra=json_body(TenantChange),
    responses={200: {"model": answers.TenantShown}},
)
async def change_tenant(request: Request, administrator: Administrator, tenant: Tenant, body: JsonBody) -> JSONResponse:
    return await _changed(request, administrator, tenant, check(body, TenantChange).upon, "tenant.change")


@router.delete("/tenants/{tenant}", status_code=204, summary="Delete the record of a tenant that has no keys")
async def remove_tenant(request: Request, administrator: Administrator, tenant: Tenant) -> Response:
    _refuse_declared(request, tenant)
    if not await key_store.delete_tenant(state_of(request)["store"], tenant, administrator):
        raise _no_such_tenant()
    return Response(status_code=204)


@router.get(
    "/audit",
    summary="Who changed which key or tenant, the newest change first",
    responses={200: {"model": answers.AuditPage}},
)
async def list_audit(
    request: Request, before: Annotated[str, Query(pattern=r"^([0-9]{1,15}-[0-9]{1,15})?$")] = "", limit: PageSize = 100
) -> JSONResponse:
    """`next_before` goes into `before` for older entries; null: there are none."""
    entries = await audit.newest(state_of(request)["store"], count=limit, before=before or None)
    next_before = entries[-1]["id"] if len(entries) == limit else None
    return JSONResponse({"data": entries, "next_before": next_before})


async def _changed(
    request: Request,
    administrator: Administrator,
    tenant: str,
    change: Callable[[TenantRecord], TenantRecord],
    action: str,
) -> JSONResponse:
    _refuse_declared(request, tenant)
    state = state_of(request)
    record = await key_store.change_tenant(state["store"], tenant, change, administrator, action)
    state["directory"].forget_all()
    return JSONResponse(record.shown())


def _refuse_declared(request: Request, tenant: str) -> None:
    if tenant in state_of(request)["declared"].now.tenants:
        raise AlreadyDeclared


def _no_such_tenant() -> NotFound:
    return NotFound("No such tenant.", param="tenant")
