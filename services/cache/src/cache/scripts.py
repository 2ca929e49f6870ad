"""The Lua scripts beside this module, each described at its top."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis


class Script(Protocol):
    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> Any: ...


def load(store: Redis, name: str) -> Script:
    script: Script = store.register_script((files("cache") / f"{name}.lua").read_text())
    return script
