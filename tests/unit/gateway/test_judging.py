from __future__ import annotations

import pytest

from common.errors import InvalidRequest
from gateway.call import CHAT, EMBEDDINGS
from gateway.idempotency.keyed_requests import key_in
from gateway.jobs.submissions import prefers_async
from gateway.judging import GENERATE, NOT_ONE_TEXT, judge
from support.bad_input import CHAT as GOOD


@pytest.mark.parametrize(
    ("prefer", "wanted"),
    [
        (None, False), ("", False), ("wait=10", False), ("respond-asynchronously", False), ("x=respond-async", False),
        ("respond-async", True), ("Respond-Async", True), ("wait=10, respond-async", True), ("respond-async;a=b", True),
    ],
)  # fmt: skip
def test_a_preference_is_read_as_rfc_7240_writes_it(prefer: str | None, wanted: bool) -> None:
    assert prefers_async({} if prefer is None else {"prefer": prefer}) is wanted


def test_a_body_becomes_the_call_that_its_route_would_make() -> None:
    assert judge(CHAT, {**GOOD, "stream": True, "n": 2}, default_model=None).choices == 2
    assert judge(EMBEDDINGS, {"model": "m", "input": "x"}, default_model=None).endpoint == EMBEDDINGS
    generated = judge(GENERATE, {"prompt": "x", "seed": 1}, default_model="m")
    assert (generated.endpoint, generated.is_stream) == (CHAT, False)
    assert generated.body == {"seed": 1, "model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [(CHAT, {"model": "m"}), (EMBEDDINGS, {"model": "m"}), (GENERATE, {"prompt": "x"}), (GENERATE, {"prompt": ""})],
)
def test_a_body_that_its_route_refuses_is_refused(endpoint: str, body: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        judge(endpoint, body, default_model=None)


def test_a_key_of_visible_ascii_goes_on_and_any_other_does_not() -> None:
    assert key_in({}) is None
    assert key_in({"idempotency-key": "a" * 255}) == "a" * 255
    for key in ("", "a" * 256, "a b", "ä", "a\x7f"):
        with pytest.raises(InvalidRequest):
            key_in({"idempotency-key": key})


@pytest.mark.parametrize("name", NOT_ONE_TEXT)
def test_what_has_no_place_in_one_text_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        judge(GENERATE, {"prompt": "x", name: ["y"]}, default_model="m")
    assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("n", [0, 2, "1", True, 1.0])
def test_a_prompt_has_one_answer(n: object) -> None:
    with pytest.raises(InvalidRequest) as refused:
        judge(GENERATE, {"prompt": "x", "n": n}, default_model="m")
    assert refused.value.param == "n"


def test_what_asks_for_nothing_more_than_one_text_is_taken() -> None:
    plain = {"n": 1, "stream": False, "tools": None, "logprobs": False, "max_tokens": 5, "stop": "x", "unknown": 1}
    assert judge(GENERATE, {"prompt": "x", **plain}, default_model="m").body["max_tokens"] == 5
