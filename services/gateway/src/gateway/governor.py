"""What every call to a model passes on its way in, in one visible order, and what it gives back at its end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.reservation import Reservation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

    from gateway.call import Call


@dataclass(frozen=True, slots=True)
class Governor:
    async def serve(self, call: Call, answer: Callable[[Call], Awaitable[Response]]) -> Response:
        """Admit `call`, then `answer` it. What it holds is given back when the answer is over, whatever ended it."""
        admitted = replace(call, reservation=Reservation())
        call.ending.callback(admitted.reservation.release)
        return await answer(admitted)

    async def submit(self, call: Call, accept: Callable[[Call], Awaitable[Response]]) -> Response:
        """Have `call` accepted as a job. That pays the request rate; everything else is paid when the job runs."""
        await self._admit_rate(call)
        return await accept(call)

    async def _admit_rate(self, call: Call) -> None:
        """The request rate alone."""
