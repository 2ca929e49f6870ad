"""`/admin/keys`: make, list, show, change and delete API keys. Another class of key opens it, never an API key."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import JSONResponse, Response

from common.errors import NotFound
from gateway import key_store
from gateway.dependencies import JsonBody, acceptable_content, administrator, state_of
from gateway.keys import KeyRecord, generate_key, record_for
from gateway.requests import KeyChange, KeyRequest, check
from gateway.routes.describe import json_body

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(acceptable_content), Depends(administrator)])
Kid = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
NEW_KEY_ENVIRONMENT = "live"


@router.post("/keys", status_code=201, summary="Make a key; it is shown this once", openapi_extra=json_body(KeyRequest))
async def create_key(request: Request, body: JsonBody) -> JSONResponse:
    asked = check(body, KeyRequest)
    key = generate_key(NEW_KEY_ENVIRONMENT)
    pepper = state_of(request)["settings"].key_pepper.get_secret_value()
    record = record_for(key.text, pepper=pepper, tenant=asked.tenant, name=asked.name)
    record = dataclasses.replace(record, expires_at=asked.expires_at)
    await key_store.put_key(state_of(request)["store"], record)
    return JSONResponse({**_shown(record), "key": key.text}, 201)


@router.get("/keys", summary="List keys")
async def list_all_keys(request: Request) -> JSONResponse:
    records = await key_store.list_keys(state_of(request)["store"])
    return JSONResponse({"data": [_shown(record) for record in records]})


@router.get("/keys/{kid}", summary="Show a key's record")
async def show_key(request: Request, kid: Kid) -> JSONResponse:
    return JSONResponse(_shown(_found(await key_store.fetch_key(state_of(request)["store"], kid))))


@router.patch(
    "/keys/{kid}", summary="Change a key: its name, expiry, or whether it is live", openapi_extra=json_body(KeyChange)
)
async def change_key(request: Request, kid: Kid, body: JsonBody) -> JSONResponse:
    change = check(body, KeyChange).model_dump(exclude_unset=True)
    store = state_of(request)["store"]
    record = await key_store.change_key(store, kid, lambda record: dataclasses.replace(record, **change))
    return JSONResponse(_shown(_found(record)))


@router.delete("/keys/{kid}", status_code=204, summary="Delete a key; every replica refuses it within 10 s")
async def remove_key(request: Request, kid: Kid) -> Response:
    if not await key_store.delete_key(state_of(request)["store"], kid):
        raise _no_such_key()
    return Response(status_code=204)


def _found(record: KeyRecord | None) -> KeyRecord:
    if record is None:
        raise _no_such_key()
    return record


def _no_such_key() -> NotFound:
    return NotFound("No such key.", param="kid")


def _shown(record: KeyRecord) -> dict[str, Any]:
    shown = dataclasses.asdict(record)
    shown["id"] = shown.pop("kid")
    del shown["digest"]
    return shown
