"""`/health`, `/livez`, `/readyz`, alike on every service: liveness asks no dependency, readiness names each check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

PATHS = ("/health", "/livez", "/readyz")


class Health:
    """What readiness depends on. `draining` turns it off for good: endpoints are removed while work goes on."""

    def __init__(self, checks: Mapping[str, Callable[[], Awaitable[bool]]] | None = None) -> None:
        self.checks = dict(checks or {})
        self.draining = False

    def router(self) -> APIRouter:
        router = APIRouter(tags=["health"])

        @router.get("/health", summary="Whether the process answers")
        async def health() -> dict[str, str]:
            return {"status": "ok"}

        @router.get("/livez", summary="Whether the process should be left running")
        async def livez() -> dict[str, str]:
            return {"status": "ok"}

        @router.get("/readyz", summary="Whether traffic should come here", responses={503: {"description": "Not now"}})
        async def readyz() -> JSONResponse:
            checks = {name: "ok" if await check() else "failed" for name, check in self.checks.items()}
            if self.draining:
                checks["draining"] = "failed"
            ready = all(result == "ok" for result in checks.values())
            body = {"status": "ok" if ready else "unavailable", "checks": checks}
            return JSONResponse(body, 200 if ready else 503)

        return router
