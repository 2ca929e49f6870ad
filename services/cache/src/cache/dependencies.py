"""What a route may ask for: the entries, and the tenant on whose behalf the platform calls."""

from __future__ import annotations

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from cache.entries import Entries
from cache.settings import Settings
from common.identity import HopIdentity, HopVerifier


class State(TypedDict):
    settings: Settings
    verifier: HopVerifier
    entries: Entries


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def platform_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform."""
    return state_of(request)["verifier"].verify(request.headers.get("authorization"))


Identity = Annotated[HopIdentity, Depends(platform_call)]
