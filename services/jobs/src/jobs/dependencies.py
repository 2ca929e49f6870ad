"""What a route may ask for: the queue, and the tenant on whose behalf the platform calls."""

from __future__ import annotations

from typing import Annotated, TypedDict, cast

from fastapi import Depends, Request

from common.errors import PermissionDenied
from common.identity import HopIdentity, HopVerifier
from jobs.dead_letters import DeadLetters
from jobs.sealing import Sealer
from jobs.settings import Settings
from jobs.showing import Showing
from jobs.store import JobStore
from jobs.transitions import Bounds, Transitions
from jobs.watch import Watch

OPERATOR = "-"
"""Stands for the tenant in a call on behalf of an operator; no tenant has this name."""


class State(TypedDict):
    settings: Settings
    verifier: HopVerifier
    sealer: Sealer
    store: JobStore
    transitions: Transitions
    bounds: Bounds
    watch: Watch
    showing: Showing
    dead_letters: DeadLetters


def state_of(request: Request) -> State:
    return cast("State", request.scope["state"])


async def platform_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform."""
    return state_of(request)["verifier"].verify(request.headers.get("authorization"))


async def tenant_call(request: Request) -> HopIdentity:
    """Refuse callers who are not the platform, and an operator, who has no jobs."""
    identity = await platform_call(request)
    if identity.tenant == OPERATOR:
        raise PermissionDenied("An operator has no jobs.")
    return identity


async def operator_call(request: Request) -> None:
    """Refuse whoever does not call for an operator."""
    if (await platform_call(request)).tenant != OPERATOR:
        raise PermissionDenied("This is for operators.")


Identity = Annotated[HopIdentity, Depends(tenant_call)]
