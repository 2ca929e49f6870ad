"""Usage crosses a hop whole, and what is no usage is nothing."""

from __future__ import annotations

import pytest

from common.usage import Usage, take_comment

USAGE = Usage(input_tokens=12, output_tokens=34, cost_usd=0.0125, is_estimated=True)


@pytest.mark.parametrize("usage", [USAGE, Usage()])
def test_usage_survives_the_hop(usage: Usage) -> None:
    assert Usage.from_json(usage.to_json()) == usage


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "null", "nonsense", '{"input_tokens": "many"}'])
def test_what_is_no_usage_is_none(text: str | None) -> None:
    assert Usage.from_json(text) is None


def test_the_usage_of_a_stream_is_taken_out_of_its_events() -> None:
    event = b'data: {"choices": []}\n\n'

    assert take_comment(event + USAGE.to_comment() + event) == (event + event, USAGE)


@pytest.mark.parametrize("events", [b'data: {"content": ": x-spillway-usage {}"}\n\n', b": ping\n\n", b""])
def test_what_only_looks_like_usage_stays(events: bytes) -> None:
    assert take_comment(events) == (events, None)
