"""A worker's token at the gateway: whose call it is, and when it is none."""

from __future__ import annotations

import pytest

from common.errors import Unauthenticated, Unavailable
from common.identity import HopIdentity, HopSigner, HopVerifier
from gateway.access.key_directory import Known
from gateway.access.keys import generate_key
from gateway.access.records import KeyRecord, TenantRecord
from gateway.jobs.replays import KeyRevoked, ReplayAuthenticator, is_hop_token, is_workers
from support.clock import Clock

SECRET = "the-secret-of-the-tests-0123456789"
RECORD = KeyRecord(kid="k1", digest="d", tenant="alice", name="n", expires_at=2_000_000.0)


class Keys:
    def __init__(self, record: KeyRecord | None) -> None:
        self.record = record
        self.asked = 0
        self.is_away = False
        self.tenant: TenantRecord | None = None

    async def __call__(self, _: str) -> Known | None:
        self.asked += 1
        if self.is_away:
            raise Unavailable("test")
        return None if self.record is None else Known.of(self.record, self.tenant)


def authenticator(keys: Keys, clock: Clock) -> ReplayAuthenticator:
    return ReplayAuthenticator(HopVerifier([SECRET], "gateway", clock=clock), keys, wall_clock=clock)


def token(clock: Clock, *, tenant: str = "alice", audience: str = "gateway", secret: str = SECRET) -> str:
    return HopSigner(secret, audience, clock=clock).authorization(HopIdentity(tenant, "k1", "interactive"))


async def test_a_replay_is_the_tenants_call_at_batch_priority_whatever_its_token_says() -> None:
    clock = Clock()
    caller = await authenticator(Keys(RECORD), clock).authenticate(token(clock))
    assert (caller.tenant, caller.key_id, caller.policy.priority, caller.is_replay) == ("alice", "k1", "batch", True)


@pytest.mark.parametrize(
    "record", [None, KeyRecord("k1", "d", "alice", "n", enabled=False), KeyRecord("k1", "d", "bob", "n")]
)
async def test_a_key_that_is_not_live_or_not_the_tenants_is_refused(record: KeyRecord | None) -> None:
    clock = Clock()
    with pytest.raises(KeyRevoked):
        await authenticator(Keys(record), clock).authenticate(token(clock))


async def test_a_key_that_has_expired_or_whose_tenant_is_disabled_is_refused() -> None:
    clock, keys = Clock(), Keys(RECORD)
    workers = authenticator(keys, clock)
    await workers.authenticate(token(clock))
    keys.tenant = TenantRecord("alice", enabled=False)
    with pytest.raises(KeyRevoked):
        await workers.authenticate(token(clock))
    keys.tenant = None
    clock.advance(1_000_001)
    with pytest.raises(KeyRevoked):
        await workers.authenticate(token(clock))


async def test_while_the_keys_cannot_be_read_nobody_can_tell() -> None:
    clock, keys = Clock(), Keys(RECORD)
    keys.is_away = True
    with pytest.raises(Unavailable):
        await authenticator(keys, clock).authenticate(token(clock))


@pytest.mark.parametrize("wrong", [{"audience": "jobs"}, {"secret": "another-secret-of-the-tests-0123456789"}])
async def test_a_token_for_somebody_else_is_refused_and_its_trace_is_not_ours(wrong: dict[str, str]) -> None:
    clock, keys = Clock(), Keys(RECORD)
    with pytest.raises(Unauthenticated):
        await authenticator(keys, clock).authenticate(token(clock, **wrong))
    assert not is_workers(HopVerifier([SECRET], "gateway", clock=clock), token(clock, **wrong))
    assert is_workers(HopVerifier([SECRET], "gateway", clock=clock), token(clock))
    assert keys.asked == 0


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic eyJ", f"Bearer {generate_key('live').text}"])
def test_no_api_key_is_taken_for_a_token(authorization: str | None) -> None:
    assert not is_hop_token(authorization)
    assert not is_workers(HopVerifier([SECRET], "gateway"), authorization or "")
