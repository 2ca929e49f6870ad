"""The inference service's settings."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from common.settings import HopSecret, ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    port: int = Field(default=8081, ge=1, le=65_535)
    upstream_base_url: str = Field(pattern=r"^https?://")
    """The OpenAI-compatible API, its `/v1` included."""
    upstream_api_key: SecretStr = Field(min_length=1)
    hop_secret: HopSecret
    hop_secret_previous: HopSecret | None = None

    connect_timeout_s: float = Field(default=3, gt=0, le=60)
    first_event_timeout_s: float = Field(default=60, gt=0, le=3600)
    """Of a stream; a plain answer's first byte is its whole, so there the request's deadline alone counts."""
    event_gap_timeout_s: float = Field(default=30, gt=0, le=3600)
    max_attempts: int = Field(default=3, ge=1, le=3)
    max_answer_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    max_lag_s: float = Field(default=0.25, ge=0.05, le=60)
    """How late the event loop may be before new work is refused at the door."""
