"""`/health`, `/livez`, `/readyz`, alike on every service: liveness asks no dependency, readiness names each check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATHS = ("/health", "/livez", "/readyz")


class Health:
    """What readiness depends on. `draining` turns it off for good: endpoints are removed while work goes on.

    A check of a store that all replicas share counts until it has passed once: a replica that never reached the store
    is of no use, but one that did goes on without it, and taking the whole fleet away would help nobody.
    """

    def __init__(self) -> None:
        self.draining = False
        self._checks: dict[str, Callable[[], Awaitable[bool]]] = {}
        self._passed: set[str] = set()
        self._optional: set[str] = set()

    def add_shared(self, name: str, check: Callable[[], Awaitable[bool]]) -> None:
        self._checks[name] = check

    def add_optional(self, name: str, check: Callable[[], Awaitable[bool]]) -> None:
        """A check that is reported and takes nothing away: there is another way without what it asks for."""
        self._checks[name] = check
        self._optional.add(name)

    async def report(self) -> tuple[bool, dict[str, str]]:
        """Whether traffic should come here, and each check: `ok`, `failed`, or `degraded` (it passed before)."""
        results = {"draining": "failed"} if self.draining else {}
        for name, check in self._checks.items():
            if await check():
                self._passed.add(name)
                results[name] = "ok"
            else:
                results[name] = "degraded" if name in self._passed | self._optional else "failed"
        return "failed" not in results.values(), results

    def router(self) -> APIRouter:
        """The three routes, by HEAD too: load balancers ask so."""
        router = APIRouter(tags=["health"])

        @router.head("/health", include_in_schema=False)
        @router.get("/health", summary="Whether the process answers")
        async def health() -> dict[str, str]:
            return {"status": "ok"}

        @router.head("/livez", include_in_schema=False)
        @router.get("/livez", summary="Whether the process should be left running")
        async def livez() -> dict[str, str]:
            return {"status": "ok"}

        @router.head("/readyz", include_in_schema=False)
        @router.get("/readyz", summary="Whether traffic should come here", responses={503: {"description": "Not now"}})
        async def readyz() -> JSONResponse:
            ready, checks = await self.report()
            body = {"status": "ok" if ready else "unavailable", "checks": checks}
            return JSONResponse(body, 200 if ready else 503)

        return router
