from __future__ import annotations

import dataclasses
import json

import pytest

from gateway.access.keys import NO_LIMITS, Limits, digest_of, generate_key
from gateway.access.records import KeyRecord, TenantRecord, policy_of, record_for

PEPPER = "a-pepper-kept-elsewhere"
KEY = generate_key("live")


def test_a_record_knows_its_key_under_the_pepper_alone() -> None:
    record = record_for(KEY.text, pepper=PEPPER, tenant="alice", name="laptop")
    assert record.is_of([digest_of(KEY.text, PEPPER)])
    assert record.is_of([digest_of(KEY.text, "the new pepper"), digest_of(KEY.text, PEPPER)])
    assert not record.is_of([digest_of(KEY.text, "another pepper")])
    assert not record.is_of([digest_of(generate_key("live").text, PEPPER)])
    assert not record.is_of([])


def test_a_record_is_only_made_for_a_key() -> None:
    with pytest.raises(ValueError, match="not a Spillway key"):
        record_for("sw_live_nonsense", pepper=PEPPER, tenant="alice", name="laptop")


def test_a_record_survives_its_journey_and_fields_of_a_later_version() -> None:
    record = KeyRecord("0" * 16, "d" * 64, "alice", "laptop", enabled=False, expires_at=12.5)
    assert KeyRecord.from_json(record.to_json()) == record
    assert KeyRecord.from_json(record.to_json()[:-1] + b',"rpm":60}') == record


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]", b"null", b"5", b'"x"', b'{"kid":"0"}', b"\xff"])
def test_a_damaged_record_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        KeyRecord.from_json(data)


@pytest.mark.parametrize(
    ("enabled", "expires_at", "is_live"),
    [(True, None, True), (True, 100.1, True), (True, 100.0, False), (True, 99.0, False), (False, None, False)],
)
def test_a_key_lives_while_it_is_enabled_and_not_expired(
    enabled: bool, expires_at: float | None, is_live: bool
) -> None:
    record = KeyRecord("0" * 16, "d" * 64, "alice", "laptop", enabled=enabled, expires_at=expires_at)
    assert record.is_live(100.0) is is_live


def test_a_record_of_the_first_version_still_reads() -> None:
    old = {"kid": "0" * 16, "digest": "d" * 64, "tenant": "alice", "name": "x", "enabled": True, "expires_at": None}
    record = KeyRecord.from_json(json.dumps(old).encode())
    assert record == KeyRecord("0" * 16, "d" * 64, "alice", "x")
    assert policy_of(record, TenantRecord("alice")) == NO_LIMITS


def test_a_record_with_limits_survives_its_journey() -> None:
    limits = Limits(requests_per_minute=5, budget_usd_per_day=0.5, mode="shadow")
    record = KeyRecord(
        "0" * 16, "d" * 64, "alice", "x", models=("a", "b"), limits=limits, model_limits={"a": limits},
        cache="off", priority="batch", created_at=1.5, previous_digest="e" * 64, previous_until=2.5,
    )  # fmt: skip
    assert KeyRecord.from_json(record.to_json()) == record
    tenant = TenantRecord("alice", enabled=False, limits=limits, model_limits={"b": limits})
    assert TenantRecord.from_json(tenant.to_json()) == tenant
    policy = policy_of(record, tenant)
    assert (policy.models, policy.cache, policy.priority) == (frozenset({"a", "b"}), "off", "batch")
    assert policy.key_limits == policy.tenant_limits == policy.key_model_limits["a"] == limits
    assert policy.tenant_model_limits == {"b": limits}


def test_the_key_before_a_rotation_is_good_until_its_grace_ends() -> None:
    old, new = KEY, generate_key("live", KEY.kid)
    record = record_for(old.text, pepper=PEPPER, tenant="alice", name="x").rotated(digest_of(new.text, PEPPER), 100.0)
    assert (old.kid, old.text == new.text) == (new.kid, False)
    assert record.is_of([digest_of(new.text, PEPPER)], 1e9)
    assert record.is_of([digest_of(old.text, PEPPER)], 99.9)
    assert not record.is_of([digest_of(old.text, PEPPER)], 100.0)


def test_a_record_without_a_rotation_has_no_second_key() -> None:
    record = record_for(KEY.text, pepper=PEPPER, tenant="alice", name="x")
    assert not dataclasses.replace(record, previous_until=1e12).is_of([digest_of(generate_key("live").text, PEPPER)])


def test_what_is_shown_of_a_record_opens_nothing() -> None:
    record = record_for(KEY.text, pepper=PEPPER, tenant="alice", name="x").rotated("e" * 64, 100.0)
    assert "digest" not in str(record.shown())
    assert record.digest not in str(record.shown())
    assert record.previous_digest is not None
    assert record.previous_digest not in str(record.shown())
