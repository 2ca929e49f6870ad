"""The admin API of one gateway, as commands ask it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from common.settings import SECRETS_DIR

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 15
"""A purge of the cache takes up to 5 s a call, and a gateway grants the cache 10 s."""
_PAGE = 1_000
_OWN_KEY = "GATEWAY_ADMIN_KEY"
_DEFAULT_PORT = 8080
"""Of the gateway's settings."""


class CommandError(Exception):
    """An expected failure; its message is what the user reads."""


class AdminApi:
    """A refusal is a `CommandError` with the gateway's own words."""

    def __init__(self, base_url: str, admin_key: str) -> None:
        self._base_url = base_url
        self._headers = {"authorization": f"Bearer {admin_key}"}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> AdminApi:
        """The gateway that is named, else, where its settings are ours, the one beside us: in its container."""
        url, key, own_key = environ.get("SPILLWAY_URL"), environ.get("SPILLWAY_ADMIN_KEY"), _own_key(environ)
        key = key or own_key
        if own_key and not url:
            url = f"http://127.0.0.1:{environ.get('GATEWAY_PORT') or _DEFAULT_PORT}"
        found = {"SPILLWAY_URL": url, "SPILLWAY_ADMIN_KEY": key}
        if not url or not key:
            missing = " and ".join(name for name, value in found.items() if not value)
            raise CommandError(f"{missing} not set (./justw up writes both to .local/dev.env)")
        return cls(url, key)

    def ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            with httpx2.Client(
                base_url=self._base_url, headers=self._headers, timeout=TIMEOUT_S, trust_env=False
            ) as client:
                answer = client.request(method, f"/admin/{path}", **request)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise CommandError(f"{self._base_url} does not answer: {type(error).__name__}") from None
        if answer.is_error:
            raise CommandError(f"{answer.status_code}: {_words(answer)}")
        try:
            found: dict[str, Any] = answer.json() if answer.content else {}
        except ValueError:
            raise CommandError(f"what answers at {self._base_url} is no gateway") from None
        return found

    def pages(self, path: str, **params: Any) -> list[dict[str, Any]]:
        """All of a list, page by page."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.ask("GET", path, params={**params, "after": after, "limit": _PAGE})
            found += page["data"]
            if not page["next_after"]:
                return found
            after = page["next_after"]


def _words(answer: httpx2.Response) -> str:
    try:
        error = answer.json()["error"]
        message, param = str(error["message"]), error["param"]
    except (ValueError, LookupError, TypeError):
        return "no error of a gateway's"
    return message if param is None or param in message else f"{message} ({param})"


def _own_key(environ: Mapping[str, str]) -> str | None:
    """The gateway's own secret, a variable or a file."""
    if key := environ.get(_OWN_KEY):
        return key
    file = Path(environ.get(SECRETS_DIR) or os.devnull) / _OWN_KEY
    return file.read_text("utf-8").strip() if file.is_file() else None
