from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING

import pytest

from common.errors import Unauthenticated, Unavailable
from gateway.access.authentication import RECHECK_S, Authenticator, Caller, bearer
from gateway.access.failed_logins import FailedLogins, TooManyFailedLogins
from gateway.access.key_directory import FRESH_S, LOOK_UP_S, STALE_S, UNKNOWN_S, KeyDirectory, Known
from gateway.access.keys import NO_LIMITS, ApiKey, digest_of, generate_key
from gateway.access.records import KeyRecord, TenantRecord, policy_of, record_for
from gateway.errors import StoreUnavailableError
from gateway.store_breaker import StoreBreaker
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PEPPER = "a-pepper-kept-elsewhere"
KEY = generate_key("live")
RECORD = record_for(KEY.text, pepper=PEPPER, tenant="alice", name="laptop")
ALICE = Caller("alice", KEY.kid)
ADDRESS = "192.0.2.7"


class Store:
    """Key records, and a switch that takes the store away."""

    def __init__(self, *records: KeyRecord) -> None:
        self.records = {record.kid: record for record in records}
        self.tenants: dict[str, TenantRecord] = {}
        self.is_away = False
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.probed = asyncio.Event()

    async def fetch(self, kid: str) -> Known | None:
        self.asked.append(kid)
        await self.answers.wait()
        if self.is_away:
            raise StoreUnavailableError("TimeoutError")
        record = self.records.get(kid)
        return None if record is None else Known.of(record, self.tenants.get(record.tenant))

    async def probe(self) -> bool:
        return not self.is_away

    async def sleep(self, _: float) -> None:
        """Until a test says that it is time for the next probe."""
        await self.probed.wait()
        self.probed.clear()

    async def heal(self) -> None:
        self.is_away = False
        self.probed.set()
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def store() -> Store:
    return Store(RECORD)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wall_clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
async def directory(store: Store, clock: Clock) -> AsyncIterator[KeyDirectory]:
    breaker = StoreBreaker(store.probe, sleep=store.sleep)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(breaker.close)
        yield KeyDirectory(store.fetch, breaker, clock=clock)


@pytest.fixture
def used() -> list[str]:
    return []


@pytest.fixture
def authenticator(directory: KeyDirectory, clock: Clock, wall_clock: Clock, used: list[str]) -> Authenticator:
    logins = FailedLogins(20, clock=clock)
    note_used = lambda kid, _: used.append(kid)  # noqa: E731  # a list is all that it needs
    return Authenticator(directory, logins, [PEPPER], note_used=note_used, wall_clock=wall_clock)


async def ask(authenticator: Authenticator, key: ApiKey = KEY, address: str = ADDRESS) -> Caller:
    return await authenticator.authenticate(f"Bearer {key.text}", address)


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


