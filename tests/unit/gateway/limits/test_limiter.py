"""One call's way through the limits, with a store that decides, is late, is away, or is not there at all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from common.errors import RateLimited
from common.usage import Usage
from gateway.access.keys import Limits, Policy
from gateway.limits.errors import LimitsStoreAwayError
from gateway.limits.learning import Experience
from gateway.limits.ledger import NO_MODEL, Ledger
from gateway.limits.limiter import Limiter
from gateway.limits.local import LocalLimits
from support.limits import MODEL, call_under, known_models

if TYPE_CHECKING:
    from gateway.limits.settling import Settling
    from gateway.limits.store import LimitsStore

SIX = Policy(Limits(requests_per_minute=6, tokens_per_minute=6_000))
ADMITTED = [1, 5_000_000, 0, 0, 0, 10_000_000, 1_000_000, 0, 0, 0]
LATE = [2, 5_000_000, 0, 0]


class Store:
    """Answers what it is told to; None: it is away."""

    def __init__(self, *answers: list[int] | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, Any]] = []
        self.pending: asyncio.Future[Any] | None = None

    def submit(self, _: object, keys: Any, words: Any) -> asyncio.Future[Any]:
        self.asked.append((keys, words))
        answer = self.answers.pop(0) if self.answers else None
        if answer is None:
            raise LimitsStoreAwayError("resting")
        self.pending = asyncio.get_running_loop().create_future()
        if answer != [-1]:
            self.pending.set_result(answer)
        return self.pending


class Settled:
    """What the store would be told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, Any]] = []

    def settle(self, _: str, keys: Any, words: Any) -> None:
        self.told.append((keys, words))

    def keep(self, *_: Any) -> None:
        pass


def _limiter(store: Store | None, *, replicas: int = 1, settled: Settled | None = None) -> Limiter:
    return Limiter(
        known_models(),
        LocalLimits(replicas),
        Experience(),
        Ledger(None),
        cast("LimitsStore | None", store),
        cast("Settling | None", settled),
        replicas=replicas,
    )


async def test_a_key_without_limits_asks_no_store() -> None:
    store, call = Store(), call_under(Policy())
    await _limiter(store).admit(call)
    assert store.asked == []
    assert call.decision.facts == {"limits": "none"}


async def test_what_the_store_says_is_shown() -> None:
    call = call_under(SIX, max_tokens=10)
    await _limiter(Store(ADMITTED)).admit(call)
    assert call.answer_headers["x-ratelimit-remaining-requests"] == "5"
    assert "x-ratelimit-degraded" not in call.answer_headers
    assert call.decision.facts["limits"] == "exact"


async def test_a_store_that_is_away_leaves_each_process_its_share() -> None:
    limiter = _limiter(Store(), replicas=3)
    calls = [call_under(SIX, max_tokens=10) for _ in range(3)]
    await limiter.admit(calls[0])
    await limiter.admit(calls[1])
    with pytest.raises(RateLimited):
        await limiter.admit(calls[2])
    assert [call.answer_headers["x-ratelimit-degraded"] for call in calls] == ["1"] * 3
    assert calls[0].answer_headers["x-ratelimit-limit-requests"] == "2"
    assert calls[0].decision.facts["limits"] == "local"
    assert limiter.outcomes["degraded", "", ""] == 2


async def test_without_a_store_a_process_limits_alone_and_nothing_is_degraded() -> None:
    limiter, call = _limiter(None, replicas=3), call_under(SIX, max_tokens=10)
    await limiter.admit(call)
    assert call.answer_headers["x-ratelimit-limit-requests"] == "2"
    assert "x-ratelimit-degraded" not in call.answer_headers
    with pytest.raises(LimitsStoreAwayError):
        await limiter.ledger.rows(["20270131"], tenant="alice")


async def test_an_admission_that_came_too_late_is_asked_for_once_more() -> None:
    store, call = Store(LATE, ADMITTED), call_under(SIX, max_tokens=10)
    await _limiter(store).admit(call)
    assert len(store.asked) == 2
    assert "x-ratelimit-degraded" not in call.answer_headers
    late = call_under(SIX, max_tokens=10)
    await _limiter(Store(LATE, LATE)).admit(late)
    assert late.answer_headers["x-ratelimit-degraded"] == "1"


async def test_what_was_taken_for_a_caller_who_has_gone_is_given_back() -> None:
    store, settled = Store([-1]), Settled()
    call = call_under(SIX, max_tokens=10)
    admission = asyncio.create_task(_limiter(store, settled=settled).admit(call))
    await asyncio.sleep(0)
    admission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await admission
    assert store.pending is not None
    assert settled.told == []
    store.pending.set_result(ADMITTED)
    await asyncio.sleep(0)
    ((_, words),) = settled.told
    assert words[3] < 0  # tokens go back
    assert words[2] == 0  # the request stays counted


async def test_the_store_hears_the_whole_of_what_was_granted_without_it() -> None:
    settled = Settled()
    admission = await _limiter(Store(), settled=settled).admit(call_under(SIX, max_tokens=10))
    admission.reservation.usage = Usage(20, 40)
    admission.reservation.release()
    ((_, words),) = settled.told
    assert words[2:4] == [10_000_000, 600_000]


async def test_an_answer_teaches_and_an_estimate_does_not() -> None:
    limiter = _limiter(Store(*[ADMITTED] * 20))
    for usage in [Usage(1, 2_000, is_estimated=True)] * 6 + [Usage(1, 20)] * 6:
        admission = await limiter.admit(call_under(SIX))
        admission.reservation.usage = usage
        admission.reservation.release()
    assert limiter.experience.output_tokens("k1", "m") <= 21


async def test_a_call_that_is_admitted_twice_is_settled_twice() -> None:
    settled = Settled()
    limiter, call = _limiter(Store(ADMITTED, ADMITTED), settled=settled), call_under(SIX, max_tokens=10)
    for admission in [await limiter.admit(call), await limiter.admit(call)]:
        admission.reservation.release()
    first, second = (keys[0] for keys, _ in settled.told)
    assert first != second


@pytest.mark.parametrize(("passed_s", "written"), [(0.0, 0), (0.25, 25), (60.0, 100)])
async def test_a_whole_answer_that_was_given_up_costs_its_share_of_what_was_reserved(
    passed_s: float, written: int
) -> None:
    limiter = _limiter(Store(ADMITTED))
    now = 0.0
    limiter.clock = lambda: now
    told = limiter.ledger = Told()
    admission = await limiter.admit(call_under(SIX, max_tokens=100))
    now = passed_s
    admission.reservation.usage = Usage(20, 0, is_estimated=True)
    admission.reservation.is_unheard = True
    admission.reservation.release()
    ((_, measures),) = told.rows_told
    assert (measures["input_tokens"], measures["output_tokens"]) == (20, written)


class Told(Ledger):
    def __init__(self) -> None:
        super().__init__(None)
        self.rows_told: list[tuple[str, Any]] = []

    def add(self, tenant: str, key_id: str, model: str, measures: Any) -> None:  # noqa: ARG002  # the interface
        self.rows_told.append((model, measures))


async def test_what_only_counts_as_a_request_is_no_hit_and_keeps_no_name_that_a_client_made_up() -> None:
    limiter = _limiter(Store())
    told = limiter.ledger = Told()
    for name in ("acme/made-up", MODEL):
        (await limiter.admit(call_under(Policy(), model=name), rate_only=True)).reservation.release()
    assert told.rows_told == [(NO_MODEL, {"requests": 1}), (MODEL, {"requests": 1})]
