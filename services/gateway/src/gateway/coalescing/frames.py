"""A flight between replicas: frames, each sealed for its tenant, its flight and its number.

The first is the head; then pieces; the last says how it ended. What is damaged, missing, repeated, out of order or
somebody else's does not open, and the follower makes a call of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from gateway.caching.sealing import SealBrokenError, Sealer
from gateway.coalescing.flight import Failure, Flight, FlightLostError, Head

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD, _PIECE, _DONE, _FAILED = b"h", b"p", b"d", b"x"


class FrameSealer:
    """Seals and opens the frames of one flight of one tenant, counting them."""

    def __init__(self, sealer: Sealer, *, tenant: str, name: str, flight: str) -> None:
        self._sealer = sealer
        self._tenant = tenant
        self._place = f"{name}/{flight}"
        self.count = 0

    def seal(self, frame: bytes) -> bytes:
        sealed = self._sealer.seal(frame, tenant=self._tenant, place=f"{self._place}/{self.count}")
        self.count += 1
        return sealed

    def open(self, sealed: bytes) -> bytes:
        """Raises `FlightLostError`."""
        try:
            frame = self._sealer.open(sealed, tenant=self._tenant, place=f"{self._place}/{self.count}")
        except SealBrokenError as error:
            raise FlightLostError from error
        self.count += 1
        return frame


def head(of: Head, traceparent: str) -> bytes:
    """`traceparent`: of the leader's request."""
    return _HEAD + orjson.dumps({"is_stream": of.is_stream, "headers": dict(of.headers), "traceparent": traceparent})


def pieces(of: Sequence[bytes]) -> bytes:
    return _PIECE + b"".join(of)


def ending(failure: Failure | None) -> bytes:
    if failure is None:
        return _DONE
    told = {
        "status": failure.status,
        "body": failure.body.decode(errors="replace"),
        "headers": dict(failure.headers),
        "is_told": failure.is_told,
    }
    return _FAILED + orjson.dumps(told)


def feed(flight: Flight, frame: bytes) -> None:
    """Let a follower's flight take what the leader's had. Raises `FlightLostError` for what is no frame."""
    kind, content = frame[:1], frame[1:]
    try:
        if kind == _HEAD:
            told = orjson.loads(content)
            flight.traceparent = str(told.get("traceparent", ""))
            flight.take_off(Head(told["is_stream"], told["headers"]))
        elif kind == _PIECE:
            flight.add(content)
        elif kind == _DONE:
            flight.land()
        elif kind == _FAILED:
            told = orjson.loads(content)
            flight.fail(Failure(told["status"], told["body"].encode(), told["headers"], told["is_told"]))
        else:
            raise FlightLostError
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise FlightLostError from error
