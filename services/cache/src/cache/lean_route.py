"""A route for the hot path: it checks the platform's token and calls its endpoint, and solves no dependencies.

FastAPI still describes it in the OpenAPI document; what its endpoint needs beside the request it reads itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute

from cache.dependencies import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.responses import Response


class LeanRoute(APIRoute):
    """For endpoints of the shape `async (request, identity) -> Response`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint = self.endpoint

        async def handle(request: Request) -> Response:
            identity = state_of(request)["verifier"].verify(request.headers.get("authorization"))
            answer: Response = await endpoint(request, identity)
            return answer

        return handle
