"""A chat answer as it is kept, and as it is asked for: either shape answers either.

The first byte says which shape was kept: `w`, a whole completion as it came, or `s`, the events of a stream as they
came, without `[DONE]`, the usage among them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from common.streams import sse
from gateway.answers.chat_shapes import NotAChatAnswerError, chunks_of, completion_of, events_of, split, without_usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

WHOLE, STREAM = b"w", b"s"
REPLAY = "x-spillway-replay"
PACE_S = 0.02
"""Between two events of a paced replay: 50 a second, a brisk model."""
_PIECE_BYTES = 64 * 1024


def kept_whole(body: bytes) -> bytes:
    """Raises `NotAChatAnswerError` unless every choice of it is finished."""
    try:
        choices = orjson.loads(body)["choices"]
        is_complete = bool(choices) and all(choice["finish_reason"] for choice in choices)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        is_complete = False
    if not is_complete:
        raise NotAChatAnswerError("the completion is not complete")
    return WHOLE + body


def kept_stream(events: bytes) -> bytes:
    """Raises `NotAChatAnswerError` unless every event is a chunk and each choice that is in them is finished."""
    begun: set[Any] = set()
    finished: set[Any] = set()
    try:
        for chunk in chunks_of(events):
            for choice in chunk.get("choices") or ():
                begun.add(choice.get("index", 0))
                if choice.get("finish_reason"):
                    finished.add(choice.get("index", 0))
    except (TypeError, AttributeError) as error:
        raise NotAChatAnswerError("a chunk is malformed") from error
    if not begun or begun != finished:
        raise NotAChatAnswerError("the stream is not complete")
    return STREAM + events


def as_whole(kept: bytes) -> bytes:
    """The body for a request that is not streamed."""
    return kept[1:] if kept[:1] == WHOLE else orjson.dumps(completion_of(kept[1:]))


def as_events(kept: bytes, *, include_usage: bool) -> bytes:
    """The events for a streamed request, without `[DONE]`."""
    if kept[:1] == WHOLE:
        return b"".join(events_of(orjson.loads(kept[1:]), include_usage=include_usage))
    return kept[1:] if include_usage else without_usage(kept[1:])


def includes_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


async def replay(
    events: bytes, *, is_paced: bool, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[bytes]:
    """The events as a stream: as fast as the client reads, or one by one at a pace."""
    if is_paced:
        for event in split(events):
            yield event
            await sleep(PACE_S)
    else:
        for start in range(0, len(events), _PIECE_BYTES):
            yield events[start : start + _PIECE_BYTES]
    yield sse.DONE
