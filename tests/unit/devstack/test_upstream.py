from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from devstack import ports, upstream
from devstack.errors import CommandError
from devstack.upstream import Upstream
from support.server import running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIMULATOR, GATEWAY = "http://127.0.0.1:8090", "http://127.0.0.1:8080"


def choose(**environ: str) -> Upstream:
    return upstream.choose(environ, simulator_url=SIMULATOR, gateway_url=GATEWAY)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OPENAI_API_KEY": "", "UPSTREAM_API_KEY": "", "UPSTREAM_BASE_URL": ""},
        {"OPENAI_API_KEY": "sw_dev_0123", "OPENAI_BASE_URL": f"{GATEWAY}/v1"},
    ],
    ids=["nothing set", "set to nothing", "our own dev.env was sourced"],
)
def test_without_a_real_upstream_it_is_the_simulator(environ: dict[str, str]) -> None:
    chosen = choose(**environ)

    assert chosen.is_simulator
    assert (chosen.base_url, chosen.default_model) == (f"{SIMULATOR}/v1", "sim-small")


@pytest.mark.parametrize(
    ("environ", "base_url", "api_key", "model"),
    [
        ({"OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1", "sk-1", "gpt-4o-mini"),
        ({"UPSTREAM_API_KEY": "sk-2", "OPENAI_API_KEY": "sk-1"}, "https://api.openai.com/v1", "sk-2", "gpt-4o-mini"),
        ({"UPSTREAM_BASE_URL": "http://gpu:8000/v1/"}, "http://gpu:8000/v1", "none", None),
        ({"UPSTREAM_BASE_URL": "http://gpu:8000/v1", "OPENAI_API_KEY": "sk-1"}, "http://gpu:8000/v1", "none", None),
        ({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://gpu:8000/v1"}, "http://gpu:8000/v1", "k", None),
        (
            {"OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": f"{GATEWAY}/v1"},
            "https://api.openai.com/v1",
            "sk-1",
            "gpt-4o-mini",
        ),
    ],
    ids=[
        "OpenAI's own key",
        "ours come first",
        "a server without keys",
        "a key never goes to a server that it was not given for",
        "a key and the server that it is for",
        "a real key beside our base URL does not make the stack its own upstream",
    ],
)
def test_the_environment_names_a_real_upstream(
    environ: dict[str, str], base_url: str, api_key: str, model: str | None
) -> None:
    assert choose(**environ) == Upstream(base_url, api_key, model)


def test_the_key_is_not_in_its_representation() -> None:
    assert "sk-1" not in repr(choose(OPENAI_API_KEY="sk-1"))


def answering(status: int, body: Any) -> Callable[..., Awaitable[None]]:
    async def app(scope: dict[str, Any], _: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        found = scope["path"] == "/v1/models" and dict(scope["headers"])[b"authorization"] == b"Bearer k"
        await send({"type": "http.response.start", "status": status if found else 500, "headers": []})
        await send({"type": "http.response.body", "body": body if isinstance(body, bytes) else orjson.dumps(body)})

    return app


@pytest.mark.parametrize(
    ("status", "body", "model"),
    [
        (200, {"data": [{"id": "llama"}, {"id": "qwen"}]}, "llama"),
        (200, {"data": []}, None),
        (200, {"data": [{"name": "no id"}]}, None),
        (200, ["neither"], None),
        (200, b"no JSON", None),
        (404, {"detail": "Not Found"}, None),
    ],
)
def test_a_real_upstreams_first_model_answers_requests_that_name_none(
    status: int, body: Any, model: str | None
) -> None:
    with running(answering(status, body), lifespan="off") as url:
        assert upstream.check(Upstream(f"{url}/v1", "k", None)).default_model == model


def test_a_default_model_that_is_known_stays() -> None:
    with running(answering(200, {"data": [{"id": "llama"}]}), lifespan="off") as url:
        assert upstream.check(Upstream(f"{url}/v1", "k", "mine")).default_model == "mine"


@pytest.mark.parametrize("status", [401, 403])
def test_an_upstream_that_refuses_the_key_is_one_clear_line(status: int) -> None:
    with (
        running(answering(status, {}), lifespan="off") as url,
        pytest.raises(CommandError, match=rf"refuses the key \(status {status}\)"),
    ):
        upstream.check(Upstream(f"{url}/v1", "k", None))


@pytest.mark.parametrize("base_url", [f"http://127.0.0.1:{ports.find_free()}/v1", "no url", "ftp://127.0.0.1:1/v1"])
def test_an_upstream_that_cannot_be_reached_is_one_clear_line(base_url: str) -> None:
    with pytest.raises(CommandError, match="cannot be reached") as raised:
        upstream.check(Upstream(base_url, "k", None))

    assert "\n" not in str(raised.value)
