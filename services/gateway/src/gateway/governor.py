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
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.responses import Response

    from gateway.call import Call
    from gateway.decision import Decision
    from gateway.idempotency.keyed_requests import KeyedRequests
    from gateway.limits.admission import Admission
    from gateway.limits.limiter import Limiter

_TOLD = {"model": wire.MODEL, "target": wire.TARGET, "attempts": wire.ATTEMPTS}
_TOO_MANY_REQUESTS = 429


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

        try:
            _check_model(call)
            return await self.keyed_requests.serve(call, admit_and_answer, self._admit_replay)
        except ServiceError as error:
            _note_answer(call.decision, error.status, error.headers)
            call.decision.note("outcome", error.own_code)
            raise

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
        _note_answer(call.decision, response.status_code, response.headers)
        return response

    async def submit(self, call: Call, accept: Callable[[Call], Awaitable[Response]]) -> Response:
        """Have `call` accepted as a job. That pays the request rate; everything else is paid when the job runs.

        Its `Idempotency-Key` is the queue's to keep: it is one with the job.
        """
        try:
            _check_model(call)
            await self._admit_rate(call)
            response = await accept(call)
        except ServiceError as error:
            _note_answer(call.decision, error.status, error.headers)
            call.decision.note("outcome", error.own_code)
            raise
        call.decision.note("status", response.status_code)
        return response


def _check_model(call: Call) -> None:
    models = call.caller.policy.models
    if models is not None and call.model not in models:
        raise no_such_model()


def no_such_model() -> NotFound:
    """As inference says it of a model that does not exist: a key does not learn what others may use."""
    return NotFound("The model does not exist, or you may not use it.", param="model", code="model_not_found")


def _note_answer(decision: Decision, status: int, headers: Mapping[str, str]) -> None:
    for key, header in _TOLD.items():
        if header in headers:
            decision.note(key, headers[header])
    if status == _TOO_MANY_REQUESTS:
        decision.facts.setdefault("refused", "upstream")  # whoever refuses here has said so already
    decision.note("status", status)
