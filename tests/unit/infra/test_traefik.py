"""What Traefik lets in is the public API and no more, and it does nothing that breaks a stream or repeats a request.

Without a Traefik: its rule is evaluated here. `tests/integration/test_edge.py` asks a real one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from common.guard.head import MAX_HEAD_BYTES
from support import compose

if TYPE_CHECKING:
    from collections.abc import Callable

STATIC: Any = yaml.safe_load((compose.FOLDER / "traefik" / "traefik.yaml").read_text())
DYNAMIC: Any = yaml.safe_load((compose.FOLDER / "traefik" / "dynamic" / "gateway.yaml").read_text())
RULE: str = DYNAMIC["http"]["routers"]["api"]["rule"]
PATHS: Any = json.loads((compose.ROOT / "docs" / "openapi" / "gateway.json").read_text())["paths"]
OPERATIONS = [(method.upper(), path) for path, operations in PATHS.items() for method in operations]
PUBLIC = re.compile(r"/v1/|/generate$|/health$")
_MATCHER = re.compile(r"(\w+)\(([^()]*)\)")


def is_let_in(method: str, path: str, **headers: str) -> bool:
    """Traefik's rule for a request, its matchers replaced by what they say of it."""

    def says(match: re.Match[str]) -> str:
        name, arguments = match.group(1), re.findall(r"`([^`]*)`", match.group(2))
        answers: dict[str, Callable[[], bool]] = {
            "Method": lambda: method == arguments[0],
            "Path": lambda: path == arguments[0],
            "PathPrefix": lambda: path.startswith(arguments[0]),
            "HeaderRegexp": lambda: bool(re.search(arguments[1], headers.get(arguments[0].lower(), ""))),
        }
        return str(answers[name]())

    words = _MATCHER.sub(says, RULE).replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    assert re.fullmatch(r"(True|False|and|or|not|[() \n])+", words), words
    return bool(eval(words))  # noqa: S307  # of the words above alone


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_public_api_is_let_in_and_nothing_else_of_the_gateway(method: str, path: str) -> None:
    assert is_let_in(method, re.sub(r"\{\w+\}", "one", path)) == bool(PUBLIC.match(path))


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT"])
def test_methods_that_the_public_api_has_not_are_let_in_nowhere(method: str) -> None:
    assert not any(is_let_in(method, path) for path in PATHS)


def test_an_upgrade_is_not_let_in() -> None:
    assert is_let_in("GET", "/v1/models")
    assert not is_let_in("GET", "/v1/models", upgrade="websocket")


def test_no_other_router_leads_anywhere() -> None:
    routers = DYNAMIC["http"]["routers"]
    assert routers["api"]["entryPoints"] == ["websecure"]
    assert routers["api"]["service"] == "gateway"
    assert {name: router["service"] for name, router in routers.items() if name != "api"} == {
        "to-https": "noop@internal"
    }
    assert routers["to-https"]["entryPoints"] == ["web"]
    assert set(DYNAMIC["http"]["services"]) == {"gateway"}
    (servers,) = (service["loadBalancer"]["servers"] for service in DYNAMIC["http"]["services"].values())
    gateways = [name for name in compose.load()["services"] if name.startswith("gateway")]
    assert [server["url"] for server in servers] == [f"http://{name}:8080" for name in gateways]


def test_the_api_passes_no_middleware() -> None:
    assert "middlewares" not in DYNAMIC["http"]["routers"]["api"]
    assert not any("middlewares" in point.get("http", {}) for point in STATIC["entryPoints"].values())
    assert set(DYNAMIC["http"]["middlewares"]) == {"to-https"}


def test_what_traefik_could_do_beyond_that_is_off() -> None:
    assert set(STATIC) == {
        "global", "log", "entryPoints", "providers", "serversTransport", "ping", "metrics", "tracing",
    }  # fmt: skip  # no api: no dashboard; no experimental: no fastProxy
    assert set(STATIC["providers"]) == {"file"}
    assert STATIC["global"] == {"checkNewVersion": False, "sendAnonymousUsage": False}
    assert not any("http3" in point or "forwardedHeaders" in point for point in STATIC["entryPoints"].values())
    assert STATIC["ping"]["entryPoint"] == STATIC["metrics"]["prometheus"]["entryPoint"] == "metrics"


def test_tls_is_1_2_or_newer_and_a_head_as_large_as_the_gateway_takes() -> None:
    assert DYNAMIC["tls"]["options"]["default"]["minVersion"] == "VersionTLS12"
    for name in ("web", "websecure"):
        assert STATIC["entryPoints"][name]["http"]["maxHeaderBytes"] == MAX_HEAD_BYTES


def test_the_published_ports_are_those_where_it_listens() -> None:
    published = [port.split(":")[1] for port in compose.load()["services"]["traefik"]["ports"]]
    assert [STATIC["entryPoints"][name]["address"] for name in ("websecure", "web")] == [
        f":{port}" for port in published
    ]
    plain = DYNAMIC["http"]["middlewares"]["to-https"]["redirectScheme"]
    assert plain == {"scheme": "https", "permanent": True, "port": '{{ env "EDGE_HTTPS_PORT" }}'}
