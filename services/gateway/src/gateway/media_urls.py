"""Addresses in messages (images, audio, video) that an upstream would fetch: never one of its own network.

Nothing is resolved or fetched here, so a name that later turns out to point inwards costs no packet of ours; what an
upstream may reach by name is for its own network to bound. Refused is what says by itself that it is not public:
another scheme than http, https and data, and a host that is a private, loopback or link-local address in any spelling,
a single word, or a name of a local zone.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

_SCHEMES = frozenset({"http", "https"})
_LOCAL_ZONES = (".localhost", ".local", ".internal", ".localdomain", ".home.arpa", ".svc")
_DATA = "data:"
_UNSAFE = re.compile(r"[^\x21-\x7e]|\\")
"""Blanks, controls, backslashes, and letters that IDNA may turn into digits: parsers disagree about them."""


def check_media_urls(messages: Iterable[Any]) -> None:
    """Raises `InvalidRequest` naming the place of the first address that is not public."""
    for number, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, list):
            for place, part in enumerate(content):
                if isinstance(part, dict):
                    _check_part(part, f"messages[{number}].content[{place}]")


def _check_part(part: dict[str, Any], where: str) -> None:
    for name, value in part.items():
        if name == "url" or name.endswith("_url"):
            url = value.get("url") if isinstance(value, dict) else value
            if not isinstance(url, str) or not is_public(url):
                # The names of parts are a client's: only the one that everybody uses is repeated.
                param = f"{where}.{name}" if name == "image_url" else where
                raise InvalidRequest("The URL is not one of a public host.", param=param, code="invalid_value")
        elif isinstance(value, dict):  # such as `{"type": "file", "file": {"url": …}}`
            _check_part(value, where)


def is_public(url: str) -> bool:
    """Whether an upstream may be told to fetch it; a `data:` URL is content and not fetched."""
    if url[: len(_DATA)].lower() == _DATA:
        return True
    if _UNSAFE.search(url):
        return False
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        _ = parts.port
    except ValueError:
        return False
    if parts.scheme not in _SCHEMES or not host or "%" in host:
        return False
    address = _address(host)
    if address is not None:
        return _is_global(address)
    return "." in host and not host.endswith(_LOCAL_ZONES)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is, in any of the spellings that resolvers take: `127.1`, `0x7f000001`, `2130706433`."""
    try:
        return ipaddress.IPv6Address(host) if ":" in host else ipaddress.IPv4Address(socket.inet_aton(host))
    except (ValueError, OSError):
        return None


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        for inner in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
            if inner is not None and not _is_global(inner):
                return False
        if address in _NAT64:
            return _is_global(ipaddress.IPv4Address(address.packed[-4:]))
    return address.is_global and not address.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
