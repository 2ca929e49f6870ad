"""The settings of the jobs service: of its API (`JOBS_…`) and of its worker (`WORKER_…`)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from common.settings import BaseUrl, Secret, ServiceSettings, StoreUrl

HEARTBEATS_MISSED = 0.8
"""The part of a lease without a heartbeat after which a worker stops a job itself: before anybody else starts it."""


class QueueSettings(ServiceSettings):
    """What both processes need to know of the queue; set both ends alike."""

    state_url: StoreUrl
    """The *state* store, which never loses what it acknowledged. Secret, because it may carry a password."""
    seal_secret: Secret
    """Requests, results and chunks lie sealed in the store, under keys derived from it."""
    seal_secret_previous: Secret | None = None
    max_bytes: int = Field(default=128 * 1024 * 1024, ge=1024 * 1024)
    """What all records together may take; half of the store's `maxmemory` if that is less."""
    reap_interval_s: float = Field(default=1, ge=0.05, le=60)
    """How often leases, delays, deadlines and old records are looked after."""


class Settings(QueueSettings):
    model_config = SettingsConfigDict(env_prefix="JOBS_")

    port: int = Field(default=8083, ge=1, le=65_535)
    hop_secret: Secret
    hop_secret_previous: Secret | None = None

    max_open_per_tenant: int = Field(default=1_000, ge=1, le=1_000_000)
    max_open: int = Field(default=10_000, ge=1, le=10_000_000)
    max_request_bytes: int = Field(default=256 * 1024, ge=1024, le=16 * 1024 * 1024)
    max_attempts: int = Field(default=3, ge=1, le=10)
    """How often a job is started, attempts that were given back not counted."""
    default_deadline_s: float = Field(default=3600, gt=0, le=86_400)
    max_deadline_s: float = Field(default=3600, gt=0, le=86_400)
    keep_s: int = Field(default=86_400, ge=1, le=30 * 86_400)
    """How long a final record is shown; then it is 410."""
    max_wait_s: float = Field(default=30, ge=0, le=300)
    """The longest `?wait=`."""
    watch_interval_s: float = Field(default=0.1, ge=0.01, le=5)
    """How often the jobs that somebody follows are looked at, all of them in one call."""


class WorkerSettings(QueueSettings):
    model_config = SettingsConfigDict(env_prefix="WORKER_")

    port: int = Field(default=8084, ge=1, le=65_535)
    """For its health routes."""
    drain_delay_s: float = Field(default=0, ge=0, le=120)
    """Nobody sends it requests: it stops claiming and gives its jobs back at once."""
    drain_timeout_s: float = Field(default=5, ge=0, le=3600)
    gateway_url: BaseUrl = "http://127.0.0.1:8080"
    gateway_hop_secret: Secret
    """Signs the replayed requests."""
    concurrency: int = Field(default=16, ge=1, le=1_000)
    """Jobs at a time."""
    lease_s: float = Field(default=15, ge=0.5, le=600)
    heartbeat_s: float = Field(default=5, ge=0.1, le=200)
    attempt_timeout_s: float = Field(default=600, ge=1, le=3600)
    """Of one attempt; the rest of the job's deadline if that is less."""
    max_result_bytes: int = Field(default=1024 * 1024, ge=1024, le=32 * 1024 * 1024)
    retry_base_s: float = Field(default=1, ge=0.01, le=60)
    """Full jitter up to this, doubled with each attempt."""
    retry_cap_s: float = Field(default=30, ge=0.01, le=600)
    max_retry_after_s: float = Field(default=300, ge=1, le=3600)
    """A longer `Retry-After` counts as this."""

    @model_validator(mode="after")
    def _a_heartbeat_fits_twice(self) -> Self:
        if self.heartbeat_s * 2 > self.lease_s * HEARTBEATS_MISSED:
            raise ValueError(
                f"WORKER_HEARTBEAT_S ({self.heartbeat_s:g} s) must fit twice into "
                f"{HEARTBEATS_MISSED:.0%} of WORKER_LEASE_S ({self.lease_s:g} s)"
            )
        return self
