"""One call to an OpenAI-compatible endpoint through the official SDK: raw bytes in and out, its errors made ours.

The SDK brings authentication, URLs and error classes; its typed chunks would cost a hundred times more than the bytes
(docs/adr/0003), its retries would multiply ours.
"""

from __future__ import annotations

import email.utils
import time
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import urlsplit

import httpx2
import openai
import orjson

from common import wire
from common.errors import DeadlineExceeded, InvalidRequest, RateLimited, ServiceError, Unavailable, UpstreamFailed
from common.telemetry import trace_context
from inference.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inference.catalogue import TargetSpec

_RETRYABLE = frozenset({429, 502, 503, 504})
_PASSED_ON = frozenset({400, 404, 408, 409, 413, 415, 422, 429, 503, 504})
_LONGEST_TEXT = 1_000
_SHORTEST_SECRET = 8
REPORTED = "error_in_answer"
"""The reason of a failure that the upstream reported with status 200."""
_Unused = openai.AsyncStream[Any]
"""The SDK asks for a stream class; with `cast_to` a raw response it never makes one."""


class Upstream:
    def __init__(  # noqa: PLR0913  # where, with what key, how it is shown, and for how long
        self,
        *,
        base_url: str,
        api_key: str,
        client: httpx2.AsyncClient,
        connect_timeout_s: float,
        auth: Literal["bearer", "api-key"] = "bearer",
        api_version: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self.address, self.port = _address_of(base_url)
        self._api_key = api_key
        self._connect_timeout_s = connect_timeout_s
        self._query = f"?api-version={api_version}" if api_version else ""
        self._auth: Any = {"authorization": openai.Omit(), "api-key": api_key} if auth == "api-key" else {}
        self._sdk = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0, http_client=client)

    @classmethod
    def of(cls, target: TargetSpec, api_key: str, client: httpx2.AsyncClient) -> Self:
        return cls(
            base_url=target.base_url,
            api_key=api_key,
            client=client,
            connect_timeout_s=target.timeouts.connect_s,
            auth=target.auth,
            api_version=target.api_version,
        )

    def has_key(self, api_key: str) -> bool:
        return self._api_key == api_key

    async def open(
        self, method: str, path: str, *, content: bytes | None, request_id: str, read_timeout_s: float | None
    ) -> httpx2.Response:
        """Return a 2xx response whose body is unread. Raises `AttemptFailedError`.

        Without `read_timeout_s` the caller bounds the reading, and the wait for the status.
        """
        connect_s = min(self._connect_timeout_s, read_timeout_s or self._connect_timeout_s)
        headers: dict[str, Any] = {wire.REQUEST_ID: request_id, **self._auth}
        if traceparent := trace_context.traceparent():
            headers[trace_context.HEADER] = traceparent
        options: Any = {
            "headers": headers,
            "timeout": httpx2.Timeout(connect=connect_s, read=read_timeout_s, write=read_timeout_s, pool=connect_s),
        }
        url = self._base_url + path + self._query  # absolute: the SDK takes 60 us to join a relative one
        try:
            if method == "GET":
                reply = self._sdk.get(url, cast_to=httpx2.Response, options=options, stream=True, stream_cls=_Unused)
            else:
                reply = self._sdk.post(
                    url, cast_to=httpx2.Response, content=content, options=options, stream=True, stream_cls=_Unused
                )
            return cast("httpx2.Response", await reply)
        except openai.APIStatusError as error:
            raise self._status_failure(error) from error
        except openai.APIConnectionError as error:
            raise transport_failure(error.__cause__ or error) from error
        except openai.OpenAIError as error:
            raise malformed() from error

    def _status_failure(self, error: openai.APIStatusError) -> AttemptFailedError:
        status = error.status_code
        retry_after_s = _retry_after_s(error.response.headers)
        headers = {} if retry_after_s is None else {"retry-after": f"{max(1, round(retry_after_s))}"}
        told = error.body if isinstance(error.body, dict) else {}
        message = self._redacted(told.get("message")) or f"The upstream answered with status {status}."
        shown: ServiceError
        if status in (401, 403):
            shown = UpstreamFailed("The upstream refused the platform's credentials.", code="upstream_auth")
        elif status in _PASSED_ON:
            kind = RateLimited if status == 429 else Unavailable if status in (503, 504) else InvalidRequest  # noqa: PLR2004  # the status is the name
            shown = kind(
                message, param=self._redacted(told.get("param")), code=self._redacted(told.get("code")), headers=headers
            )
            shown.status = status
            shown.scope, shown.is_told = "upstream", True
        else:
            shown = UpstreamFailed(f"The upstream answered with status {status}.", headers=headers)
        return AttemptFailedError(
            shown, f"status_{status}", is_retryable=status in _RETRYABLE, retry_after_s=retry_after_s
        )

    def _redacted(self, text: object) -> str | None:
        if not isinstance(text, str):
            return None
        # A word such as `none` is what one gives an upstream that asks for no key: no secret, but a part of sentences.
        shown = text.replace(self._api_key, "[redacted]") if len(self._api_key) >= _SHORTEST_SECRET else text
        return shown[:_LONGEST_TEXT]


def _address_of(base_url: str) -> tuple[str, int]:
    """Host and port, for spans and metrics."""
    url = urlsplit(base_url)
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def transport_failure(error: BaseException) -> AttemptFailedError:
    """What a failure of the connection means, before or while the answer was read."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        unreachable = Unavailable("The upstream cannot be reached.", code="upstream_unreachable")
        return AttemptFailedError(unreachable, "connect", is_retryable=True)
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        late = DeadlineExceeded("The upstream did not answer in time.", code="upstream_timeout")
        return AttemptFailedError(late, "timeout", is_retryable=True)
    if isinstance(error, httpx2.RemoteProtocolError | httpx2.DecodingError):
        return malformed()
    broken = UpstreamFailed("The upstream broke the connection.", code="upstream_broken")
    return AttemptFailedError(broken, "broken", is_retryable=True)


def malformed() -> AttemptFailedError:
    garbled = UpstreamFailed("The upstream sent something that is no answer.", code="upstream_malformed")
    return AttemptFailedError(garbled, "malformed")


def answer_of(body: bytes) -> dict[str, Any]:
    """The JSON object that an answer with status 200 is. Raises `AttemptFailedError` if it is none, or an error."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise malformed() from None
    if not isinstance(answer, dict):
        raise malformed()
    if answer.get("error"):
        raise reported_error()
    return answer


def reported_error() -> AttemptFailedError:
    told = UpstreamFailed("The upstream reported an error.", code="upstream_error")
    return AttemptFailedError(told, REPORTED)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` (RFC 9110, 10.2.3: seconds or a date); None when absent or nonsense."""
    text = headers.get("retry-after")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return seconds if 0 <= seconds < float("inf") else None
