"""Names and shapes that two services must agree on."""

from __future__ import annotations

from typing import Literal, TypedDict

REQUEST_ID = "x-request-id"
TIMEOUT_MS = "x-request-timeout-ms"
"""Milliseconds that remain for the request at the moment of sending; relative, so that clocks do not matter."""
ATTEMPTS = "x-upstream-attempts"
ERROR = "x-spillway-error"
"""Between services: the code of an error in words of ours, where its body may have an upstream's."""
MAX_ATTEMPTS = "x-spillway-max-attempts"
"""The most upstream attempts that a request may have: a job's replay has one, since the job has attempts of its own."""
SHOULD_RETRY = "x-should-retry"
"""`false` tells the OpenAI SDKs that a retry of theirs would only multiply ours."""
FINAL = {SHOULD_RETRY: "false"}
"""Of an error behind which an upstream may have been asked already."""
DECISION = "x-spillway-decision"
PRIORITY = "x-spillway-priority"
"""`batch`: this request may wait for, and gives way to, those that are `interactive`."""
CACHE = "x-cache"
ENTRY_TTL_S = "x-entry-ttl-s"
LOOKUP = "x-lookup"
"""The cache service's answer to a look-up: `hit`, `lead`, `follow` or `none`."""
FLIGHT = "x-flight"
"""Id of the flight that a look-up names, or that the writer of an entry led; 32 hex digits that a gateway made up."""

MODEL = "x-spillway-model"
"""The public name of the model that gave the answer: another than the one that was asked for after a fallback."""
TARGET = "x-spillway-target"
"""The catalogue's name of the target that gave the answer."""

CacheOutcome = Literal["hit", "miss", "coalesced", "bypass"]


class Price(TypedDict):
    """US dollars per million tokens."""

    input_usd: float
    output_usd: float


class CatalogueModel(TypedDict):
    """What inference tells the gateway of a model: `GET /v1/catalogue`."""

    price: Price | None
    """Of the dearest target, so that what is reserved suffices; None: unknown."""
    max_output_tokens: int | None


class Catalogue(TypedDict):
    revision: str
    """Changes with the catalogue's content; also the answer's `ETag` (RFC 9110)."""
    models: dict[str, CatalogueModel]


EVENT_STREAM = "text/event-stream"
JSON = "application/json"
OCTETS = "application/octet-stream"
