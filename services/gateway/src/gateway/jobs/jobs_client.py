"""The jobs service, as the gateway uses it: for a tenant, or for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from common import wire
from common.errors import Unavailable, UpstreamFailed
from common.identity import HopIdentity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from common.identity import HopSigner

OPERATOR = HopIdentity("-", "-")
"""No tenant has this name: the jobs service takes it for somebody who sees all tenants' jobs."""
CALL_S = 2.0
CONNECT_S = 0.5
STREAM_GAP_S = 35
"""It says something at least each 15 s."""
_HOP_REFUSED = 401


class JobsUnavailable(Unavailable):
    code = "jobs_unavailable"

    def __init__(self) -> None:
        super().__init__("The jobs service cannot be reached.")


async def _whole(response: httpx2.Response) -> httpx2.Response:
    try:
        await response.aread()
    except httpx2.HTTPError as error:
        raise JobsUnavailable from error
    finally:
        await response.aclose()
    return response


class JobsClient:
    def __init__(self, client: httpx2.AsyncClient, signer: HopSigner) -> None:
        self._client = client
        self._signer = signer

    async def request(  # noqa: PLR0913  # an HTTP request, by keyword
        self,
        method: str,
        path: str,
        *,
        identity: HopIdentity,
        request_id: str,
        content: bytes | None = None,
        params: Mapping[str, str | int | float] | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float = 0,
    ) -> httpx2.Response:
        """Return a whole answer; `patience_s`: how long the service may think. Raises `Unavailable`.

        Nothing is tried again: the client may, and its Idempotency-Key makes that safe.
        """
        response = await self._open(
            method,
            path,
            identity=identity,
            request_id=request_id,
            content=content,
            params=params,
            headers=headers or {},
            read_s=CALL_S + patience_s,
        )
        return await _whole(response)

    async def follow(
        self, path: str, *, identity: HopIdentity, request_id: str, headers: Mapping[str, str]
    ) -> httpx2.Response:
        """Return the open answer, which the caller closes, or an error's whole one. Raises `Unavailable`."""
        response = await self._open(
            "GET", path, identity=identity, request_id=request_id, headers=headers, read_s=STREAM_GAP_S
        )
        return response if response.is_success else await _whole(response)

    async def _open(  # noqa: PLR0913  # as above
        self,
        method: str,
        path: str,
        *,
        identity: HopIdentity,
        request_id: str,
        headers: Mapping[str, str],
        read_s: float,
        content: bytes | None = None,
        params: Mapping[str, str | int | float] | None = None,
    ) -> httpx2.Response:
        request = self._client.build_request(
            method,
            path,
            content=content,
            params=params,
            headers={
                "authorization": self._signer.authorization(identity),
                "content-type": wire.JSON,
                wire.REQUEST_ID: request_id,
                **headers,
            },
            timeout=httpx2.Timeout(read_s, connect=CONNECT_S),
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            raise JobsUnavailable from error
        if response.status_code == _HOP_REFUSED:
            await response.aclose()
            raise Unavailable("The platform's services do not trust each other.", code="hop_refused")
        return response


async def relayed(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The events as they come. Raises `UpstreamFailed` when they break off."""
    try:
        async for part in response.aiter_raw():
            yield part
    except httpx2.HTTPError as error:
        raise UpstreamFailed("The events broke off; go on with Last-Event-ID.", code="stream_interrupted") from error
