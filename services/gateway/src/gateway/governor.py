"""What every call to a model passes on its way in, in one visible order, and what it gives back at its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

    from gateway.call import Call
    from gateway.idempotency.keyed_requests import KeyedRequests


@dataclass(frozen=True, slots=True)
class Governor:
    keyed_requests: KeyedRequests

    async def serve(self, call: Call, answer: Callable[[Call], Awaitable[Response]]) -> Response:
        """Admit `call`, then `answer` it, unless its `Idempotency-Key` has an answer already."""

        async def admit_and_answer(one: Call) -> Response:
            return await self._admit_and_answer(one, answer)

        return await self.keyed_requests.serve(call, admit_and_answer, self._admit_replay)

    async def _admit_replay(self, call: Call) -> None:
        """What a replay pays: the request rate alone."""

    async def _admit_and_answer(self, call: Call, answer: Callable[[Call], Awaitable[Response]]) -> Response:
        """What `call` holds is given back when the answer is over, whatever ended it."""
        admitted = replace(call, reservation=Reservation())
        call.ending.callback(admitted.reservation.release)
        return await answer(admitted)
