"""The gateway's settings: every knob with its unit, bounds and default."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from common.settings import BaseUrl, HopSecret, Secret, ServiceSettings, StoreUrl
from gateway.requests import DENIED_FIELDS


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    port: int = Field(default=8080, ge=1, le=65_535)
    inference_url: BaseUrl = "http://127.0.0.1:8081"
    cache_url: BaseUrl = "http://127.0.0.1:8082"
    state_url: StoreUrl
    """The *state* store: key records. Secret, because a store's URL may carry its password."""

    limits_url: StoreUrl | None = None
    """The *limits* store: counters and usage. Without it each process limits alone, by its share."""
    expected_replicas: int = Field(default=1, ge=1, le=1000)
    """Gateways that run at the same time: a limit's share of one is the limit divided by it."""

    key_pepper: Secret
    """Keys are stored as HMACs under it; losing it invalidates every key."""
    key_pepper_previous: Secret | None = None
    admin_key: Secret | None = None
    """Opens `/admin`; without it `/admin` does not exist. It is no API key: it cannot call a model."""
    admin_key_previous: Secret | None = None
    keys_file: Path | None = None
    """Keys and tenants that are declared: YAML or JSON, digests only."""
    failed_logins_per_minute: int = Field(default=20, ge=1, le=1_000_000)
    """Of one network (/24, or /56 of IPv6); then 429, without asking the store."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks of the edge, separated by commas: their `X-Forwarded-For` names the client."""
    connections_per_address: int = Field(default=100, ge=0, le=1_000_000)
    """Open at the same time, those of trusted proxies not counted; 0: no cap."""
    denied_fields: Annotated[tuple[str, ...], NoDecode] = DENIED_FIELDS
    """Top-level fields of a request that a client may not set, separated by commas."""
    seal_secret: Secret
    """Cached answers are fingerprinted and sealed under keys derived from it."""
    seal_secret_previous: Secret | None = None
    """Still opens what it sealed; fingerprints are made with the one in use."""
    cache_hop_secret: HopSecret
    inference_hop_secret: HopSecret

    jobs_url: BaseUrl = "http://127.0.0.1:8083"
    jobs_hop_secret: Secret | None = None
    """Signs calls to the jobs service; without it there are no jobs."""
    hop_secret: Secret | None = None
    """Checks the tokens with which workers replay jobs; without it they are refused."""
    hop_secret_previous: Secret | None = None

    default_model: str | None = Field(default=None, min_length=1, max_length=256)
    """The model of a `/generate` that names none; without it such a request is refused."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    header_timeout_s: float = Field(default=10, gt=0, le=600)
    """From a connection, or a request's first byte, to the end of its headers."""
    body_timeout_s: float = Field(default=30, gt=0, le=600)
    request_timeout_s: float = Field(default=120, gt=0, le=3600)
    """For a caller who names no patience of its own, not streamed."""
    stream_timeout_s: float = Field(default=600, gt=0, le=7200)
    """As above, streamed."""
    max_timeout_s: float = Field(default=3600, gt=0, le=7200)
    """No caller's patience counts for more."""

    cache_timeout_s: float = Field(default=0.05, gt=0, le=5)
    """A cache that takes longer is a miss."""
    cache_put_timeout_s: float = Field(default=0.5, gt=0, le=10)
    cache_put_queue: int = Field(default=256, ge=1, le=10_000)
    """Answers that wait to be stored; more are dropped and counted."""
    cache_put_queue_bytes: int = Field(default=32 * 1024 * 1024, ge=1024 * 1024, le=4 * 1024**3)
    """Sealed; as above."""
    hot_entries_life_s: float = Field(default=2.0, ge=0, le=60)
    """How long an entry that was read is answered from memory; a purge shows within it. 0: not at all."""
    hot_entries_bytes: int = Field(default=8 * 1024 * 1024, ge=0, le=4 * 1024**3)
    entry_ttl_s: int = Field(default=3600, ge=1, le=30 * 86_400)
    max_entry_bytes: int = Field(default=256 * 1024, ge=1024, le=16 * 1024 * 1024)

    idempotency_lease_s: float = Field(default=30, ge=0.3, le=300)
    """A replica that dies holds the Idempotency-Keys that it runs no longer than this."""
    idempotency_keep_s: float = Field(default=86_400, ge=1, le=30 * 86_400)
    idempotency_max_answer_bytes: int = Field(default=2 * 1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    """A larger answer is remembered as given, and cannot be given again."""
    idempotency_tenant_bytes: int = Field(default=64 * 1024 * 1024, ge=64 * 1024)
    """Beyond it a tenant's oldest answers are forgotten."""
    idempotency_total_bytes: int = Field(default=256 * 1024 * 1024, ge=64 * 1024)
    """Beyond it no more are kept. At most half of the state store's memory: keys live there as well."""

    max_concurrency: int = Field(default=512, ge=4, le=100_000)
    """Calls that one process has under way to inference; a model's limit adapts below it. Half as many may wait."""
    max_requests: int = Field(default=4096, ge=16, le=1_000_000)
    """Open requests of one process, waiting ones and streams included."""
    max_body_bytes_in_flight: int = Field(default=256 * 1024 * 1024, ge=1024 * 1024)
    max_lag_s: float = Field(default=0.25, ge=0.05, le=60)
    """How late the event loop may be before new work is refused at the door."""
    memory_limit_bytes: int | None = Field(default=None, ge=64 * 1024 * 1024)
    """Of this process; unset: what its control group says, if it says anything."""

    @field_validator("trusted_proxies", "denied_fields", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            ipaddress.ip_network(proxy, strict=False)
        return value
