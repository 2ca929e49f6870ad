"""The log of attempts."""

from __future__ import annotations

from typing import Any

import orjson

from simulator.attempts import AttemptLog, body_hash, prompt_hash

PATH = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "sim-small", "messages": [{"role": "user", "content": "Hello"}]}


def test_secrets_in_headers_are_redacted_and_the_rest_is_kept() -> None:
    secrets = [(name, b"sk-secret") for name in (b"authorization", b"api-key", b"x-api-key", b"cookie")]
    attempt = AttemptLog(10).open(PATH, [*secrets, (b"x-request-id", b"r:1")])
    assert set(attempt.headers) == {"authorization", "api-key", "x-api-key", "cookie", "x-request-id"}
    assert attempt.request_id == attempt.headers["x-request-id"] == "r:1"
    assert b"sk-secret" not in orjson.dumps(attempt.as_dict())


def test_an_attempt_counts_the_tries_of_its_prompt_whatever_the_model() -> None:
    log = AttemptLog(10)
    bodies: list[dict[str, Any]] = [HELLO, HELLO | {"model": "sim-large"}, {"input": "Hello"}, HELLO]
    assert [log.identify(log.open(PATH, []), body) for body in bodies] == [1, 2, 1, 3]


def test_the_log_forgets_its_oldest_attempts() -> None:
    log = AttemptLog(2)
    for _ in range(3):
        log.open(PATH, [])
    assert [attempt.seq for attempt in log.select()] == [2, 3]


def test_attempts_are_found_by_place_model_and_request_id() -> None:
    log = AttemptLog(10)
    for model, request_id in (("a", b"1"), ("b", b"1"), ("a", b"2")):
        log.identify(log.open(PATH, [(b"x-request-id", request_id)]), HELLO | {"model": model})
    assert [attempt.seq for attempt in log.select(after=1)] == [2, 3]
    assert [attempt.seq for attempt in log.select(model="a")] == [1, 3]
    assert [attempt.seq for attempt in log.select(request_id="1", model="b")] == [2]


def test_clearing_starts_the_counts_again_but_not_the_places() -> None:
    log = AttemptLog(10)
    log.identify(log.open(PATH, []), HELLO)
    log.clear()
    assert log.select() == []
    again = log.open(PATH, [])
    assert (again.seq, log.identify(again, HELLO)) == (2, 1)


def test_a_new_attempt_has_a_time_of_arrival_and_no_other() -> None:
    attempt = AttemptLog(10, clock=lambda: 42.0).open(PATH, []).as_dict()
    assert attempt["received"] == 42.0
    assert [attempt[name] for name in ("first_byte", "finished", "cancelled")] == [None] * 3


def test_the_order_of_fields_does_not_change_a_hash_and_their_values_do() -> None:
    turned = dict(reversed(HELLO.items()))
    assert body_hash(turned) == body_hash(HELLO)
    assert body_hash(HELLO | {"seed": 1}) != body_hash(HELLO)
    assert prompt_hash(HELLO | {"seed": 1}) == prompt_hash(HELLO)


def test_a_streamed_answer_says_what_a_whole_one_says() -> None:
    assert body_hash(HELLO | {"stream": True, "stream_options": {"include_usage": True}}) == body_hash(HELLO)
