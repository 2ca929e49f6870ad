"""What a request used at its upstreams, attempt by attempt, and what that costs.

The upstream's own usage counts. Where it sent none (it never does, or the answer was cut off first) it is estimated and
marked: a token for four characters of the prompt, and one for each event with content, or for four characters of a
whole answer. An attempt that the upstream refused used nothing; one that it took on, or may have taken on before we
gave up on it, used its prompt at least.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.wire import Price

CHARACTERS_PER_TOKEN = 4
"""Of English text, by OpenAI's own rule of thumb."""
_NOT_TEXT = frozenset({"image_url", "input_audio", "file"})
"""Parts of a message whose characters are no measure of their tokens; not estimated."""
_PROMPT_FIELDS = ("messages", "tools", "input")
_TOKENS_PER_USD_UNIT = 1_000_000


@dataclass(slots=True)
class AttemptUse:
    """What one attempt used; filled in while it goes on."""

    target: str
    price: Price | None
    model: str = ""
    """The public name under which the target was asked."""
    was_taken_on: bool = False
    """The upstream began to answer, or may have: its prompt counts."""
    input_tokens: int | None = None
    """As the upstream reported it."""
    output_tokens: int | None = None
    details: dict[str, int] = field(default_factory=dict)
    """Tokens within those: `cache_read.input_tokens`, `reasoning.output_tokens`."""
    estimated_output_tokens: int = 0
    rides_along: bool = False
    """Its call was joined with others', and is another request's to count."""

    def report(self, usage: object) -> None:
        """Take an upstream's usage object over, if it is one."""
        self.was_taken_on = True
        if not isinstance(usage, dict):
            return
        self.input_tokens = _tokens(usage.get("prompt_tokens"))
        # Embeddings produce no tokens and may have no such field: then their total is their prompt.
        produced = 0 if usage.get("total_tokens") == usage.get("prompt_tokens") else None
        self.output_tokens = _tokens(usage.get("completion_tokens", produced))
        for name, group, key in (
            ("cache_read.input_tokens", "prompt_tokens_details", "cached_tokens"),
            ("reasoning.output_tokens", "completion_tokens_details", "reasoning_tokens"),
        ):
            details = usage.get(group)
            if isinstance(details, dict) and (tokens := _tokens(details.get(key))) is not None:
                self.details[name] = tokens

    def usage(self, prompt_tokens: int) -> Usage:
        is_estimated = self.input_tokens is None or self.output_tokens is None
        input_tokens = prompt_tokens if self.input_tokens is None else self.input_tokens
        output_tokens = self.estimated_output_tokens if self.output_tokens is None else self.output_tokens
        return Usage(input_tokens, output_tokens, cost_usd(self.price, input_tokens, output_tokens), is_estimated)


class Meter:
    """Of one request."""

    __slots__ = ("_body", "_prompt_tokens", "attempts")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body
        self._prompt_tokens: int | None = None
        self.attempts: list[AttemptUse] = []

    def begin(self, target: str, price: Price | None, model: str = "") -> AttemptUse:
        use = AttemptUse(target, price, model)
        self.attempts.append(use)
        return use

    def usage_of(self, use: AttemptUse) -> Usage:
        if self._prompt_tokens is None:
            self._prompt_tokens = prompt_tokens(self._body)
        return use.usage(self._prompt_tokens)

    def total(self) -> Usage | None:
        """Of all attempts together; None when no upstream took the request on, or it asks no model (it has no body)."""
        if not self._body:
            return None
        usages = [self.usage_of(use) for use in self.attempts if use.was_taken_on]
        if not usages:
            return None
        costs = [usage.cost_usd for usage in usages]
        return Usage(
            input_tokens=sum(usage.input_tokens for usage in usages),
            output_tokens=sum(usage.output_tokens for usage in usages),
            cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
            is_estimated=any(usage.is_estimated for usage in usages),
        )

    def log_fields(self) -> dict[str, object]:
        """The fields of the request's log line."""
        fields: dict[str, object] = {"attempts": len(self.attempts)}
        if self.attempts:
            fields["target"] = self.attempts[-1].target
        if (usage := self.total()) is not None:
            fields |= {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cost_usd": usage.cost_usd,
                "usage_is_estimated": usage.is_estimated,
            }
        return fields


def cost_usd(price: Price | None, input_tokens: int, output_tokens: int) -> float | None:
    """None when the price is unknown: never 0 for want of knowing."""
    if price is None:
        return None
    return (price["input_usd"] * input_tokens + price["output_usd"] * output_tokens) / _TOKENS_PER_USD_UNIT


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """An estimate of what a request's prompt, tools included, is to the model. At least 1."""
    characters, tokens = 0, 0
    left: list[Any] = [body.get(name) for name in _PROMPT_FIELDS]
    while left:
        value = left.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += [inner for name, inner in value.items() if name not in _NOT_TEXT]
        elif type(value) is int:
            tokens += 1  # of an embedding's input that is tokens already
    return max(1, tokens + -(-characters // CHARACTERS_PER_TOKEN))


def text_tokens(answer: Mapping[str, Any]) -> int:
    """An estimate of the tokens of a whole answer that came without usage."""
    choices = answer.get("choices")
    said = (
        [choice.get("message") for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    )
    texts = [(message.get("content"), message.get("tool_calls")) for message in said if isinstance(message, dict)]
    return prompt_tokens({"messages": [list(text) for text in texts]}) if texts else 0


def _tokens(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
