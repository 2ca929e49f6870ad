from __future__ import annotations

import asyncio
import dataclasses

import pytest

from common.errors import Unauthenticated, Unavailable
from gateway.authentication import FRESH_S, STALE_S, STORE_REST_S, UNKNOWN_S, Authenticator, Caller, bearer
from gateway.errors import StoreUnavailableError
from gateway.keys import ApiKey, KeyRecord, generate_key, record_for
from support.clock import Clock

PEPPER = "a-pepper-kept-elsewhere"
KEY = generate_key("live")
RECORD = record_for(KEY.text, pepper=PEPPER, tenant="alice", name="laptop")
ALICE = Caller("alice", KEY.kid)


class Store:
    """Key records, and a switch that takes the store away."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.kid: record for record in records}
        self.is_away = False
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def fetch(self, kid: str) -> KeyRecord | None:
        self.asked.append(kid)
        await self.answers.wait()
        if self.is_away:
            raise StoreUnavailableError("TimeoutError")
        return self.records.get(kid)


@pytest.fixture
def store() -> Store:
    return Store(RECORD)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authenticator(store: Store, clock: Clock) -> Authenticator:
    return Authenticator(store.fetch, [PEPPER], clock=clock, wall_clock=Clock(1_700_000_000.0))


async def ask(authenticator: Authenticator, key: ApiKey = KEY) -> Caller:
    return await authenticator.authenticate(f"Bearer {key.text}")


async def is_refused(authenticator: Authenticator, key: ApiKey = KEY) -> bool:
    try:
        await ask(authenticator, key)
    except Unauthenticated as error:
        return error.status == 401
    return False


async def is_unavailable(authenticator: Authenticator, key: ApiKey = KEY) -> bool:
    try:
        await ask(authenticator, key)
    except Unavailable as error:
        return error.code == "key_store_unavailable" and "retry-after" in error.headers
    return False


async def test_a_live_key_is_its_tenants(authenticator: Authenticator) -> None:
    assert await ask(authenticator) == ALICE


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {KEY.text}", KEY.text, f"Bearer {KEY.text}0", "Bearer \xe9"]
)
async def test_what_is_no_key_is_refused_without_asking_the_store(
    authenticator: Authenticator, store: Store, header: str | None
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.authenticate(header)
    assert refused.value.headers["www-authenticate"] == "Bearer"
    assert store.asked == []


async def test_the_scheme_is_read_in_any_case(authenticator: Authenticator) -> None:
    assert await authenticator.authenticate(f"bEARER  {KEY.text} ") == ALICE


async def test_a_key_is_fresh_for_ten_seconds_and_then_asked_about_again(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    clock.advance(FRESH_S - 0.1)
    await ask(authenticator)
    assert len(store.asked) == 1
    clock.advance(0.1)
    await ask(authenticator)
    assert len(store.asked) == 2


async def test_an_unknown_key_is_remembered_for_five_seconds(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    stranger = generate_key("live")
    assert await is_refused(authenticator, stranger)
    clock.advance(UNKNOWN_S - 0.1)
    assert await is_refused(authenticator, stranger)
    assert len(store.asked) == 1
    store.records[stranger.kid] = record_for(stranger.text, pepper=PEPPER, tenant="bob", name="new")
    clock.advance(0.1)
    assert (await ask(authenticator, stranger)).tenant == "bob"


@pytest.mark.parametrize("change", [{"enabled": False}, {"expires_at": 1.0}, None])
async def test_a_key_that_is_revoked_is_refused_within_ten_seconds(
    authenticator: Authenticator, store: Store, clock: Clock, change: dict[str, object] | None
) -> None:
    assert await ask(authenticator) == ALICE
    if change is None:
        del store.records[KEY.kid]
    else:
        store.records[KEY.kid] = dataclasses.replace(RECORD, **change)  # type: ignore[arg-type]  # two of its fields
    clock.advance(FRESH_S)
    assert await is_refused(authenticator)


async def test_a_key_expires_although_its_record_is_fresh(store: Store, clock: Clock) -> None:
    wall_clock = Clock(1_700_000_000.0)
    store.records[KEY.kid] = dataclasses.replace(RECORD, expires_at=wall_clock() + 1)
    authenticator = Authenticator(store.fetch, [PEPPER], clock=clock, wall_clock=wall_clock)
    assert await ask(authenticator) == ALICE
    wall_clock.advance(1)
    assert await is_refused(authenticator)


async def test_while_the_store_is_away_a_key_seen_in_the_last_ten_minutes_stays_good(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    store.is_away = True
    for _ in range(3):
        clock.advance(STALE_S / 3 - 0.1)
        assert await ask(authenticator) == ALICE
    clock.advance(0.3)
    assert await is_unavailable(authenticator)


async def test_while_the_store_is_away_nobody_can_tell_about_an_unknown_key(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    stranger = generate_key("live")
    assert await is_refused(authenticator, stranger)
    store.is_away = True
    clock.advance(UNKNOWN_S)
    assert await is_unavailable(authenticator, stranger)
    assert await is_unavailable(authenticator, generate_key("live"))


async def test_a_store_that_failed_is_left_alone_for_a_second_and_then_tried_again(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    store.is_away = True
    assert await is_unavailable(authenticator)
    assert await is_unavailable(authenticator)
    assert len(store.asked) == 1
    store.is_away = False
    clock.advance(STORE_REST_S)
    assert await ask(authenticator) == ALICE


async def test_a_key_that_was_revoked_during_an_outage_is_refused_once_the_store_is_back(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    store.is_away = True
    clock.advance(FRESH_S)
    assert await ask(authenticator) == ALICE
    del store.records[KEY.kid]
    store.is_away = False
    clock.advance(STORE_REST_S)
    assert await is_refused(authenticator)


async def test_a_thousand_requests_with_one_key_ask_one_question(authenticator: Authenticator, store: Store) -> None:
    store.answers.clear()
    asking = [asyncio.create_task(ask(authenticator)) for _ in range(1_000)]
    await asyncio.sleep(0)
    store.answers.set()
    assert await asyncio.gather(*asking) == [ALICE] * 1_000
    assert len(store.asked) == 1


async def test_keys_do_not_wait_for_each_others_questions(authenticator: Authenticator, store: Store) -> None:
    store.answers.clear()
    asking = [asyncio.create_task(is_refused(authenticator, generate_key("live"))) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(store.asked) == 3
    store.answers.set()
    assert await asyncio.gather(*asking) == [True] * 3


async def test_a_client_that_leaves_does_not_take_the_answer_from_the_others(
    authenticator: Authenticator, store: Store
) -> None:
    store.answers.clear()
    first, second = (asyncio.create_task(ask(authenticator)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    store.answers.set()
    assert await second == ALICE
    assert first.cancelled()


async def test_another_key_with_a_known_id_is_not_the_known_key(authenticator: Authenticator, store: Store) -> None:
    other = generate_key("live")
    store.records[other.kid] = dataclasses.replace(RECORD, kid=other.kid)
    assert await ask(authenticator) == ALICE
    assert await is_refused(authenticator, other)


async def test_keys_under_the_previous_pepper_stay_good_during_a_rotation(store: Store) -> None:
    rotating = Authenticator(store.fetch, ["a-new-pepper-kept-elsewhere", PEPPER], wall_clock=Clock())
    assert await ask(rotating) == ALICE
    assert await is_refused(Authenticator(store.fetch, ["a-new-pepper-kept-elsewhere"], wall_clock=Clock()))


@pytest.mark.parametrize(
    ("header", "token"),
    [(None, ""), ("Bearer x", "x"), ("bearer  x ", "x"), ("Basic x", ""), ("Bearer", ""), ("x", "")],
)
def test_the_token_is_what_follows_the_scheme(header: str | None, token: str) -> None:
    assert bearer(header) == token
