"""The gateway's settings: every knob with its unit, bounds and default."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from common.settings import Secret, ServiceSettings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="GATEWAY_")

    port: int = Field(default=8080, ge=1, le=65_535)
    inference_url: str = Field(default="http://127.0.0.1:8081", pattern=r"^https?://")
    cache_url: str = Field(default="http://127.0.0.1:8082", pattern=r"^https?://")
    state_url: SecretStr
    """The *state* store: key records. Secret, because a store's URL may carry its password."""

    key_pepper: Secret
    """Keys are stored as HMACs under it; losing it invalidates every key."""
    key_pepper_previous: Secret | None = None
    admin_key: Secret | None = None
    """Opens `/admin`; without it `/admin` does not exist. It is no API key: it cannot call a model."""
    seal_secret: Secret
    """Cached answers are fingerprinted and sealed under keys derived from it."""
    cache_hop_secret: Secret
    inference_hop_secret: Secret

    jobs_url: str = Field(default="http://127.0.0.1:8083", pattern=r"^https?://")
    jobs_hop_secret: Secret | None = None
    """Signs calls to the jobs service; without it there are no jobs."""
    hop_secret: Secret | None = None
    """Checks the tokens with which workers replay jobs; without it they are refused."""
    hop_secret_previous: Secret | None = None

    default_model: str | None = Field(default=None, min_length=1, max_length=256)
    """The model of a `/generate` that names none; without it such a request is refused."""
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
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
    entry_ttl_s: int = Field(default=3600, ge=1, le=30 * 86_400)
    max_entry_bytes: int = Field(default=256 * 1024, ge=1024, le=16 * 1024 * 1024)