async def test_a_live_key_is_its_tenants_and_its_use_is_noted(authenticator: Authenticator, used: list[str]) -> None:
    assert await ask(authenticator) == ALICE
    assert used == [KEY.kid]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {KEY.text}", KEY.text, f"Bearer {KEY.text}0", "Bearer \xe9"]
)
async def test_what_is_no_key_is_refused_without_asking_the_store(
    authenticator: Authenticator, store: Store, header: str | None
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.authenticate(header, ADDRESS)
    assert refused.value.headers["www-authenticate"] == "Bearer"
    assert store.asked == []


async def test_the_scheme_is_read_in_any_case(authenticator: Authenticator) -> None:
    assert await authenticator.authenticate(f"bEARER  {KEY.text} ", ADDRESS) == ALICE


async def test_a_caller_has_the_policy_of_its_key_and_tenant(authenticator: Authenticator, store: Store) -> None:
    store.records[KEY.kid] = dataclasses.replace(RECORD, models=("m",), cache="off", priority="batch")
    store.tenants["alice"] = TenantRecord("alice", limits=dataclasses.replace(NO_LIMITS.key_limits, max_concurrency=3))
    caller = await ask(authenticator)
    assert caller.policy == policy_of(store.records[KEY.kid], store.tenants["alice"])
    assert caller.policy.tenant_limits.max_concurrency == 3


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


async def test_an_answer_is_as_old_as_its_question(authenticator: Authenticator, store: Store, clock: Clock) -> None:
    store.answers.clear()
    asking = asyncio.create_task(ask(authenticator))
    for _ in range(2):  # the question is a task of the task
        await asyncio.sleep(0)
    assert store.asked
    clock.advance(FRESH_S)
    store.answers.set()
    await asking
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


@pytest.mark.parametrize("change", ["disabled", "expired", "deleted", "tenant disabled"])
async def test_a_key_that_is_revoked_is_refused_within_ten_seconds(
    authenticator: Authenticator, store: Store, clock: Clock, change: str
) -> None:
    assert await ask(authenticator) == ALICE
    if change == "deleted":
        del store.records[KEY.kid]
    elif change == "tenant disabled":
        store.tenants["alice"] = TenantRecord("alice", enabled=False)
    elif change == "expired":
        store.records[KEY.kid] = dataclasses.replace(RECORD, expires_at=1.0)
    else:
        store.records[KEY.kid] = dataclasses.replace(RECORD, enabled=False)
    clock.advance(FRESH_S)
    assert await is_refused(authenticator)


async def test_a_change_through_this_process_counts_at_once(
    authenticator: Authenticator, directory: KeyDirectory, store: Store
) -> None:
    assert await ask(authenticator) == ALICE
    del store.records[KEY.kid]
    directory.forget(KEY.kid)
    assert await is_refused(authenticator)
    store.records[KEY.kid] = RECORD
    directory.forget_all()
    assert await ask(authenticator) == ALICE


async def test_a_key_expires_although_its_record_is_fresh(
    authenticator: Authenticator, store: Store, wall_clock: Clock
) -> None:
    store.records[KEY.kid] = dataclasses.replace(RECORD, expires_at=wall_clock() + 1)
    assert await ask(authenticator) == ALICE
    wall_clock.advance(1)
    assert await is_refused(authenticator)


async def test_a_key_that_was_rotated_elsewhere_works_although_its_record_is_fresh(
    authenticator: Authenticator, store: Store, clock: Clock, wall_clock: Clock
) -> None:
    assert await ask(authenticator) == ALICE
    new = generate_key("live", KEY.kid)
    store.records[KEY.kid] = RECORD.rotated(digest_of(new.text, PEPPER), wall_clock() + 60)
    clock.advance(RECHECK_S)
    assert await ask(authenticator, new) == ALICE
    assert await ask(authenticator) == ALICE
    wall_clock.advance(60)
    assert await is_refused(authenticator)
    assert await ask(authenticator, new) == ALICE


async def test_guessing_at_a_known_id_asks_the_store_once_a_second(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    for _ in range(10):
        assert await is_refused(authenticator, generate_key("live", KEY.kid))
    assert len(store.asked) == 1
    clock.advance(RECHECK_S)
    for _ in range(5):
        assert await is_refused(authenticator, generate_key("live", KEY.kid))
    assert len(store.asked) == 2


async def test_a_network_that_fails_too_often_is_told_to_wait_and_nobody_is_asked(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    for _ in range(20):
        assert await is_refused(authenticator, generate_key("live"))
    asked = len(store.asked)
    for stranger in (f"Bearer {generate_key('live').text}", "Bearer x", None):
        with pytest.raises(TooManyFailedLogins) as refused:
            await authenticator.authenticate(stranger, "192.0.2.200")
        assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "3")
    assert len(store.asked) == asked
    assert await ask(authenticator) == ALICE, "a key that was good lately suffers nothing for its neighbours"
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate("Bearer x", "198.51.100.1")
    clock.advance(3)
    assert await is_refused(authenticator, generate_key("live"))
    clock.advance(FRESH_S - 3)
    for _ in range(20):
        authenticator.failed_logins.note(ADDRESS)
    assert await ask(authenticator) == ALICE
    clock.advance(60)
    assert await is_refused(authenticator, generate_key("live"))


async def test_while_the_store_is_away_a_key_seen_in_the_last_ten_minutes_stays_good(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    store.is_away = True
    for _ in range(3):
        clock.advance(STALE_S / 3 - 0.1)
        assert await ask(authenticator) == ALICE
    assert len(store.asked) == 2, "who may wait for a store that is away waits once"
    clock.advance(0.3)
    assert await is_unavailable(authenticator)


async def test_while_the_store_is_away_a_key_that_only_another_replica_met_is_good(
    authenticator: Authenticator, directory: KeyDirectory, store: Store, clock: Clock
) -> None:
    directory.remember([Known.of(RECORD, None)], asked_at=clock())
    clock.advance(FRESH_S)
    store.is_away = True
    assert await ask(authenticator) == ALICE
    assert await is_refused(authenticator, generate_key("live", KEY.kid))


async def test_while_the_store_is_away_nobody_can_tell_about_an_unknown_key(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    stranger = generate_key("live")
    assert await is_refused(authenticator, stranger)
    store.is_away = True
    clock.advance(UNKNOWN_S)
    assert await is_unavailable(authenticator, stranger)
    assert await is_unavailable(authenticator, generate_key("live"))


async def test_a_store_that_failed_is_left_alone_until_a_probe_succeeds(
    authenticator: Authenticator, store: Store
) -> None:
    store.is_away = True
    for _ in range(5):
        assert await is_unavailable(authenticator)
    assert len(store.asked) == 1
    store.probed.set()
    await asyncio.sleep(0)
    assert await is_unavailable(authenticator)
    await store.heal()
    assert await ask(authenticator) == ALICE


async def test_a_frozen_store_is_waited_for_a_quarter_of_a_second_and_once(
    authenticator: Authenticator, store: Store
) -> None:
    store.answers.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await is_unavailable(authenticator)
    assert loop.time() - began >= LOOK_UP_S - 0.01
    store.is_away = True
    assert await is_unavailable(authenticator)
    assert len(store.asked) == 1


async def test_a_key_that_was_revoked_during_an_outage_is_refused_once_the_store_is_back(
    authenticator: Authenticator, store: Store, clock: Clock
) -> None:
    await ask(authenticator)
    store.is_away = True
    clock.advance(FRESH_S)
    assert await ask(authenticator) == ALICE
    del store.records[KEY.kid]
    await store.heal()
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


async def test_another_key_with_a_known_id_is_not_the_known_key(authenticator: Authenticator) -> None:
    assert await ask(authenticator) == ALICE
    assert await is_refused(authenticator, generate_key("live", KEY.kid))


async def test_keys_under_the_previous_pepper_stay_good_during_a_rotation(directory: KeyDirectory) -> None:
    rotating = Authenticator(directory, FailedLogins(20), ["a-new-pepper-kept-elsewhere", PEPPER])
    assert await ask(rotating) == ALICE
    assert await is_refused(Authenticator(directory, FailedLogins(20), ["a-new-pepper-kept-elsewhere"]))


@pytest.mark.parametrize(
    ("header", "token"),
    [(None, ""), ("Bearer x", "x"), ("bearer  x ", "x"), ("Basic x", ""), ("Bearer", ""), ("x", "")],
)
def test_the_token_is_what_follows_the_scheme(header: str | None, token: str) -> None:
    assert bearer(header) == token


def test_a_revocation_bites_within_ten_seconds_and_within_ten_minutes_of_an_outage() -> None:
    assert FRESH_S <= 10
    assert STALE_S <= 600


async def test_a_trace_goes_on_for_a_key_that_is_trusted_remembered_and_right(
    authenticator: Authenticator, store: Store, clock: Clock, wall_clock: Clock
) -> None:
    shown = f"Bearer {KEY.text}"
    store.records[KEY.kid] = dataclasses.replace(RECORD, trusted_trace=True, expires_at=wall_clock() + 2 * STALE_S)
    assert not authenticator.trusts_trace(shown)  # nobody has asked about it yet
    await ask(authenticator)
    assert authenticator.trusts_trace(shown)
    forged = generate_key("live", KEY.kid)  # ids are public
    assert not authenticator.trusts_trace(f"Bearer {forged.text}")
    assert not authenticator.trusts_trace("")
    clock.advance(STALE_S + 1)
    assert not authenticator.trusts_trace(shown)


async def test_a_trace_does_not_go_on_for_a_key_that_nobody_trusts_with_it_or_that_is_over(
    authenticator: Authenticator, store: Store, wall_clock: Clock
) -> None:
    await ask(authenticator)
    assert not authenticator.trusts_trace(f"Bearer {KEY.text}")
    store.records[KEY.kid] = dataclasses.replace(RECORD, trusted_trace=True, expires_at=wall_clock() + 5)
    authenticator._directory.forget(KEY.kid)
    await ask(authenticator)
    wall_clock.advance(6)
    assert not authenticator.trusts_trace(f"Bearer {KEY.text}")
