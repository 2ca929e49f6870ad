"""The *limits* store: runs scripts, many callers' in one round trip, and rests while the store is away.

What is asked while an answer is awaited goes out together in the next pipeline, so a busy process pays a client's price
once for many calls, an idle one waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, RedisError

from common.background import end
from common.lateness import answered_within
from common.telemetry.spans import UNTRACED, StoreSpans
from gateway.limits.errors import LimitsStoreAwayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 0.2
MOST_WAIT_S = 0.25
"""Of a caller in all: for those who are being answered when it comes, and then for its own answer."""
PROBE_EVERY_S = 0.5
PROBE_TIMEOUT_S = MOST_WAIT_S / 2
"""A store that takes longer keeps no caller's time who comes while another waits, so it would only come and go."""
PROBE_LIFE_MS = 1_000
LARGEST_BATCH = 128
_PROBE = "v1:limits:probe"

Word = str | int


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    text: str
    digest: str


def load_script(name: str) -> Script:
    text = (Path(__file__).parent / f"{name}.lua").read_text()
    return Script(name, text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324  # how EVALSHA names a script


@dataclass(frozen=True, slots=True)
class _Call:
    words: tuple[Word, ...]
    script: Script
    answer: asyncio.Future[Any]


class LimitsStore:
    """Every call ends within 0.2 s, or within 0.25 s behind others. A failure puts the store at rest: callers are told
    at once, nobody waits for it, and a probe in the background (a write each 0.5 s) finds out when it is back.
    """

    def __init__(
        self, client: Redis, *, clock: Callable[[], float] = time.monotonic, spans: StoreSpans = UNTRACED
    ) -> None:
        self._spans = spans
        self._client = client
        self._clock = clock
        self._waiting: list[_Call] = []
        self._sender: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self.times_away = 0

    @property
    def is_resting(self) -> bool:
        return self._probe is not None

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Within the body calls are sent; at its end what is under way is given up."""
        try:
            yield
        finally:
            tasks = [task for task in (self._sender, self._probe) if task is not None]
            await end(*tasks)
            self._give_up("stopped")

    def submit(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> asyncio.Future[Any]:
        """Run `script` with what else waits; the future raises `LimitsStoreAwayError`. So does this, while it rests."""
        if self.is_resting:
            raise LimitsStoreAwayError("resting")
        words: tuple[Word, ...] = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(words, script, answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return answer

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Word]) -> Any:
        """As `submit`, and wait for the answer."""
        return await self.submit(script, keys, arguments)

    async def hashes(self, names: Sequence[str]) -> list[dict[bytes, bytes]]:
        """The hashes of these names. Raises `LimitsStoreAwayError`."""
        return await self._read([("HGETALL", name) for name in names])

    async def members(self, names: Sequence[str]) -> list[set[bytes]]:
        """The sets of these names. Raises `LimitsStoreAwayError`."""
        return await self._read([("SMEMBERS", name) for name in names])

    async def _read(self, commands: Sequence[tuple[str, str]]) -> list[Any]:
        try:
            async with answered_within(CALL_TIMEOUT_S):
                pipeline = self._client.pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                with self._spans.in_background("read_usage"):
                    return await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise LimitsStoreAwayError(type(error).__name__) from error

    async def _send_all(self) -> None:
        behind_s = 0.0  # that those who wait now have waited, at most
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
                began = self._clock() - (behind_s if self._waiting else 0)  # it was too many for one batch
                try:
                    await self._send(batch, min(CALL_TIMEOUT_S, MOST_WAIT_S - behind_s))
                except (RedisError, OSError, TimeoutError) as error:
                    self._rest(type(error).__name__, batch)
                except Exception as error:  # whoever waits has to be told, whatever it was
                    logger.exception("limits_store_failed", extra={"error_type": type(error).__name__})
                    self._rest(type(error).__name__, batch)
                behind_s = self._clock() - began
        finally:
            self._sender = None

    async def _send(self, batch: Sequence[_Call], seconds: float) -> None:
        async with answered_within(seconds):
            answers = await self._pipeline([call.words for call in batch])
            unknown = {call.script for call, answer in zip(batch, answers, strict=True) if _is_unknown_script(answer)}
            if unknown:  # of a server that was restarted, or is new
                await self._pipeline([("SCRIPT", "LOAD", script.text) for script in unknown])
                again = [call for call, answer in zip(batch, answers, strict=True) if _is_unknown_script(answer)]
                fresh = iter(await self._pipeline([call.words for call in again]))
                answers = [next(fresh) if _is_unknown_script(answer) else answer for answer in answers]
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        for call, answer in zip(batch, answers, strict=True):
            if not isinstance(answer, Exception) and not call.answer.done():  # else its caller has gone
                call.answer.set_result(answer)
        if failures:  # READONLY, OOM, MISCONF, LOADING: it cannot count
            raise failures[0]

    async def _pipeline(self, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        return await pipeline.execute(raise_on_error=False)

    def _rest(self, reason: str, batch: Sequence[_Call]) -> None:
        self._waiting[:0] = batch
        if self._probe is None:
            self.times_away += 1
            logger.warning("limits_store_unavailable", extra={"reason": reason})
            self._probe = asyncio.create_task(self._await_return())
        self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            if not call.answer.done():
                call.answer.set_exception(LimitsStoreAwayError(reason))

    async def _await_return(self) -> None:
        since = self._clock()
        while not await self._takes_writes():  # noqa: ASYNC110  # another process: there is no event to wait for
            await asyncio.sleep(PROBE_EVERY_S)
        self._probe = None
        logger.info("limits_store_back", extra={"away_s": round(self._clock() - since, 2)})

    async def _takes_writes(self) -> bool:
        try:
            async with answered_within(PROBE_TIMEOUT_S):
                await self._client.set(_PROBE, 1, px=PROBE_LIFE_MS)
        except (RedisError, OSError, TimeoutError):
            return False
        return True


def _is_unknown_script(answer: object) -> bool:
    return isinstance(answer, NoScriptError)
