from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.streams import sse
from common.streams.sse import MAX_EVENT_BYTES, ChatStream, MalformedStreamError, StreamTooLargeError


def chunk(text: str = "", finish_reason: str | None = None, index: int = 0) -> bytes:
    choice: dict[str, Any] = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return sse.event(json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode())


DONE = sse.event(b"[DONE]")
ERROR = sse.event(b'{"error": {"message": "no", "type": "server_error", "param": null, "code": null}}')
ANSWER = chunk("Good ") + chunk("evening \N{WAVING HAND SIGN}") + b": ping\n\n" + chunk("", "stop") + DONE
TWO_CHOICES = chunk("a") + chunk("b", index=1) + chunk("", "stop", index=1) + chunk("", "length") + DONE
FAILED = chunk("Good ") + ERROR
CUT = chunk("Good ") + chunk("evening")
QUOTED = chunk('the "finish_reason": "stop" of "error": {}') + DONE


def state(stream: ChatStream) -> tuple[bool, bool, bool, bool]:
    return stream.is_complete, stream.is_done, stream.failed, stream.has_content


def fed(data: bytes, cuts: list[int], choices: int = 1) -> tuple[bytes, tuple[bool, bool, bool, bool]]:
    """What has come out in all once `data` went in, cut at these places; no part of it ends inside an event."""
    stream = ChatStream(choices)
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        events = stream.feed(data[start:end])
        assert events.endswith((b"\n\n", b"\r\n\r\n", b""))
        out += events
        assert data.startswith(out)
    return out, state(stream)


@pytest.mark.parametrize(
    ("data", "choices", "is_complete", "is_done", "failed"),
    [
        (ANSWER, 1, True, True, False),
        (TWO_CHOICES, 2, True, True, False),
        (FAILED, 1, False, False, True),
        (CUT, 1, False, False, False),
        (QUOTED, 1, False, True, False),
        (chunk("a", "stop") + ERROR, 1, False, False, True),
    ],
)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_reads_alike_wherever_it_is_cut_in_two(  # noqa: PLR0913, PLR0917  # a row of the table
    data: bytes, choices: int, is_complete: bool, is_done: bool, failed: bool, newline: bytes
) -> None:
    data = data.replace(b"\n", newline)
    expected = (data.partition(b"data: [DONE]")[0], (is_complete, is_done, failed, True))
    for cut in range(len(data) + 1):
        assert fed(data, [cut], choices) == expected
    assert fed(data, list(range(1, len(data))), choices) == expected


@given(data=st.sampled_from([ANSWER, TWO_CHOICES, FAILED, CUT, QUOTED]), crlf=st.booleans(), draw=st.data())
@settings(deadline=None)
def test_a_stream_reads_alike_however_it_is_cut(data: bytes, crlf: bool, draw: st.DataObject) -> None:
    data = data.replace(b"\n", b"\r\n") if crlf else data
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=20)))
    assert fed(data, cuts, 2) == fed(data, [], 2)


@given(data=st.binary(max_size=200) | st.text(alphabet='dat: {}"[]e\r\n', max_size=200).map(str.encode), cut=st.data())
@settings(deadline=None)
def test_whatever_arrives_it_is_events_or_malformed_and_the_cut_makes_no_difference(
    data: bytes, cut: st.DataObject
) -> None:
    def outcome(cuts: list[int]) -> tuple[bytes, tuple[bool, bool, bool, bool]] | None:
        try:
            out, end = fed(data, cuts)
        except MalformedStreamError:
            return None
        return out.rstrip(b"\r\n"), end  # of several blank lines one may wait for what follows

    assert outcome([cut.draw(st.integers(0, len(data)))]) == outcome([])


def test_an_event_is_kept_back_until_it_is_whole() -> None:
    stream = ChatStream()
    assert stream.feed(chunk("a") + chunk("b")[:-1]) == chunk("a")
    assert stream.feed(b"\n") == chunk("b")


def test_an_answer_of_several_choices_is_complete_only_when_each_has_finished() -> None:
    stream = ChatStream(2)
    stream.feed(chunk("", "stop", index=1) + chunk("", "stop", index=1))
    assert not stream.is_complete
    stream.feed(chunk("", "stop", index=7))
    assert not stream.is_complete
    stream.feed(chunk("", "stop", index=0))
    assert stream.is_complete


def test_done_alone_does_not_make_an_answer_complete() -> None:
    stream = ChatStream()
    stream.feed(chunk("a") + DONE)
    assert (stream.is_done, stream.is_complete) == (True, False)


def test_text_that_talks_of_done_does_not_end_the_stream() -> None:
    stream = ChatStream()
    stream.feed(chunk("data: [DONE]") + chunk("\n\ndata: [DONE]\n\n"))
    assert not stream.is_done


def test_a_null_error_beside_the_choices_is_no_failure() -> None:
    stream = ChatStream()
    stream.feed(sse.event(b'{"error": null, "choices": [{"index": 0, "finish_reason": "stop"}]}'))
    assert stream.is_complete


def test_an_event_of_exactly_the_bound_passes_and_a_longer_one_does_not() -> None:
    head, tail = chunk("@").split(b"@")
    whole = head + b"a" * (MAX_EVENT_BYTES - len(head) - len(tail)) + tail
    assert len(whole) == MAX_EVENT_BYTES
    stream = ChatStream()
    assert stream.feed(whole[:-1]) + stream.feed(whole[-1:]) == whole
    with pytest.raises(MalformedStreamError, match="1 MiB"):
        ChatStream().feed(b"data: " + b"a" * MAX_EVENT_BYTES)


