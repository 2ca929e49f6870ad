"""Simulated completions: words chosen by a hash of the request, as one body or as a list of SSE events."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

from simulator import tokens
from simulator.chat import Structured

if TYPE_CHECKING:
    from simulator.chat import ChatRequest

FINGERPRINT = "spillway-simulator"
DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Choice:
    pieces: list[str]
    """The content, or the arguments of the tool call, token by token."""
    finish_reason: Literal["stop", "length", "tool_calls"]


@dataclass(slots=True)
class Answer:
    """What the simulated model said; `identity` is the `id` of the completion and of its chunks."""

    identity: str
    created: int
    model: str
    prompt_tokens: int
    choices: list[Choice]
    tool: str | None = None
    """The name of the tool that every choice calls; its arguments are the choice's pieces."""

    @property
    def completion_tokens(self) -> int:
        return sum(len(choice.pieces) for choice in self.choices)

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def body(self, *, has_usage: bool = True) -> bytes:
        """The answer to a request that did not ask for a stream."""
        return orjson.dumps(
            self._head("chat.completion")
            | {
                "choices": [
                    {
                        "index": index,
                        "message": self._message("".join(choice.pieces)),
                        "logprobs": None,
                        "finish_reason": choice.finish_reason,
                    }
                    for index, choice in enumerate(self.choices)
                ],
            }
            | ({"usage": self.usage()} if has_usage else {})
        )

    def events(self, *, include_usage: bool) -> list[bytes]:
        """The answer as SSE events: one per token and choice, the usage if asked for, and `[DONE]`.

        A choice's first event carries its role, its last one the finish reason; between them a chunk is one
        concatenation, since everything but the token is the same for all.
        """
        head = b"data: " + orjson.dumps(self._head("chat.completion.chunk"))[:-1]
        if include_usage:
            head += b',"usage":null'
        columns = [self._column(head, index, choice) for index, choice in enumerate(self.choices)]
        if len(columns) == 1:
            events = columns[0]
        else:
            events = [
                column[place] for place in range(max(map(len, columns))) for column in columns if place < len(column)
            ]
        if include_usage:
            last = self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage()}
            events.append(b"data: " + orjson.dumps(last) + b"\n\n")
        events.append(DONE)
        return events

    def _column(self, head: bytes, index: int, choice: Choice) -> list[bytes]:
        opening, closing = (b'{"content":', b"}") if self.tool is None else _TOOL_DELTA
        before = head + b',"choices":[{"index":%d,"delta":' % index + opening
        after = closing + _CHUNK_END % b"null"
        dumps = orjson.dumps
        events = [before + dumps(piece) + after for piece in choice.pieces]
        # The ends of the row are special; a row of no tokens or of one is both its first and its last event.
        finish = _CHUNK_END % dumps(choice.finish_reason)
        first = dumps(self._first_delta(choice.pieces[0] if choice.pieces else ""))
        start = head + b',"choices":[{"index":%d,"delta":' % index + first
        if len(events) <= 1:
            return [start + finish]
        events[0] = start + _CHUNK_END % b"null"
        events[-1] = before + dumps(choice.pieces[-1]) + closing + finish
        return events

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def _message(self, text: str) -> dict[str, Any]:
        if self.tool is None:
            return {"role": "assistant", "content": text, "refusal": None}
        return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [self._call(text)]}

    def _first_delta(self, piece: str) -> dict[str, Any]:
        if self.tool is None:
            return {"role": "assistant", "content": piece}
        return {"role": "assistant", "content": None, "tool_calls": [{"index": 0} | self._call(piece)]}

    def _call(self, arguments: str) -> dict[str, Any]:
        function = {"name": self.tool, "arguments": arguments}
        return {"id": self.identity.replace("chatcmpl", "call", 1), "type": "function", "function": function}


_TOOL_DELTA = (b'{"tool_calls":[{"index":0,"function":{"arguments":', b"}}]}")
_CHUNK_END = b',"logprobs":null,"finish_reason":%b}]}\n\n'


def choices(request: ChatRequest, seed: str, length: int) -> list[Choice]:
    """What is said in answer to `request`: up to `length` words that depend on `seed` alone, or the JSON asked for."""
    if request.tool_call is not None:
        return [_finished(tokens.pieces(json.dumps(request.tool_call.arguments)), request, "tool_calls")] * request.n
    if isinstance(request.structured, Structured):
        return [_finished(tokens.pieces(json.dumps(request.structured.value)), request)] * request.n
    # One byte of the digest is one word; a longer digest only continues a shorter one, so choices are slices of it.
    digest = hashlib.shake_128(seed.encode()).digest(length * request.n)
    words = tokens.WORDS
    texts = [[words[byte] for byte in digest[n * length : (n + 1) * length]] for n in range(request.n)]
    if request.structured == "json_object":
        return [_finished(tokens.pieces(json.dumps({"answer": " ".join(text)})), request) for text in texts]
    return [_finished([text[0], *[" " + word for word in text[1:]]], request) for text in texts]


def _finished(pieces: list[str], request: ChatRequest, finish_reason: Literal["stop", "tool_calls"] = "stop") -> Choice:
    """End where the limit or the first stop sequence ends it."""
    is_cut = request.max_tokens is not None and len(pieces) > request.max_tokens
    if is_cut:
        pieces = pieces[: request.max_tokens]
    if request.stop and finish_reason == "stop":
        text = "".join(pieces)
        places = [place for place in map(text.find, request.stop) if place >= 0]
        if places:
            return Choice(tokens.pieces(text[: min(places)]), "stop")
    return Choice(pieces, "length" if is_cut else finish_reason)
