"""The part of its settings that every service has, and how a bad one is reported."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

Secret = Annotated[SecretStr, Field(min_length=16)]
HopSecret = Annotated[SecretStr, Field(min_length=32)]
"""HS256 wants a key of at least the hash's size. Source: RFC 7518, 3.2."""
SECRETS_DIR = "SPILLWAY_SECRETS_DIR"
MAX_SECRET_BYTES = 64 * 1024
"""Of one file: more is no secret but a file in the wrong place."""


def _with_scheme(value: object) -> object:
    return f"http://{value}" if isinstance(value, str) and _HOST_AND_PORT.fullmatch(value) else value


_HOST_AND_PORT = re.compile(r"[A-Za-z0-9.-]+:[0-9]+")
BaseUrl = Annotated[str, BeforeValidator(_with_scheme), Field(pattern=r"^https?://")]
"""Of a service of ours. A bare `host:port`, which is all that some platforms know of a private service, is `http`."""

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
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=0, ge=0, le=65_535)
    """Where Prometheus reads metrics; 0: nowhere."""
    drain_delay_s: float = Field(default=10, ge=0, le=120)
    """After SIGTERM: how long the listener stays open, not ready, until the endpoint has been removed everywhere."""
    drain_timeout_s: float = Field(default=30, ge=0, le=3600)
    """Then: how long open requests may go on."""
    flush_timeout_s: float = Field(default=3, ge=0, le=30)
    """Then: how long telemetry may take to leave."""
    termination_grace_s: float = Field(default=60, ge=1, le=7200)
    """What the platform grants between SIGTERM and SIGKILL; the three above have to fit."""

    @property
    def flush_share_s(self) -> float:
        """Spans leave first and metrics after them: each has half of the time."""
        return self.flush_timeout_s / 2

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
    """Read settings from the environment, or raise `BadSettingsError`; values are not repeated: they may be secrets.

    What the environment does not set may be a file of the variable's name in `SPILLWAY_SECRETS_DIR`, as Docker and
    Kubernetes mount secrets; white space around its text does not count.
    """
    prefix = settings.model_config.get("env_prefix", "")
    directory = _secrets_dir()
    try:
        return settings(_secrets_dir=directory)
    except SettingsError as error:  # a file that cannot be read; it names the field, not what was read
        raise BadSettingsError(f"{SECRETS_DIR}: {error}") from None
    except ValidationError as error:
        problems = [
            f"{prefix}{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            if problem["loc"]
            else problem["msg"].removeprefix("Value error, ")
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise BadSettingsError("; ".join(problems)) from None


def _secrets_dir() -> Path | None:
    """None without one: a directory that is not there holds no secret, and what is missing is named as ever."""
    directory = Path(os.environ.get(SECRETS_DIR) or os.devnull)
    if not directory.is_dir():
        return None
    for file in directory.iterdir():
        if file.is_file() and file.stat().st_size > MAX_SECRET_BYTES:
            raise BadSettingsError(f"{SECRETS_DIR}: {file.name} has more than {MAX_SECRET_BYTES} bytes")
    return directory


def revealed(*secrets: SecretStr | None) -> list[str]:
    """The values of those secrets that are set: the one in use, and the one before it while it is being rotated."""
    return [secret.get_secret_value() for secret in secrets if secret is not None]
