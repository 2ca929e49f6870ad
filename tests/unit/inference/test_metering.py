from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from common.usage import Usage
from inference.metering import Meter, cost_usd, prompt_tokens, text_tokens

if TYPE_CHECKING:
    from common.wire import Price

PRICE: Price = {"input_usd": 2.0, "output_usd": 8.0}


def meter(content: Any = "x" * 40) -> Meter:
    return Meter({"model": "m", "messages": [{"role": "user", "content": content}]})


def test_the_upstreams_own_usage_counts_and_costs_what_its_price_says() -> None:
    request = meter()
    use = request.begin("a", PRICE)
    use.report({"prompt_tokens": 1_000_000, "completion_tokens": 500_000})
    assert request.total() == Usage(1_000_000, 500_000, 6.0, is_estimated=False)


@pytest.mark.parametrize(
    "usage", [None, [], {"total_tokens": 1}, {"prompt_tokens": -1}, {"prompt_tokens": "7"}, {"prompt_tokens": True}]
)
def test_without_usage_it_is_estimated_and_marked(usage: Any) -> None:
    request = meter("x" * 396)  # with its role: 400 characters
    use = request.begin("a", None)
    use.report(usage)
    use.estimated_output_tokens = 7
    total = request.total()
    assert total is not None
    assert total == Usage(100, 7, None, is_estimated=True)


def test_embeddings_use_their_prompt_alone() -> None:
    request = Meter({"input": "x"})
    request.begin("a", None).report({"prompt_tokens": 3, "total_tokens": 3})
    assert request.total() == Usage(3, 0, None, is_estimated=False)


def test_half_a_usage_is_estimated_for_the_other_half() -> None:
    request = meter()
    use = request.begin("a", None)
    use.report({"prompt_tokens": 3, "completion_tokens": None})
    use.estimated_output_tokens = 5
    assert request.total() == Usage(3, 5, None, is_estimated=True)


def test_an_unknown_price_makes_the_cost_unknown_never_nothing() -> None:
    request = meter()
    request.begin("a", PRICE).report({"prompt_tokens": 1, "completion_tokens": 1})
    request.begin("b", None).report({"prompt_tokens": 1, "completion_tokens": 1})
    assert request.total() == Usage(2, 2, None, is_estimated=False)
    assert cost_usd(None, 0, 0) is None


def test_attempts_that_no_upstream_took_on_used_nothing() -> None:
    request = meter()
    request.begin("a", PRICE)
    assert request.total() is None
    assert request.log_fields() == {"attempts": 1, "target": "a"}
    request.begin("b", {"input_usd": 1.0, "output_usd": 1.0}).report({"prompt_tokens": 2, "completion_tokens": 3})
    assert request.total() == Usage(2, 3, 5e-06, is_estimated=False)
    assert request.log_fields() == {
        "attempts": 2,
        "target": "b",
        "input_tokens": 2,
        "output_tokens": 3,
        "cost_usd": 5e-06,
        "usage_is_estimated": False,
    }


def test_every_attempt_that_was_taken_on_counts() -> None:
    request = meter("x" * 36)
    request.begin("a", PRICE).was_taken_on = True
    request.begin("b", PRICE).report({"prompt_tokens": 9, "completion_tokens": 1})
    total = request.total()
    assert total is not None
    assert (total.input_tokens, total.output_tokens, total.is_estimated) == (10 + 9, 1, True)
    assert total.cost_usd == pytest.approx((19 * 2 + 8) / 1e6)


def test_details_are_those_that_the_upstream_gave() -> None:
    use = meter().begin("a", None)
    use.report(
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3},
        }
    )
    assert use.details == {"cache_read.input_tokens": 4, "reasoning.output_tokens": 3}


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 1),
        ({"input": "x" * 8}, 2),
        ({"input": ["xxxx", "xxxxx"]}, 3),
        ({"input": [1, 2, 3]}, 3),
        ({"input": [[1, 2], [3]]}, 3),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 8}]}]}, 4),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x" * 10_000}}]}]}, 4),
        ({"messages": [], "tools": [{"function": {"description": "x" * 40}}]}, 10),
        ({"messages": 7.5, "tools": "xxxx"}, 1),
    ],
)
def test_a_prompt_is_a_token_for_four_characters(body: dict[str, Any], tokens: int) -> None:
    assert prompt_tokens(body) == tokens


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "x" * 8}}]}, 2),
        ({"choices": [{"message": {"content": "x" * 8}}, {"message": {"content": "x" * 4}}]}, 3),
        ({"choices": [{"message": {"content": None, "tool_calls": [{"function": {"arguments": "x" * 12}}]}}]}, 3),
        ({"choices": "x"}, 0),
        ({"choices": ["x", {"message": 7}]}, 0),
        ({"data": []}, 0),
    ],
)
def test_a_whole_answer_is_a_token_for_four_characters(answer: dict[str, Any], tokens: int) -> None:
    assert text_tokens(answer) == tokens
