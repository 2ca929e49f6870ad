"""What a route may ask for: the entries, the flights, and the tenant on whose behalf the platform calls."""

from __future__ import annotations

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from cache.bells import Bells
from cache.entries import Entries
from cache.flights import Flights
from cache.gateways import Gateways
from cache.inventory import Inventory
from cache.settings import Settings
from common.identity import HopIdentity, HopVerifier


class State(TypedDict):
    settings: Settings
    verifier: HopVerifier
    entries: Entries
    flights: Flights
    gateways: Gateways
    bells: Bells
    inventory: Inventory


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def platform_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform."""
    return state_of(request)["verifier"].verify(request.headers.get("authorization"))


Identity = Annotated[HopIdentity, Depends(platform_call)]
