"""How an answer reaches the client: in time, in pieces, and broken in the way the directive asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from simulator.answers import DONE
from simulator.errors import ApiError, ScriptedFailure, envelope

if TYPE_CHECKING:
    from simulator.directive import Behaviour, How
    from simulator.exchange import Exchange

_EVENTS_PER_WRITE = 16  # without pauses; one write an event costs five times the CPU of the whole stream
_SSE = b"text/event-stream; charset=utf-8"
_HTML = b"text/html; charset=utf-8"
_PAGE = b"<!doctype html><title>Bad gateway</title><h1>This is a page, not an answer</h1>\n"
_GARBAGE = b"\x00\xff\xfe this is neither SSE nor JSON }{ \x80\n"
_ERROR = envelope("The simulator was told to fail.", type_="server_error", code="simulated_failure")


async def begin(exchange: Exchange, behaviour: Behaviour, attempt: int) -> How | None:
    """Wait for the first token and do what comes before the status line. Returns what will go wrong after it.

    Raises `ScriptedFailure`, or `ConnectionGone` when the connection was to end here.
    """
    fault = behaviour.fault(attempt)
    if fault in ("fin", "rst") and exchange.transport is None:
        raise ApiError(f"how={fault} needs a server that runs with simulator.transport.SimulatorProtocol.", status=501)
    exchange.note_fault(fault)
    await exchange.pause(behaviour.ttft_ms / 1000)
    if behaviour.status is not None and behaviour.misbehaves(attempt):
        raise ScriptedFailure(behaviour.status, behaviour.retry_after)
    if fault in ("fin", "rst", "stall") and behaviour.cut_after is None:
        await _break_off(exchange, fault)
    return fault


async def whole(exchange: Exchange, body: bytes, behaviour: Behaviour, fault: How | None) -> None:
    """An answer that is not streamed."""
    kept = body[: len(body) // 2] if behaviour.cut_after else b""
    match fault:
        case None:
            await exchange.answer(200, body)
        case "html":
            await exchange.answer(200, _PAGE, content_type=_HTML)
        case "error":
            await exchange.answer(200, _ERROR)
        case "garbage":
            await exchange.answer(200, _GARBAGE)
        case "end" | "done":
            await exchange.answer(200, kept)
        case "fin" | "rst" | "stall":
            await exchange.start(200, [(b"content-length", b"%d" % len(body))])
            await exchange.write(kept)
            await _break_off(exchange, fault)


async def stream(exchange: Exchange, events: list[bytes], behaviour: Behaviour, fault: How | None) -> None:
    """An answer as SSE. A cut that lies behind the last event does not happen."""
    if fault == "html":
        await exchange.answer(200, _PAGE, content_type=_HTML)
        return
    cut_after = behaviour.cut_after or 0
    if fault is None or cut_after >= len(events):
        kept, fault = events, None
        exchange.note_fault(None)
    else:
        kept = events[:cut_after]
    await exchange.start(200, [(b"cache-control", b"no-cache")], content_type=_SSE)
    await _write_events(exchange, kept, behaviour.itl_ms / 1000)
    match fault:
        case "error":
            await exchange.write(b"data: " + _ERROR + b"\n\n")
        case "garbage":
            await exchange.write(_GARBAGE)
        case "done":
            await exchange.write(DONE)
        case "fin" | "rst" | "stall":
            await _break_off(exchange, fault)
    await exchange.end()


async def _write_events(exchange: Exchange, events: list[bytes], itl_s: float) -> None:
    if itl_s == 0:
        for start in range(0, len(events), _EVENTS_PER_WRITE):
            batch = events[start : start + _EVENTS_PER_WRITE]
            await exchange.write(b"".join(batch), chunks=len(batch) - (batch[-1] is DONE))
        return
    for place, event in enumerate(events):
        if event is DONE:
            await exchange.write(event)
        else:
            if place:
                await exchange.pause(itl_s)
            await exchange.write(event, chunks=1)


async def _break_off(exchange: Exchange, how: How) -> NoReturn:
    if how == "stall":
        await exchange.silence()
    await exchange.close(abruptly=how == "rst")
