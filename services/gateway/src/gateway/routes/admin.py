"""`/admin/keys`: make, list, show, change, rotate and delete API keys. An API key never opens it."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse, Response

from common.errors import InvalidRequest, NotFound
from gateway import admin_answers as answers
from gateway.access import key_store
from gateway.access.keys import digest_of, generate_key
from gateway.access.records import KeyRecord, record_for
from gateway.admin_requests import KeyChange, KeyRequest, RotationRequest, TenantName
from gateway.dependencies import Administrator, JsonBody, acceptable_content, administrator, state_of
from gateway.errors import AlreadyDeclared
from gateway.requests import check
from gateway.routes.describe import ERRORS, json_body

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(acceptable_content), Depends(administrator)],
    responses=ERRORS,
)
KeyId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
PageSize = Annotated[int, Query(ge=1, le=1_000)]
NEW_KEY_ENVIRONMENT = "live"


@router.post(
    "/keys",
    status_code=201,
    summary="Make a key; it is shown this once",
    openapi_extra=json_body(KeyRequest),
    responses={201: {"model": answers.KeyMade}},
)
async def create_key(request: Request, administrator: Administrator, body: JsonBody) -> JSONResponse:
    asked = check(body, KeyRequest)
    if asked.expires_at is not None and asked.expires_at <= time.time():
        raise InvalidRequest("'expires_at' has passed already.", param="expires_at", code="invalid_value")
    key = generate_key(NEW_KEY_ENVIRONMENT)
    record = asked.upon(record_for(key.text, pepper=_pepper(request), tenant=asked.tenant, name=asked.name))
    await key_store.put_key(state_of(request)["store"], record, administrator)
    state_of(request)["directory"].forget(record.kid)
    return JSONResponse(_shown(record, key=key.text), 201)


@router.get(
    "/keys",
    summary="List keys in the order of their ids, those of the keys file first",
    responses={200: {"model": answers.KeyPage}},
)
async def list_keys(
    request: Request,
    tenant: TenantName | None = None,
    after: Annotated[str, Query(pattern="^([0-9a-f]{16})?$")] = "",
    limit: PageSize = 100,
) -> JSONResponse:
    """`next_after` goes into `after` for the next page; null: that was the last one."""
    state = state_of(request)
    page = await key_store.list_keys(state["store"], tenant=tenant, after=after, count=limit)
    declared = state["declared"].now.keys.values() if not after else ()
    records = [record for record in declared if tenant in (None, record.tenant)] + page.records
    last_used = await key_store.last_used(state["store"], [record.kid for record in records])
    data = [_shown(record, last_used_at=at) for record, at in zip(records, last_used, strict=True)]
    return JSONResponse({"data": data, "next_after": page.next_after})


@router.get("/keys/{key_id}", summary="Show a key's record", responses={200: {"model": answers.KeyShown}})
async def show_key(request: Request, key_id: KeyId) -> JSONResponse:
    state = state_of(request)
    record = state["declared"].now.keys.get(key_id) or await key_store.fetch_key(state["store"], key_id)
    (last_used_at,) = await key_store.last_used(state["store"], [key_id])
    return JSONResponse(_shown(_found(record), last_used_at=last_used_at))


@router.patch(
    "/keys/{key_id}",
    summary="Change a key: a merge patch (RFC 7396)",
    openapi_extra=json_body(KeyChange),
    responses={200: {"model": answers.KeyShown}},
)
async def change_key(request: Request, administrator: Administrator, key_id: KeyId, body: JsonBody) -> JSONResponse:
    change = check(body, KeyChange)
    _refuse_declared(request, key_id)
    state = state_of(request)
    record = _found(await key_store.change_key(state["store"], key_id, change.upon, administrator))
    state["directory"].forget(key_id)
    (last_used_at,) = await key_store.last_used(state["store"], [key_id])
    return JSONResponse(_shown(record, last_used_at=last_used_at))


@router.post(
    "/keys/{key_id}/rotate",
    summary="Give a key a new secret, shown this once; the old one stays good for a while",
    openapi_extra=json_body(RotationRequest),
    responses={200: {"model": answers.KeyMade}},
)
async def rotate_key(request: Request, administrator: Administrator, key_id: KeyId, body: JsonBody) -> JSONResponse:
    asked = check(body, RotationRequest)
    _refuse_declared(request, key_id)
    key = generate_key(NEW_KEY_ENVIRONMENT, key_id)
    digest, until = digest_of(key.text, _pepper(request)), time.time() + asked.grace_s
    state = state_of(request)
    record = _found(
        await key_store.change_key(
            state["store"], key_id, lambda record: record.rotated(digest, until), administrator, "key.rotate"
        )
    )
    state["directory"].forget(key_id)
    return JSONResponse(_shown(record, key=key.text))


@router.delete("/keys/{key_id}", status_code=204, summary="Delete a key; every replica refuses it within 10 s")
async def remove_key(request: Request, administrator: Administrator, key_id: KeyId) -> Response:
    _refuse_declared(request, key_id)
    if not await key_store.delete_key(state_of(request)["store"], key_id, administrator):
        raise _no_such_key()
    state_of(request)["directory"].forget(key_id)
    return Response(status_code=204)


def _pepper(request: Request) -> str:
    return state_of(request)["settings"].key_pepper.get_secret_value()


def _refuse_declared(request: Request, key_id: str) -> None:
    if key_id in state_of(request)["declared"].now.keys:
        raise AlreadyDeclared


def _found(record: KeyRecord | None) -> KeyRecord:
    if record is None:
        raise _no_such_key()
    return record


def _no_such_key() -> NotFound:
    return NotFound("No such key.", param="key_id")


def _shown(record: KeyRecord, *, last_used_at: float | None = None, key: str | None = None) -> dict[str, Any]:
    shown = record.shown() | {"last_used_at": last_used_at}
    return shown if key is None else {"id": record.kid, "key": key} | shown
