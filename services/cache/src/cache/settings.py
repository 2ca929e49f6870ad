"""The cache service's settings."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.settings import HopSecret, ServiceSettings, StoreUrl


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CACHE_")

    port: int = Field(default=8082, ge=1, le=65_535)
    store_url: StoreUrl
    """The *cache* store, which may forget anything at any time."""
    hop_secret: HopSecret
    hop_secret_previous: HopSecret | None = None
    max_entry_bytes: int = Field(default=512 * 1024, ge=1024, le=32 * 1024 * 1024)
    """Of a sealed entry; the gateway decides what is worth keeping, this only bounds it."""
    max_batch_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    """Of several entries in one call: those of one request for embeddings."""
    max_ttl_s: int = Field(default=30 * 86_400, ge=1)
