"""A span as the bytes that OTLP sends, written as soon as it ends.

Ours because OpenTelemetry's encoder makes a message object for each attribute, three times what making the span costs,
in a thread whose turns hold up the event loop's; and spans that wait as objects are looked at by every collection of
garbage. A test holds it against that encoder. Source: opentelemetry-proto, `trace/v1/trace.proto`; Protocol Buffers,
"Encoding": a field is its number and wire type, then a varint, or 4 or 8 bytes, or a length and so many bytes.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link, SpanContext, Status

_BYTES = tuple(bytes((number,)) for number in range(0x80))
_SHORT_TEXTS = tuple(bytes((0x12, size + 2, 0x0A, size)) for size in range(0x7E))
"""What stands before a value that is a text of so many bytes: most are."""
_LONGEST_WORD = 48
"""Characters: nothing of captured content is that short, so none is kept."""
_TIMES = struct.Struct("<BQBQ").pack
_TIME = struct.Struct("<BQ").pack
_DOUBLE = struct.Struct("<Bd").pack
_LARGEST = 2**63
_HAS_REMOTE, _HAS_REMOTE_AND_IS = struct.pack("<I", 0x100), struct.pack("<I", 0x300)
"""Whether the parent, or what is linked, is in another process: that this is known, and that it is so."""


def encoded(span: ReadableSpan) -> bytes:
    """`span` as one of the repeated `spans` of a `ScopeSpans`."""
    context, parent = span.context, span.parent
    parts = [b"\x0a\x10", context.trace_id.to_bytes(16), b"\x12\x08", context.span_id.to_bytes(8)]
    if state := context.trace_state:
        parts.append(_text(b"\x1a", state.to_header()))
    if parent is not None:
        parts += (b"\x22\x08", parent.span_id.to_bytes(8))
    parts += (
        _text(b"\x2a", span.name),
        b"\x30",
        _BYTES[span.kind.value + 1],
        _TIMES(0x39, span.start_time or 0, 0x41, span.end_time or 0),
    )
    for name, value in (span.attributes or {}).items():
        is_word = len(value) <= _LONGEST_WORD if isinstance(value, str) else isinstance(value, int)
        parts.append(_known(name, value) if is_word else sized(b"\x4a", _attribute(name, value)))
    parts.append(_count(b"\x50", span.dropped_attributes))
    parts += [sized(b"\x5a", _event(event)) for event in span.events]
    parts.append(_count(b"\x60", span.dropped_events))
    parts += [sized(b"\x6a", _link(link)) for link in span.links]
    parts += (_count(b"\x70", span.dropped_links), _status(span.status), b"\x85\x01", _remote(parent))
    return sized(b"\x12", b"".join(parts))


def _event(event: Event) -> bytes:
    attributes = [sized(b"\x1a", _attribute(name, value)) for name, value in (event.attributes or {}).items()]
    return b"".join(
        (
            _TIME(0x09, event.timestamp),
            _text(b"\x12", event.name),
            *attributes,
            _count(b"\x20", event.dropped_attributes),
        )
    )


def _link(link: Link) -> bytes:
    context = link.context
    attributes = [sized(b"\x22", _attribute(name, value)) for name, value in (link.attributes or {}).items()]
    ids = (b"\x0a\x10", context.trace_id.to_bytes(16), b"\x12\x08", context.span_id.to_bytes(8))
    return b"".join((*ids, *attributes, _count(b"\x28", link.dropped_attributes), b"\x35", _remote(context)))


def _status(status: Status) -> bytes:
    code = status.status_code.value
    told = _text(b"\x12", status.description) if status.description else b""
    return sized(b"\x7a", told + _count(b"\x18", code))


def _remote(context: SpanContext | None) -> bytes:
    return _HAS_REMOTE_AND_IS if context is not None and context.is_remote else _HAS_REMOTE


@functools.lru_cache(2_048, typed=True)
def _known(name: str, value: object) -> bytes:
    """An attribute of a span: most of them are said again and again."""
    return sized(b"\x4a", _attribute(name, value))


def _attribute(name: str, value: object) -> bytes:
    if type(value) is str and len(data := value.encode(errors="replace")) < len(_SHORT_TEXTS):
        return _name(name) + _SHORT_TEXTS[len(data)] + data
    return _name(name) + sized(b"\x12", _value(value))


@functools.lru_cache(1024)
def _name(name: str) -> bytes:
    return _text(b"\x0a", name)


def _value(value: object) -> bytes:  # noqa: PLR0911  # one for each kind of value
    if isinstance(value, str):
        return _text(b"\x0a", value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int) and -_LARGEST <= value < _LARGEST:
        return b"\x18" + _varint(value % 2**64)
    if isinstance(value, float):
        return _DOUBLE(0x21, value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return sized(b"\x3a", value)
    if isinstance(value, Sequence):
        return sized(b"\x2a", b"".join(sized(b"\x0a", _value(one)) for one in value))
    if isinstance(value, Mapping):
        return sized(b"\x32", b"".join(sized(b"\x0a", _attribute(str(name), one)) for name, one in value.items()))
    return _text(b"\x0a", str(value))  # a number of more than 64 bits


def _text(field: bytes, text: str) -> bytes:
    return sized(field, text.encode(errors="replace"))


def sized(field: bytes, data: bytes) -> bytes:
    """`data` as a field that says its length."""
    size = len(data)
    return field + (_BYTES[size] if size < len(_BYTES) else _varint(size)) + data


def _count(field: bytes, number: int) -> bytes:
    return field + _varint(number) if number else b""


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= len(_BYTES):
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