def test_comments_keep_a_stream_alive_but_are_no_content() -> None:
    stream = ChatStream()
    assert stream.feed(b": ping\n\n: ping\n\nretry: 5\n\n") == b": ping\n\n: ping\n\nretry: 5\n\n"
    assert not stream.has_content
    stream.feed(chunk("a"))
    assert stream.has_content


@pytest.mark.parametrize(
    "garbage",
    [
        b"<html>\n\n",
        b"<html>\n\n" + chunk("a"),
        b"\x00\xff\xfe\n\n",
        b"\xef\xbb\xbf" + chunk("a"),
        b"data: not JSON\n\n",
        b"data: {\n\n",
        b": ping\n\n<html>\n\n",
        b'data: {"choices":[{"finish_reason":"stop"\n\n',
        b'data: ["finish_reason":"stop"]\n\n',
        b'data: ["error", {"error": {}}]\n\n',
        b'{"error": {"message": "no"}}\n\n',
    ],
)
def test_garbage_is_malformed(garbage: bytes) -> None:
    with pytest.raises(MalformedStreamError):
        ChatStream().feed(garbage)


@pytest.mark.parametrize(
    "choices",
    ['"x"', "7", "null", "{}", "[1]", "[null]", '[{"index": [], "finish_reason": "stop"}]', '[{"index": {}}]'],
)
def test_choices_of_another_shape_finish_nothing_and_break_nothing(choices: str) -> None:
    stream = ChatStream()
    stream.feed(sse.event(b'{"x": {"finish_reason": "stop"}, "choices": %b}' % choices.encode()))
    assert not stream.is_complete


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        (b"data: a", b"a"),
        (b"data:a", b"a"),
        (b"data:  a", b" a"),
        (b"event: x\r\ndata: a\r\nid: 1", b"a"),
        (b"data: a\ndata: b", b"a\nb"),
        (b": comment", None),
        (b"", None),
    ],
)
def test_the_payload_of_an_event_is_its_data_lines(event: bytes, payload: bytes | None) -> None:
    assert sse.data_of(event) == payload


USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
REPORT = sse.event(json.dumps({"id": "c", "choices": [], "usage": USAGE}).encode())
FILTERED = sse.event(b'{"choices":[],"prompt_filter_results":[]}')


def asked_for(event: bytes, spelling: bytes = b',"usage":null') -> bytes:
    """The event as it is when usage was asked for."""
    return event.replace(b"}\n\n", spelling + b"}\n\n")


@pytest.mark.parametrize("spelling", [b',"usage":null', b', "usage": null', b',\t"usage"\t:\tnull'])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_hidden_usage_looks_as_if_it_had_not_been_asked_for(spelling: bytes, newline: bytes) -> None:
    plain = FILTERED + chunk("a") + b": ping\n\n" + chunk("b", "stop")
    asked = b"".join(
        [FILTERED, asked_for(chunk("a"), spelling), b": ping\n\n", asked_for(chunk("b", "stop"), spelling), REPORT]
    ).replace(b"\n", newline)
    for cut in range(len(asked) + 1):
        stream = ChatStream(hides_usage=True)
        assert stream.feed(asked[:cut]) + stream.feed(asked[cut:]) == plain.replace(b"\n", newline)
        assert (stream.usage, stream.content_events, stream.is_complete) == (USAGE, 3, True)


def test_usage_that_was_asked_for_passes_and_is_read() -> None:
    data = asked_for(chunk("a")) + chunk("", "stop") + REPORT
    stream = ChatStream()
    assert stream.feed(data) == data
    assert stream.usage == USAGE


def test_usage_beside_choices_is_read_and_stays() -> None:
    data = chunk("a", "stop").replace(b"}\n\n", b',"usage":%b}\n\n' % json.dumps(USAGE).encode())
    stream = ChatStream(hides_usage=True)
    assert stream.feed(data) == data
    assert stream.usage == USAGE


def test_text_that_talks_of_usage_stays() -> None:
    data = chunk('the ,"usage":null of "usage": {}')
    assert ChatStream(hides_usage=True).feed(data) == data


def test_what_an_answer_says_of_itself_is_kept() -> None:
    stream = ChatStream(2)
    stream.feed(
        sse.event(b'{"id":"c-1","model":"m-1","choices":[]}') + chunk("", "stop") + chunk("", "length", index=1)
    )
    assert (stream.response_id, stream.response_model, stream.finish_reasons) == ("c-1", "m-1", ["stop", "length"])


def test_content_is_counted_by_events_not_by_what_they_say() -> None:
    stream = ChatStream()
    stream.feed(b": ping\n\n" + chunk("data: {}") + b"retry: 1\n\n" + chunk("\n\ndata: {}\n\n") + DONE)
    assert stream.content_events == 2


def test_a_stream_beyond_its_cap_is_too_large() -> None:
    stream = ChatStream(max_bytes=2 * len(chunk("a")))
    stream.feed(chunk("a") + chunk("b"))
    with pytest.raises(StreamTooLargeError):
        stream.feed(b":")
