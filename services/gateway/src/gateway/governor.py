"""What every call to a model passes on its way in, in one visible order, and what it gives back at its end."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from common import wire
from common.errors import NotFound, RateLimited, ServiceError
from common.telemetry.refusals import Refusals
from gateway.limits.errors import TooLargeForLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.responses import Response

    from gateway.call import Call
    from gateway.idempotency.keyed_requests import KeyedRequests
    from gateway.limits.admission import Admission
    from gateway.limits.limiter import Limiter


@dataclass(frozen=True, slots=True)
class Governor:
    keyed_requests: KeyedRequests
    limits: Limiter
    refusals: Refusals = field(default_factory=Refusals)

    async def serve(self, call: Call, answer: Callable[[Call], Awaitable[Response]]) -> Response:
        """Admit `call`, then `answer` it, unless its `Idempotency-Key` has an answer already."""

        async def admit_and_answer(one: Call) -> Response:
            try:
                return await self._admit_and_answer(one, answer)
            except ServiceError as error:
                self.refusals.note(error)  # under an Idempotency-Key it becomes an answer that is kept
                raise

        if not _may_use(call):
            await self._admit_rate(call)  # as for a model that does not exist
            raise no_such_model()
        return await self.keyed_requests.serve(call, admit_and_answer, self._admit_replay)

    async def _admit_replay(self, call: Call) -> None:
        """What a replay pays: the request rate alone."""
        admission = await self._admit_rate(call)
        admission.is_cached = True

    async def _admit_rate(self, call: Call) -> Admission:
        admission = await self.limits.admit(call, rate_only=True)
        call.ending.callback(admission.reservation.release)
        return admission

    async def _admit_and_answer(self, call: Call, answer: Callable[[Call], Awaitable[Response]]) -> Response:
        """What `call` holds is given back when the answer is over, whatever ended it."""
        try:
            admission = await self.limits.admit(call)
        except TooLargeForLimit:
            with contextlib.suppress(RateLimited):  # no waiting helps: the refusal stands
                await self._admit_rate(call)  # it counts as a request, and its answer shows what is left
            raise
        call.ending.callback(admission.reservation.release)
        response = await answer(replace(call, reservation=admission.reservation))
        admission.hear(response.headers)
        call.decision.note_answer(response.status_code, response.headers)
        return response

    async def serve_at_request_rate(self, call: Call, answer: Callable[[Call], Awaitable[Response]]) -> Response:
        """Answer what runs no model: it pays the request rate alone."""
        await self._admit_rate(call)
        response = await answer(call)
        call.decision.note("status", response.status_code)
        return response

    async def submit(self, call: Call, accept: Callable[[Call], Awaitable[Response]]) -> Response:
        """Have `call` accepted as a job. That pays the request rate; everything else is paid when the job runs.

        Its `Idempotency-Key` is the queue's to keep: it is one with the job. A model that the catalogue lacks is
        refused here, by this gateway's copy of it; while that is not there yet, by the run.
        """

        async def accept_known(admitted: Call) -> Response:
            if not _may_use(admitted) or self.limits.catalogue.lacks(admitted.model):
                raise no_such_model()
            return await accept(admitted)

        return await self.serve_at_request_rate(call, accept_known)


def _may_use(call: Call) -> bool:
    models = call.caller.policy.models
    return models is None or call.model in models


def no_such_model() -> NotFound:
    """As inference says it of a model that does not exist: a key does not learn what others may use."""
    message = "The model does not exist, or you may not use it."
    return NotFound(message, param="model", code="model_not_found", headers=wire.FINAL)
