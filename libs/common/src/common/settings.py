"""The part of its settings that every service has, and how a bad one is reported."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Secret = Annotated[SecretStr, Field(min_length=16)]
HopSecret = Annotated[SecretStr, Field(min_length=32)]
"""HS256 wants a key of at least the hash's size. Source: RFC 7518, 3.2."""
_STORE_SCHEMES = ("redis://", "rediss://", "unix://")


def _is_one_endpoint(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(_STORE_SCHEMES):
        raise ValueError(f"must begin with {', '.join(_STORE_SCHEMES)}: one endpoint, no list of Sentinels or shards")
    return url


StoreUrl = Annotated[SecretStr, AfterValidator(_is_one_endpoint)]
"""Of a Valkey or Redis. Secret, because it may carry a password."""


class ServiceSettings(BaseSettings):
    """Settings from the environment, prefixed with the service's name; built once in `create_app` and passed down."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65_535)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_delay_s: float = Field(default=10, ge=0, le=120)
    """After SIGTERM: how long the listener stays open, not ready, until the endpoint has been removed everywhere."""
    drain_timeout_s: float = Field(default=30, ge=0, le=3600)
    """Then: how long open requests may go on."""
    flush_timeout_s: float = Field(default=3, ge=0, le=30)
    """Then: how long telemetry may take to leave."""
    termination_grace_s: float = Field(default=60, ge=1, le=7200)
    """What the platform grants between SIGTERM and SIGKILL; the three above have to fit."""

    @model_validator(mode="after")
    def _stages_of_a_stop_nest(self) -> Self:
        stop_s = self.drain_delay_s + self.drain_timeout_s + self.flush_timeout_s
        if stop_s >= self.termination_grace_s:
            prefix = self.model_config.get("env_prefix", "")
            msg = (
                f"{prefix}DRAIN_DELAY_S + {prefix}DRAIN_TIMEOUT_S + {prefix}FLUSH_TIMEOUT_S ({stop_s:g} s) "
                f"must be less than {prefix}TERMINATION_GRACE_S ({self.termination_grace_s:g} s)"
            )
            raise ValueError(msg)
        return self


class BadSettingsError(Exception):
    """The environment does not hold what the service needs; the message is one line that names the variables."""


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def load(settings: type[SettingsT]) -> SettingsT:
    """Read settings from the environment, or raise `BadSettingsError`; values are not repeated: they may be secrets."""
    prefix = settings.model_config.get("env_prefix", "")
    try:
        return settings()
    except ValidationError as error:
        problems = [
            f"{prefix}{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            if problem["loc"]
            else problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise BadSettingsError("; ".join(problems)) from None


def revealed(*secrets: SecretStr | None) -> list[str]:
    """The values of those secrets that are set: the one in use, and the one before it while it is being rotated."""
    return [secret.get_secret_value() for secret in secrets if secret is not None]
