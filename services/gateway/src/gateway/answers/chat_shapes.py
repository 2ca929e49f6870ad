"""A chat answer in either shape, made into the other: a whole completion, or the events of a stream.

Pure and synchronous. What is not known here is kept: unknown fields of a message travel in its first delta, unknown
fields of the answer on every chunk, and back. Source: OpenAI's API reference, chat completion (chunk) object.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from common.streams import sse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BOUNDARY = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")
_WORDS = re.compile(r"\s*\S+|\s+$")
MOST_PIECES = 512
"""Of one text; a longer one is cut into larger pieces."""
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_NO_USAGE = b',"usage":null'
_OF_CHUNKS = {"choices", "usage", "object"}
_SAID_ONCE = {"role", "id", "type", "name"}
_OF_MESSAGES = {"role", "content", "refusal", "tool_calls", "function_call"}


class NotAChatAnswerError(ValueError):
    """The bytes are no complete chat answer."""


def split(events: bytes) -> list[bytes]:
    """The single events of a stream."""
    if b"\r" not in events:  # thirty times as fast
        return [event + b"\n\n" for event in events.split(b"\n\n") if event.strip()]
    return [event for event in _BOUNDARY.split(events) if event.strip()]


def without_usage(events: bytes) -> bytes:
    """The same events for a client that did not ask for usage: its chunk is gone, and the empty field of the others."""
    events = events.replace(_NO_USAGE, b"")  # inside a JSON text these bytes could only stand with escaped quotes
    if b'"usage"' in events and _USAGE.search(events):
        return b"".join(event for event in split(events) if not _is_usage_chunk(event))
    return events


def _is_usage_chunk(event: bytes) -> bool:
    if _USAGE.search(event) is None:
        return False
    return any(chunk.get("usage") and not chunk.get("choices") for chunk in chunks_of(event))


# -- from events to a completion --------------------------------------------------------------------------------------


def completion_of(events: bytes) -> dict[str, Any]:
    """Accumulate the deltas of a complete stream, as the official SDK does. Raises `NotAChatAnswerError`."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks_of(events):
        try:
            _take_chunk(answer, choices, chunk)
        except (TypeError, KeyError, AttributeError) as error:
            raise NotAChatAnswerError("a chunk is malformed") from error
    whole = {key: value for key, value in answer.items() if key != "usage"}
    whole["object"] = "chat.completion"
    whole["choices"] = [_finished(choices[index]) for index in sorted(choices)]
    whole["usage"] = answer.get("usage")
    return whole


def chunks_of(events: bytes) -> list[dict[str, Any]]:
    """The chunks of a stream, parsed in one go. Raises `NotAChatAnswerError` if an event is none."""
    payloads = [payload for event in split(events) if (payload := _payload(event)) is not None]
    try:
        chunks: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(payloads) + b"]")
    except orjson.JSONDecodeError as error:
        raise NotAChatAnswerError("an event is not JSON") from error
    if len(chunks) != len(payloads) or any(not isinstance(chunk, dict) or chunk.get("error") for chunk in chunks):
        raise NotAChatAnswerError("an event is no chunk")
    return chunks


def _payload(event: bytes) -> bytes | None:
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2:  # as nearly all are: one line
        payload: bytes | None = event[6:-2]
    else:
        payload = sse.data_of(event)
    return None if payload == b"[DONE]" else payload


def _take_chunk(answer: dict[str, Any], choices: dict[int, dict[str, Any]], chunk: dict[str, Any]) -> None:
    for key, value in chunk.items():
        if key != "choices" and (value is not None or key not in answer):
            answer[key] = value
    for part in chunk.get("choices") or ():
        index = part.get("index", 0)
        choice = choices.setdefault(index, {"index": index, "message": {}, "logprobs": None, "finish_reason": None})
        _merge(choice["message"], part.get("delta") or {})
        if part.get("logprobs"):
            choice["logprobs"] = choice["logprobs"] or {}
            _merge(choice["logprobs"], part["logprobs"])
        for key, value in part.items():
            if key not in ("index", "delta", "logprobs") and value is not None:
                choice[key] = value


