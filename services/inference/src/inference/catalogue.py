"""The catalogue: which models there are, and which targets can serve them. What `models.yaml` holds, judged.

Everything here is frozen: a new version is a new `Catalogue`. Its JSON Schema is committed (docs/models.schema.json),
so a description here is what an operator's editor shows.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from common import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
"""Of a model or target: it stands in headers, spans and metrics."""
SecretName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,127}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Price(_Part):
    """US dollars per million tokens."""

    input_usd: float = Field(ge=0, le=100_000)
    output_usd: float = Field(ge=0, le=100_000)
    as_of: dt.date
    """The day on which the provider's price list said so."""


class Timeouts(_Part):
    """Seconds. The request's own deadline cuts each of them short."""

    connect_s: float = Field(default=3, gt=0, le=60)
    first_event_s: float = Field(default=60, gt=0, le=3600)
    """Of a stream; reasoning models stay silent for minutes."""
    gap_s: float = Field(default=30, gt=0, le=3600)
    """Longest silence between two content events of a stream."""
    total_s: float = Field(default=600, gt=0, le=7200)


class Caps(_Part):
    """What a request may ask of this target; a request that asks for more goes to another target, or is a 400."""

    max_output_tokens: int | None = Field(default=None, ge=1)
    """`max_tokens` and `max_completion_tokens`."""
    choices: int | None = Field(default=None, ge=1)
    """`n`."""


class Batching(_Part):
    """Joins concurrent small embedding requests into one upstream call."""

    max_items: int = Field(default=32, ge=2, le=2048)
    """Inputs of one upstream call."""
    max_wait_ms: float = Field(default=5, ge=0, le=1000)

    @property
    def max_wait_s(self) -> float:
        return self.max_wait_ms / 1000


class TargetSpec(_Part):
    """One upstream model at one provider."""

    name: Name
    """Unique in the file; answers, spans and metrics call it by this name."""
    base_url: str = Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")
    """The OpenAI-compatible API, its `/v1` included; without credentials or a query."""
    model: str | None = Field(default=None, min_length=1, max_length=256)
    """What the provider calls the model; left out, the public name is sent."""
    api_key: SecretName | None = None
    """Name of the secret that holds the provider's key: a file in INFERENCE_SECRETS_DIR, else an environment variable.
    The key itself never stands here. Left out, the word "none" is sent."""
    auth: Literal["bearer", "api-key"] = "bearer"
    """How the key is shown: `Authorization: Bearer`, or Azure's header `api-key`."""
    api_version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]{1,32}$")
    """Azure's query parameter `api-version`; its v1 API needs none."""
    weight: float = Field(default=1, ge=0, le=1000)
    """Share of the model's traffic, relative to its other targets; 0: only when those are away."""
    max_concurrency: int = Field(default=256, ge=1, le=100_000)
    """Calls in flight that one inference process never exceeds; below it the limit adapts."""
    timeouts: Timeouts = Timeouts()
    caps: Caps = Caps()
    price: Price | None = None
    """Left out, costs are unknown: null, never 0."""
    batching: Batching | None = None
    """Of embeddings; left out, none."""


class CanarySpec(_Part):
    """A target on trial: a share of the tenants, always the same ones, until it proves worse than the others."""

    target: Name
    """One of the model's targets; tenants outside of the share never meet it."""
    percent: float = Field(ge=0, le=100)
    """Of the tenants."""
    window_s: float = Field(default=60, ge=1, le=3600)
    min_requests: int = Field(default=20, ge=5, le=1000)
    """Of the canary in the window, before it is judged."""
    max_error_rate_increase: float = Field(default=0.05, ge=0, le=1)
    """Rolled back when its error rate is above the stable targets' by more than this (0.05: five in a hundred)."""
    max_ttft_ratio: float = Field(default=1.5, ge=1, le=100)
    """Rolled back when its 95th percentile of the time to a stream's first event is above theirs times this."""


class ModelSpec(_Part):
    """A public name and what serves it."""

    targets: tuple[TargetSpec, ...] = Field(min_length=1, max_length=50)
    fallback: tuple[Name, ...] = Field(default=(), max_length=5)
    """Models that answer when no target of this one can, in this order; the answer says which model gave it."""
    larger: Name | None = None
    """The model that gets a request which this one refuses with `context_length_exceeded`."""
    canary: CanarySpec | None = None

    @property
    def price(self) -> wire.Price | None:
        """Of the dearest target; None when one is unknown."""
        prices = [target.price for target in self.targets if target.price is not None]
        if len(prices) < len(self.targets):
            return None
        return wire.Price(
            input_usd=max(price.input_usd for price in prices), output_usd=max(price.output_usd for price in prices)
        )

    @property
    def max_output_tokens(self) -> int | None:
        caps = [target.caps.max_output_tokens for target in self.targets]
        return None if None in caps else max(cap for cap in caps if cap is not None)


class Catalogue(_Part):
    """The models of this platform."""

    version: Literal[1]
    models: dict[Name, ModelSpec] = Field(min_length=1, max_length=1000)

    @property
    def revision(self) -> str:
        """Changes with what the catalogue says, not with how its file says it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def targets(self) -> Iterable[tuple[str, TargetSpec]]:
        """Each target with the name of its model."""
        return ((name, target) for name, model in self.models.items() for target in model.targets)

    def listed(self) -> bytes:
        """The body of OpenAI's `GET /v1/models`. When a model came to be is not known: 0."""
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "spillway"} for name in self.models]
        return orjson.dumps({"object": "list", "data": models})

    def published(self) -> wire.Catalogue:
        """What the gateway has to know."""
        models = {
            name: wire.CatalogueModel(price=model.price, max_output_tokens=model.max_output_tokens)
            for name, model in self.models.items()
        }
        return wire.Catalogue(revision=self.revision, models=models)
