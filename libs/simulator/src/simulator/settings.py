"""The simulator's settings: where it listens, what it serves, and how it behaves when no directive says otherwise."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from simulator.directive import Behaviour

PREFIX = "SIMULATOR_"


class SimulatorSettings(BaseSettings, Behaviour):
    """Read from `SIMULATOR_*`. The keys of `Behaviour` are settings as well: `SIMULATOR_TTFT_MS=300`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int = Field(default=8090, ge=0, le=65_535)
    """0 takes a free one; the line printed at start names it."""
    api_key: SecretStr | None = None
    """When set, `/v1` wants `Authorization: Bearer <it>`."""
    models: Annotated[tuple[str, ...], NoDecode, Field(min_length=1, max_length=1_000)] = (
        "sim-small",
        "sim-large",
        "sim-embed",
    )
    """Names, separated by commas. Every model chats and embeds."""
    dimensions: int = Field(default=256, ge=1, le=4_096)
    """Length of an embedding whose request does not say."""
    max_body_bytes: int = Field(default=32 * 2**20, ge=1_024, le=2**30)
    max_attempts_logged: int = Field(default=10_000, ge=1, le=1_000_000)
    """The log at `/_sim/requests` forgets its oldest attempts beyond this."""

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    def behaviour(self) -> Behaviour:
        return Behaviour.model_validate(self.model_dump(include=set(Behaviour.model_fields)))


class BadSettingsError(Exception):
    """The environment does not hold what the simulator needs; the message is one line that names the variables."""


def load() -> SimulatorSettings:
    """Read the environment, or raise `BadSettingsError`. Values are not repeated: one of them is a secret."""
    try:
        return SimulatorSettings()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise BadSettingsError(
            "; ".join(f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}" for problem in problems)
        ) from None
