"""Ports for what has to be told its own, and listens there a second later."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket

_PORTS = range(29_500, 32_768)
"""Above those of whole stacks (`e2e.up_process`), and below those that the kernel hands out to everybody."""
_TURNS = itertools.count(random.SystemRandom().randrange(len(_PORTS)))


def free_port() -> int:
    """One that nobody listens on, and another each time: nobody else gets it before it is listened on."""
    for turn in itertools.islice(_TURNS, len(_PORTS)):
        port = _PORTS[turn % len(_PORTS)]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no free ports")
