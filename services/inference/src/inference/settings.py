"""The inference service's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from common.settings import Secret, ServiceSettings
from inference.named_secrets import NamedSecrets


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="INFERENCE_")

    port: int = Field(default=8081, ge=1, le=65_535)
    models_file: Path | None = None
    """The catalogue, a YAML file; then the upstream of the two settings below is not used."""
    models_poll_s: float = Field(default=1, gt=0, le=60)
    secrets_dir: Path | None = None
    """Where the catalogue's secrets are, one file each, by name; one that is not there is an environment variable."""
    upstream_base_url: str | None = Field(default=None, pattern=r"^https?://")
    """Without a catalogue: the OpenAI-compatible API that gets every model name, its `/v1` included."""
    upstream_api_key: SecretStr | None = Field(default=None, min_length=1)
    hop_secret: Secret
    hop_secret_previous: Secret | None = None

    connect_timeout_s: float = Field(default=3, gt=0, le=60)
    """This one and the next two: of the upstream without a catalogue; the catalogue's targets have their own."""
    first_event_timeout_s: float = Field(default=60, gt=0, le=3600)
    """Of a stream; a plain answer's first byte is its whole, so there the request's deadline alone counts."""
    event_gap_timeout_s: float = Field(default=30, gt=0, le=3600)
    max_attempts: int = Field(default=3, ge=1, le=3)
    max_answer_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    retry_budget: float = Field(default=100, ge=0, le=1_000_000)
    """Of each target: a retry costs 10 (20 after a timeout), a success earns 1."""
    throttle_ratio: float = Field(default=2, ge=1.1, le=1_000_000)
    """A target gets so many times what it accepted in the last 120 s; a very large one never throttles."""
    min_concurrency: int = Field(default=4, ge=1, le=10_000)
    """Calls in flight that a target is always granted, however much it refuses."""

    capture_content: bool = False
    """The messages of chats are attributes of their spans, for those keys that say so as well."""
    capture_max_bytes: int = Field(default=16_384, ge=256, le=1_048_576)
    """Of what was asked, and again of what was answered; the newest of it."""

    max_lag_s: float = Field(default=0.25, ge=0.05, le=60)
    """How late the event loop may be before new work is refused at the door."""

    @model_validator(mode="after")
    def _has_somebody_to_ask(self) -> Self:
        if self.models_file is None and (self.upstream_base_url is None or self.upstream_api_key is None):
            raise ValueError(
                "INFERENCE_MODELS_FILE, or INFERENCE_UPSTREAM_BASE_URL and INFERENCE_UPSTREAM_API_KEY, has to be set"
            )
        return self

    def named_secrets(self) -> NamedSecrets:
        return NamedSecrets(os.environ, self.secrets_dir)
