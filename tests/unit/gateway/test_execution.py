"""A request with an `Idempotency-Key`, run once: what the end of a run waits for, and what it does not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from starlette.responses import Response

from gateway.access.keys import Limits, Policy
from gateway.idempotency.errors import RecordLostError
from gateway.idempotency.execution import Execution
from gateway.idempotency.recording import Recorded
from gateway.idempotency.records import Claim, Keeping, Records
from gateway.idempotency.run import Follower
from support.limits import call_under

BOUND_S = 5


class Deaf:
    """Records whose client swallows the first cancellation, as asyncio's `wait_for` does in Python 3.11 when what it
    waits for has just come.
    """

    def __init__(self) -> None:
        self.keeping = Keeping(lease_s=0.03)
        self.asked = asyncio.Event()
        self.finished = b""

    async def claim(self, *_: Any, **__: Any) -> Claim:
        return Claim("claimed")

    async def renew(self, *_: Any, **__: Any) -> float | None:
        is_first = not self.asked.is_set()
        self.asked.set()
        try:
            await asyncio.sleep(BOUND_S if is_first else 0)
        except asyncio.CancelledError:
            if not is_first:
                raise
        return 0.0

    async def finish(self, *_: Any, answer: bytes, **__: Any) -> bool:
        self.finished = answer
        return True

    async def release(self, *_: Any, **__: Any) -> None: ...


async def test_an_answer_is_given_although_the_store_client_swallowed_the_end_of_the_renewals() -> None:
    records = Deaf()

    async def answer(_: object) -> Response:
        await records.asked.wait()
        return Response(b"{}", media_type="application/json")

    execution = Execution("name", "body", tenant="alice", records=cast("Records", records))
    execution.join(Follower(call_under(Policy(Limits(), Limits())), answer))
    async with asyncio.timeout(BOUND_S):
        outcome = await execution.run()
    assert (outcome.recorded.status, outcome.recorded.body) == (200, b"{}")
    assert records.finished.endswith(b"{}")


class Taken(Deaf):
    """Records of one whose lease ran out while it was frozen: somebody else has finished meanwhile."""

    def __init__(self, theirs: bytes) -> None:
        super().__init__()
        self.keeping = Keeping(lease_s=3 * BOUND_S)
        self.claims = [Claim("claimed"), Claim("running", lease_left_s=1), Claim("done", answer=theirs)]

    async def claim(self, *_: Any, **__: Any) -> Claim:
        return self.claims.pop(0)

    async def finish(self, *_: Any, **__: Any) -> bool:
        raise RecordLostError


async def test_an_answer_that_comes_after_the_record_was_lost_gives_way_to_the_new_owners() -> None:
    theirs = Recorded(200, {"content-type": "application/json"}, b'{"whose": "theirs"}')

    async def answer(_: object) -> Response:
        return Response(b'{"whose": "mine"}', media_type="application/json")

    records = Taken(theirs.to_bytes())
    execution = Execution("name", "body", tenant="alice", records=cast("Records", records))
    execution.join(Follower(call_under(Policy(Limits(), Limits())), answer))
    async with asyncio.timeout(BOUND_S):
        outcome = await execution.run()
    assert outcome.recorded.body == theirs.body
