"""The gateway's copy of the catalogue is what inference said last, whatever happens afterwards."""

from __future__ import annotations

from typing import Any

import httpx2
import orjson
import pytest

from common.identity import HopSigner
from gateway.catalogue import UNKNOWN_MODEL, ModelCatalogue

PRICE = {"input_usd": 1.0, "output_usd": 2.0}
FIRST = {"revision": "r1", "models": {"m": {"price": PRICE, "max_output_tokens": 100}}}


class Inference:
    """Answers what it is told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer = httpx2.Response(200, content=orjson.dumps(FIRST), headers={"etag": '"r1"'})
        self.error: Exception | None = None
        self.asked: list[httpx2.Request] = []
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._serve), base_url="http://inference")
        self.copy = ModelCatalogue(client, HopSigner("a-secret-of-the-tests-0123456789abcdef", "inference"))

    def _serve(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
async def inference() -> Inference:
    one = Inference()
    await one.copy.refresh()
    return one


def test_it_knows_nothing_before_inference_has_answered() -> None:
    copy = ModelCatalogue()
    assert (copy.is_known, copy.revision, copy.price("m"), copy.has("m")) == (False, "", None, False)


async def test_it_knows_prices_and_sizes(inference: Inference) -> None:
    copy = inference.copy
    assert (copy.is_known, copy.revision, copy.price("m"), copy.max_output_tokens("m")) == (True, "r1", PRICE, 100)
    assert (copy.price("other"), copy.has("other")) == (None, False)


async def test_it_says_that_there_is_no_such_model_only_when_it_is_certain(inference: Inference) -> None:
    assert (inference.copy.lacks("other"), inference.copy.lacks("m")) == (True, False)
    assert not ModelCatalogue().lacks("other")  # nothing is known yet
    inference.answer = httpx2.Response(200, content=orjson.dumps({"revision": "any-model", "models": {}}))
    await inference.copy.refresh()
    assert not inference.copy.lacks("other")  # inference passes any name on


async def test_it_asks_with_its_token_and_what_it_has(inference: Inference) -> None:
    inference.answer = httpx2.Response(304)
    await inference.copy.refresh()
    first, second = inference.asked
    assert first.url.path == "/v1/catalogue"
    assert first.headers["authorization"].startswith("Bearer ")
    assert "if-none-match" not in first.headers
    assert second.headers["if-none-match"] == '"r1"'
    assert inference.copy.price("m") == PRICE


async def test_a_newer_one_replaces_it(inference: Inference) -> None:
    newer: dict[str, Any] = {"revision": "r2", "models": {"n": {"price": None, "max_output_tokens": None}}}
    inference.answer = httpx2.Response(200, content=orjson.dumps(newer), headers={"etag": '"r2"'})
    await inference.copy.refresh()
    assert (inference.copy.revision, inference.copy.has("m"), inference.copy.has("n")) == ("r2", False, True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"revision": "r2"}',
        b'{"models": {}}',
        b'{"revision": "r2", "models": []}',
        b'{"revision": "r2", "models": {"m": null}}',
        b'{"revision": "r2", "models": {"m": {"price": 3, "max_output_tokens": 1}}}',
        b'{"revision": "r2", "models": {"m": {"price": {"input_usd": -1, "output_usd": 1}, "max_output_tokens": 1}}}',
        b'{"revision": "r2", "models": {"m": {"price": {"input_usd": "x", "output_usd": 1}, "max_output_tokens": 1}}}',
        b'{"revision": "r2", "models": {"m": {"price": null, "max_output_tokens": "many"}}}',
    ],
)
async def test_garbage_leaves_what_is_known(inference: Inference, body: bytes) -> None:
    inference.answer = httpx2.Response(200, content=body, headers={"etag": '"bad"'})
    await inference.copy.refresh()
    assert (inference.copy.revision, inference.copy.price("m")) == ("r1", PRICE)
    await inference.copy.refresh()
    assert inference.asked[-1].headers["if-none-match"] == '"r1"'


@pytest.mark.parametrize("status", [401, 404, 500, 503])
async def test_an_error_leaves_what_is_known(inference: Inference, status: int) -> None:
    inference.answer = httpx2.Response(status, content=orjson.dumps(FIRST | {"revision": "r2"}))
    await inference.copy.refresh()
    assert inference.copy.revision == "r1"


@pytest.mark.parametrize(
    "error", [httpx2.ConnectError("no"), httpx2.ReadTimeout("no"), httpx2.RemoteProtocolError("no")]
)
async def test_an_inference_that_is_away_leaves_what_is_known(inference: Inference, error: Exception) -> None:
    inference.error = error
    await inference.copy.refresh()
    assert inference.copy.revision == "r1"
    inference.error = None
    inference.answer = httpx2.Response(200, content=orjson.dumps(FIRST | {"revision": "r2"}))
    await inference.copy.refresh()
    assert inference.copy.revision == "r2"


async def test_a_clients_own_words_are_no_name(inference: Inference) -> None:
    assert inference.copy.shown_name("m") == "m"
    assert inference.copy.shown_name("a secret of the client") == UNKNOWN_MODEL
