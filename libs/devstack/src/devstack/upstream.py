"""Which model endpoint the stack asks: the simulator, unless the environment names another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devstack.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENAI_URL = "https://api.openai.com/v1"
OWN_KEY_PREFIX = "sw_"
_NO_KEY = "none"
_SIMULATOR_MODEL = "sim-small"
_OPENAI_MODEL = "gpt-4o-mini"
_CHECK_TIMEOUT_S = 3
_REFUSED = (401, 403)


@dataclass(frozen=True)
class Upstream:
    base_url: str
    api_key: str
    default_model: str | None
    """Answers a request that names none; None when nobody knows one."""
    is_simulator: bool = False

    def __repr__(self) -> str:
        return f"Upstream({self.base_url!r})"


def choose(environ: Mapping[str, str], *, simulator_url: str, gateway_url: str) -> Upstream:
    """Read the upstream from the environment, the simulator if it names none.

    `UPSTREAM_BASE_URL` and `UPSTREAM_API_KEY` come first. `OPENAI_API_KEY` counts with its `OPENAI_BASE_URL`, unless it
    is one of our own: whoever sourced `.local/dev.env` talks to this stack, which must not become its own upstream.
    """
    base_url = environ.get("UPSTREAM_BASE_URL")
    api_key = environ.get("UPSTREAM_API_KEY")
    openai_key = environ.get("OPENAI_API_KEY")
    if not base_url and not api_key and openai_key and not openai_key.startswith(OWN_KEY_PREFIX):
        api_key = openai_key
        base_url = environ.get("OPENAI_BASE_URL")
        if base_url and base_url.startswith(gateway_url):
            base_url = None
    if not base_url and not api_key:
        return Upstream(f"{simulator_url}/v1", _NO_KEY, _SIMULATOR_MODEL, is_simulator=True)
    base_url = (base_url or OPENAI_URL).rstrip("/")
    return Upstream(base_url, api_key or _NO_KEY, _OPENAI_MODEL if base_url == OPENAI_URL else None)


def check(upstream: Upstream) -> Upstream:
    """Ask a real upstream for its models, and take the first as the default where there is none.

    Raises `CommandError` when it cannot be reached or refuses the key. Another error status passes: not every endpoint
    lists its models.
    """
    from devstack import local_http  # noqa: PLC0415  # with the simulator, `up` needs no HTTP client

    try:
        answer = local_http.request(
            f"{upstream.base_url}/models",
            headers={"authorization": f"Bearer {upstream.api_key}"},
            timeout_s=_CHECK_TIMEOUT_S,
        )
    except local_http.UnreachableError as error:
        raise CommandError(f"the upstream {upstream.base_url} cannot be reached: {error}") from error
    if answer.status in _REFUSED:
        raise CommandError(
            f"the upstream {upstream.base_url} refuses the key (status {answer.status}); "
            "check UPSTREAM_API_KEY or OPENAI_API_KEY"
        )
    if upstream.default_model:
        return upstream
    try:
        model = _first_model(answer.json())
    except ValueError:
        model = None
    return Upstream(upstream.base_url, upstream.api_key, model)


def _first_model(body: Any) -> str | None:
    models = body.get("data") if isinstance(body, dict) else None
    first = models[0] if isinstance(models, list) and models else None
    name = first.get("id") if isinstance(first, dict) else None
    return name if isinstance(name, str) and name else None
