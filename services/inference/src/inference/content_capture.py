"""The messages of a chat on its span, in the GenAI conventions' structured form. Off, unless the deployment and the
request's key both want it.

Source: https://github.com/open-telemetry/semantic-conventions-genai, `gen_ai.input.messages`, `gen_ai.output.messages`:
JSON as an attribute, each message a role and parts. What is no text (an image) is named by its type and left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from common.streams import sse
from common.telemetry import conventions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from opentelemetry.trace import Span

    from inference.questions import Question

_FRAME_BYTES = 64
"""What a message, or a part, costs beside its text: ten thousand empty ones are bounded as well."""


@dataclass(frozen=True, slots=True)
class ContentCapture:
    is_on: bool
    max_bytes: int
    """Of what was asked, and again of what was answered."""

    def begin(self, question: Question, span: Span) -> Captured:
        """Put what was asked on the span of its operation, and return who takes the answer."""
        is_wanted = self.is_on and question.identity.captures_content and question.operation == "chat"
        if not is_wanted or not span.is_recording():
            return _NOTHING
        captured = _Both(span, self.max_bytes)
        captured.question(question.body)
        return captured


NO_CAPTURE = ContentCapture(is_on=False, max_bytes=0)


class Captured:
    """What becomes of an answer; here: nothing."""

    def answer(self, answer: Mapping[str, Any]) -> None:
        """A whole one."""

    def events(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same events of a stream; `end` is called when it is over."""
        return events

    def end(self) -> None: ...


_NOTHING = Captured()


class _Both(Captured):
    def __init__(self, span: Span, max_bytes: int) -> None:
        self._span = span
        self._max_bytes = max_bytes
        self._choices: dict[int, dict[str, Any]] = {}
        self._room = _Room(max_bytes)

    def question(self, body: Mapping[str, Any]) -> None:
        room = _Room(self._max_bytes)
        messages: list[dict[str, Any]] = []
        for message in reversed([one for one in _items(body.get("messages")) if isinstance(one, dict)]):
            parts = list(_parts(message, room))  # the newest first: it is what was asked
            if not room.frame():
                break
            messages.append({"role": room.text(message.get("role")), "parts": parts})
        self._show(conventions.GEN_AI_INPUT_MESSAGES, messages[::-1], room)

    def answer(self, answer: Mapping[str, Any]) -> None:
        room = _Room(self._max_bytes)
        messages = []
        for choice in _items(answer.get("choices")):
            if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict) or not room.frame():
                continue
            messages.append(_answered(choice["message"], choice.get("finish_reason"), room))
        self._show(conventions.GEN_AI_OUTPUT_MESSAGES, messages, room)

    async def events(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for some in events:
                for event in sse.split(some):
                    self._take(event)
                yield some
        finally:
            if (close := getattr(events, "aclose", None)) is not None:
                await close()

    def end(self) -> None:
        if self._choices:
            room = _Room(self._max_bytes)
            room.is_cut = self._room.is_cut
            told = [self._choices[index] for index in sorted(self._choices)]
            messages = [_answered(one, one["finish_reason"], room) for one in told]
            self._show(conventions.GEN_AI_OUTPUT_MESSAGES, messages, room)

    def _take(self, event: bytes) -> None:
        try:
            chunk = orjson.loads(sse.data_of(event) or b"null")
        except orjson.JSONDecodeError:  # `[DONE]`
            return
        for choice in _items(chunk.get("choices") if isinstance(chunk, dict) else None):
            if isinstance(choice, dict) and isinstance(choice.get("index"), int):
                self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta")
        if not isinstance(delta, dict) or (choice["index"] not in self._choices and not self._room.frame()):
            return
        blank: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": {}, "finish_reason": None}
        so_far = self._choices.setdefault(choice["index"], blank)
        so_far["content"] += self._room.text(delta.get("content"))
        so_far["finish_reason"] = choice.get("finish_reason") or so_far["finish_reason"]
        for call in _items(delta.get("tool_calls")):
            if isinstance(call, dict) and isinstance(call.get("index"), int):
                self._take_call(so_far["tool_calls"], call)

    def _take_call(self, calls: dict[int, Any], call: Mapping[str, Any]) -> None:
        if call["index"] not in calls and not self._room.frame():
            return
        so_far = calls.setdefault(call["index"], {"id": "", "function": {"name": "", "arguments": ""}})
        so_far["id"] += self._room.text(call.get("id"))
        function = call.get("function")
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                so_far["function"][name] += self._room.text(function.get(name))

    def _show(self, name: str, messages: list[dict[str, Any]], room: _Room) -> None:
        self._span.set_attribute(name, orjson.dumps(messages).decode())
        if room.is_cut:
            self._span.set_attribute(conventions.CONTENT_IS_CUT, value=True)


class _Room:
    """What is left for text; what does not fit is cut."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self.is_cut = False

    def frame(self) -> bool:
        self._left -= _FRAME_BYTES
        self.is_cut = self.is_cut or self._left < 0
        return self._left >= 0

    def text(self, value: object) -> str:
        """As much of it as fits; of what is no text, nothing."""
        if not isinstance(value, str):
            return ""
        data = value.encode(errors="replace")
        self.is_cut = self.is_cut or len(data) > max(self._left, 0)
        kept = data[: max(self._left, 0)].decode(errors="ignore")
        self._left -= len(data)
        return kept


def _answered(message: Mapping[str, Any], finish_reason: object, room: _Room) -> dict[str, Any]:
    parts = list(_parts(message, room))
    return {"role": "assistant", "parts": parts, "finish_reason": room.text(finish_reason)}


def _parts(message: Mapping[str, Any], room: _Room) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        response = room.text(content) if isinstance(content, str) else [*_content(_items(content), room)]
        yield {"type": "tool_call_response", "id": room.text(message.get("tool_call_id")), "response": response}
        return
    yield from _content([{"type": "text", "text": content}] if isinstance(content, str) else _items(content), room)
    calls = message.get("tool_calls")
    for call in _items(list(calls.values()) if isinstance(calls, dict) else calls):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and room.frame():
            name, arguments = (room.text(function.get(field)) for field in ("name", "arguments"))
            yield {"type": "tool_call", "id": room.text(call.get("id")), "name": name, "arguments": arguments}


def _content(items: list[Any], room: _Room) -> Iterator[dict[str, Any]]:
    for item in items:
        if not isinstance(item, dict) or not room.frame():
            continue
        if item.get("type") != "text":
            yield {"type": room.text(item.get("type"))}
        elif text := room.text(item.get("text")):
            yield {"type": "text", "content": text}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
