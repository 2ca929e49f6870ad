"""A pytest plugin, `-p support.leaks`: fails the test that leaves a connection behind whose event loop has ended.

What nobody refers to any more tells of itself when it is collected, and warnings are errors; what somebody still refers
to is looked for. It costs about a tenth of a second a test, so it is not always on.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    yield
    gc.collect()
    gc.collect()
    left = [
        what for what in gc.get_objects() if isinstance(what, asyncio.StreamWriter | asyncio.Task) and _is_left(what)
    ]
    assert not left, left


def _is_left(what: asyncio.StreamWriter | asyncio.Task[object]) -> bool:
    if isinstance(what, asyncio.Task):
        return what.get_loop().is_closed() and not what.done()
    loop: asyncio.AbstractEventLoop = what._loop  # type: ignore[attr-defined]  # it has no other way to ask
    return loop.is_closed() and not what.is_closing()
