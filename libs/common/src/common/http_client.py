"""The HTTP client of every hop: httpx2's API over aiohttp's transport.

httpx2's own pool scans all open connections on each request; aiohttp's does not (docs/adr/0003). The transport maps
errors to what they mean, because callers decide by them whether anything was sent. Source: measured, see the test.
"""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Self

import aiohttp
import httpx2
from httpx_aiohttp.httpx2 import AiohttpTransport
from httpx_aiohttp.httpx2.transport import AiohttpResponseStream

from common.telemetry import metrics
from common.telemetry.client_spans import ClientSpans
from common.telemetry.http_metrics import ClientMetrics, MeasuredCalls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.trace import TracerProvider

KEEPALIVE_S = 8
"""Idle connections are let go before the server closes them under a request: after 75 s, or 9 s when it is leaving."""
_CONTENT = "spillway.content"


class Transport(AiohttpTransport):
    """aiohttp's transport with honest errors and no memory: no cookies, no redirects, no proxy from the environment.

    `httpx2.ConnectError` and `ConnectTimeout` prove that no byte of the request was sent; every other error does not.
    """

    def __init__(self) -> None:
        super().__init__(client=self._session, trust_env=False)

    def _session(self) -> aiohttp.ClientSession:
        # No cap here: admission bounds the work, and a pool's wait would share one timeout with connecting.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=self.ssl_context)
        session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        session._retry_connection = False  # noqa: SLF001  # no public switch: it sends GET, PUT and DELETE twice
        return session

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await super().handle_async_request(request)
            if isinstance(response.stream, AiohttpResponseStream):
                response.extensions[_CONTENT] = response.stream._aiohttp_response.content  # noqa: SLF001  # see `chunks_of`
            return response  # noqa: TRY300  # else the mapping of errors is far from what may raise them
        except httpx2.ConnectTimeout as error:
            cause = error.__cause__
            if isinstance(cause, aiohttp.ClientConnectorError):
                raise httpx2.ConnectError(str(error), request=request) from cause
            if isinstance(cause, aiohttp.ConnectionTimeoutError):
                raise
            raise httpx2.ReadError(str(error), request=request) from cause
        except aiohttp.ClientError as error:
            raise httpx2.RemoteProtocolError(type(error).__name__, request=request) from error


def chunks_of(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The raw bytes of a body as they come, like `aiter_raw`, whose four generators a chunk cost 10 us when cold.

    Closing the response stays with the caller. Raises `httpx2.HTTPError`.
    """
    content = response.extensions.get(_CONTENT)
    return response.aiter_raw() if content is None else _Chunks(content)


class _Chunks:
    __slots__ = ("_content",)

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            if chunk := await self._content.readany():
                return chunk
        except TimeoutError as error:
            raise httpx2.ReadTimeout(type(error).__name__) from error
        except (aiohttp.ClientError, OSError) as error:
            raise httpx2.ReadError(type(error).__name__) from error
        raise StopAsyncIteration


def create_client(
    *,
    base_url: str = "",
    timeout: httpx2.Timeout | None = None,
    tracer_provider: TracerProvider | None = None,
    meter: Meter | None = None,
) -> httpx2.AsyncClient:
    """Build a long-lived client; with a provider each call gets a client span and carries `traceparent`.

    With a meter each call is recorded: for hosts that the operator named, for each of them is a series.
    """
    transport: httpx2.AsyncBaseTransport = Transport()
    if tracer_provider is not None:
        transport = ClientSpans(transport, tracer_provider)
    if meter is not None and not metrics.is_off(meter):
        transport = MeasuredCalls(transport, ClientMetrics(meter))
    return httpx2.AsyncClient(
        base_url=base_url,
        transport=transport,
        timeout=timeout if timeout is not None else httpx2.Timeout(5),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        follow_redirects=False,
        trust_env=False,
        headers={"accept-encoding": "identity"},
    )
