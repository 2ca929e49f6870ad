"""Names and shapes that two services must agree on."""

from __future__ import annotations

from typing import Literal

REQUEST_ID = "x-request-id"
TRACE_ID = "x-trace-id"
TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds that remain for the request at the moment of sending; relative, so that clocks do not matter."""
ATTEMPTS = "x-upstream-attempts"
SHOULD_RETRY = "x-should-retry"
"""`false` tells the OpenAI SDKs that a retry of theirs would only multiply ours."""
FINAL = {SHOULD_RETRY: "false"}
"""Of an error behind which an upstream may have been asked already."""
CACHE = "x-cache"
ENTRY_TTL_S = "x-entry-ttl-s"

CacheOutcome = Literal["hit", "miss", "bypass"]

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
OCTETS = "application/octet-stream"
