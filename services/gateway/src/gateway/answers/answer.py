"""An answer to a call, whole or not at all, and what its headers say about how it came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from opentelemetry import trace
from starlette.responses import Response

from common import wire
from common.errors import RateLimited, envelope
from common.telemetry import conventions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.call import Call

OK = 200
UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
PASSED_ON = ("retry-after", wire.SHOULD_RETRY, wire.ATTEMPTS, wire.MODEL, wire.TARGET)
"""What a caller may know of inference's headers."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the upstream's status and body, and how it came about."""

    status: int
    body: bytes
    headers: dict[str, str]
    is_cached: bool = False

    def response(self) -> Response:
        return Response(self.body, self.status, self.headers, media_type=wire.JSON)


def headers_of(call: Call, outcome: wire.CacheOutcome, further: Mapping[str, str], why: str = "") -> dict[str, str]:
    """The headers of an answer; the outcome goes into span, log line and decision record as well, with the reason."""
    trace.get_current_span().set_attribute(conventions.CACHE_OUTCOME, outcome)
    call.log["cache"] = outcome
    call.decision.note("cache", f"{outcome}:{why}" if why else outcome)
    return {wire.CACHE: outcome, **further}


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in PASSED_ON if name in headers}


def of_upstream(refusal: bytes) -> bytes:
    """A 429 that is not ours says so: the caller's own limits may be far from used up."""
    try:
        error: dict[str, Any] = orjson.loads(refusal)["error"]
        told, type_ = str(error["message"]), str(error["type"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        told, type_ = "", RateLimited.type
    return envelope(f"The upstream's limit is reached. {told}".strip(), type_=type_, code=UPSTREAM_RATE_LIMITED)