def _merge(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """Texts are joined, lists with an index merged by it, other lists extended; a name or an id is said once."""
    for key, value in delta.items():
        present = into.get(key)
        if present is None or key in _SAID_ONCE:
            if key not in into or value:
                into[key] = _by_index([], value) if isinstance(value, list) else value
        elif isinstance(present, str) and isinstance(value, str):
            into[key] = present + value
        elif isinstance(present, dict) and isinstance(value, dict):
            _merge(present, value)
        elif isinstance(present, list) and isinstance(value, list):
            into[key] = _by_index(present, value)
        elif value is not None:
            into[key] = value


def _by_index(present: list[Any], items: list[Any]) -> list[Any]:
    for item in items:
        index = item.get("index") if isinstance(item, dict) else None
        known = next((one for one in present if isinstance(one, dict) and one.get("index") == index), None)
        if index is None or known is None:
            present.append(dict(item) if isinstance(item, dict) else item)
        else:
            _merge(known, {key: value for key, value in item.items() if key != "index"})
    return present


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    if not choice["finish_reason"]:
        raise NotAChatAnswerError("a choice is not finished")
    message = {"role": "assistant", "content": None, "refusal": None} | choice["message"]
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [
            {key: value for key, value in call.items() if key != "index"} for call in message["tool_calls"]
        ]
    return choice | {"message": message}


# -- from a completion to events --------------------------------------------------------------------------------------


def events_of(completion: dict[str, Any], *, include_usage: bool) -> list[bytes]:
    """A stream that says the same, without `[DONE]`: role, pieces, finish, and the usage if asked for.

    Raises `NotAChatAnswerError`.
    """
    head = {key: value for key, value in completion.items() if key not in _OF_CHUNKS}
    head["object"] = "chat.completion.chunk"
    extra: dict[str, Any] = {"usage": None} if include_usage else {}
    try:
        parts = [part for choice in completion["choices"] for part in _parts(choice)]
    except (TypeError, KeyError, AttributeError) as error:
        raise NotAChatAnswerError("the completion is malformed") from error
    events = [sse.event(orjson.dumps(head | {"choices": [part]} | extra)) for part in parts]
    if include_usage:
        events.append(sse.event(orjson.dumps(head | {"choices": [], "usage": completion.get("usage")})))
    return events


def _parts(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message, logprobs = choice["message"], choice.get("logprobs") or {}
    unknown = {key: value for key, value in message.items() if key not in _OF_MESSAGES and value is not None}
    opening: dict[str, Any] = {"content": "" if message.get("content") is not None else None}
    if message.get("refusal") is not None:
        opening["refusal"] = ""
    yield _part(choice, {"role": message.get("role", "assistant")} | opening | unknown)
    for field in ("content", "refusal"):
        text = message.get(field)
        for piece, told in _told(text, logprobs.get(field)) if text is not None else ():
            yield _part(choice, {field: piece}, {field: told} if told else None)
    if message.get("function_call"):
        yield _part(choice, {"function_call": message["function_call"]})
    for index, call in enumerate(message.get("tool_calls") or ()):
        yield from (_part(choice, {"tool_calls": [delta]}) for delta in _call_deltas(index, call))
    closing = _part(choice, {})
    yield closing | {key: value for key, value in choice.items() if key not in ("message", "logprobs", "index")}


def _part(choice: dict[str, Any], delta: dict[str, Any], logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": choice.get("index", 0), "delta": delta, "logprobs": logprobs, "finish_reason": None}


def _call_deltas(index: int, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    arguments = (call.get("function") or {}).get("arguments")
    if not isinstance(arguments, str):
        yield {"index": index} | call
        return
    yield {"index": index} | call | {"function": call["function"] | {"arguments": ""}}
    for piece in _pieces(arguments):
        yield {"index": index, "function": {"arguments": piece}}


def _told(text: str, logprobs: list[dict[str, Any]] | None) -> Iterable[tuple[str, list[dict[str, Any]] | None]]:
    """Pieces of the text with the log probabilities of their tokens, where the tokens add up to the text."""
    if not logprobs:
        return [(piece, None) for piece in _pieces(text)]
    if "".join(str(token.get("token")) for token in logprobs) == text:
        return [(token["token"], [token]) for token in logprobs]
    return [(text, logprobs)]


def _pieces(text: str) -> list[str]:
    words = _WORDS.findall(text)
    size = -(-len(words) // MOST_PIECES) or 1
    return ["".join(words[start : start + size]) for start in range(0, len(words), size)]
