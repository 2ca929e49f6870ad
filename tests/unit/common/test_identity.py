from __future__ import annotations

import jwt
import pytest

from common.errors import Unauthenticated
from common.identity import LIFETIME_S, HopIdentity, HopSigner, HopVerifier
from support.clock import Clock

SECRET = "the-secret-of-the-cache-0123456789abcdef"
OTHER = "another-secret-0123456789abcdef0123456789"
ALICE = HopIdentity("alice", "key1", "batch")
LEEWAY_S = 30


def refused(verifier: HopVerifier, authorization: str | None) -> bool:
    with pytest.raises(Unauthenticated) as error:
        verifier.verify(authorization)
    return error.value.code == "invalid_hop_token"


def forged(algorithm: str = "HS256", secret: str = SECRET, **claims: object) -> str:
    token = jwt.encode({"aud": "cache", "sub": "alice", "exp": 2_000_000} | claims, secret, algorithm=algorithm)
    return f"Bearer {token}"


def test_a_token_says_for_whom_the_call_is_made() -> None:
    clock = Clock()
    header = HopSigner(SECRET, "cache", clock=clock).authorization(ALICE)
    assert HopVerifier([SECRET], "cache", clock=clock).verify(header) == ALICE


def test_a_token_for_one_service_does_not_open_another() -> None:
    clock = Clock()
    header = HopSigner(SECRET, "inference", clock=clock).authorization(ALICE)
    assert refused(HopVerifier([SECRET], "cache", clock=clock), header)


def test_a_token_signed_with_another_secret_is_refused() -> None:
    clock = Clock()
    header = HopSigner(OTHER, "cache", clock=clock).authorization(ALICE)
    assert refused(HopVerifier([SECRET], "cache", clock=clock), header)


@pytest.mark.parametrize("was_seen_before", [True, False])
def test_a_token_ends_after_its_lifetime_and_the_leeway(was_seen_before: bool) -> None:
    clock = Clock()
    header = HopSigner(SECRET, "cache", clock=clock).authorization(ALICE)
    verifier = HopVerifier([SECRET], "cache", clock=clock)
    clock.advance(LIFETIME_S + LEEWAY_S)
    if was_seen_before:
        assert verifier.verify(header) == ALICE
    clock.advance(1)
    assert refused(verifier, header)


def test_during_a_rotation_both_secrets_are_accepted_and_afterwards_only_the_new_one() -> None:
    clock = Clock()
    old, new = (HopSigner(secret, "cache", clock=clock).authorization(ALICE) for secret in (SECRET, OTHER))
    rotating = HopVerifier([OTHER, SECRET], "cache", clock=clock)
    assert [rotating.verify(old), rotating.verify(new)] == [ALICE, ALICE]
    assert refused(HopVerifier([OTHER], "cache", clock=clock), old)


def test_a_token_without_a_signature_is_refused() -> None:
    assert refused(HopVerifier([SECRET], "cache", clock=Clock()), forged("none", secret=""))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    header = forged(algorithm, secret=SECRET * 2)
    assert refused(HopVerifier([SECRET * 2], "cache", clock=Clock()), header)


@pytest.mark.parametrize("missing", ["exp", "aud", "sub"])
def test_a_token_has_to_say_everything(missing: str) -> None:
    claims = {"aud": "cache", "sub": "alice", "exp": 2_000_000}
    del claims[missing]
    header = f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"
    assert refused(HopVerifier([SECRET], "cache", clock=Clock()), header)


def test_a_token_with_any_character_changed_is_refused() -> None:
    clock = Clock()
    header = HopSigner(SECRET, "cache", clock=clock).authorization(ALICE)
    verifier = HopVerifier([SECRET], "cache", clock=clock)
    # The last character of each part may carry unused bits, so it is left alone.
    ends = {place - 1 for place, character in enumerate(header) if character == "."} | {len(header) - 1}
    for place in range(len("Bearer "), len(header)):
        if place not in ends:
            other = "A" if header[place] != "A" else "B"
            assert refused(verifier, header[:place] + other + header[place + 1 :])
    assert verifier.verify(header) == ALICE


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer a.b.c", "Bearer \xe9\u4e2d"])
def test_what_is_no_token_is_refused(header: str | None) -> None:
    assert refused(HopVerifier([SECRET], "cache", clock=Clock()), header)


def test_a_token_is_reused_until_half_of_its_life_is_gone() -> None:
    clock = Clock()
    signer = HopSigner(SECRET, "cache", clock=clock)
    first = signer.authorization(ALICE)
    clock.advance(LIFETIME_S / 2)
    assert signer.authorization(ALICE) == first
    clock.advance(1)
    renewed = signer.authorization(ALICE)
    assert renewed != first
    clock.advance(LIFETIME_S / 2)
    assert HopVerifier([SECRET], "cache", clock=clock).verify(renewed) == ALICE


def test_a_reused_token_is_never_anybody_elses() -> None:
    clock = Clock()
    signer = HopSigner(SECRET, "cache", clock=clock)
    verifier = HopVerifier([SECRET], "cache", clock=clock)
    identities = [ALICE, HopIdentity("bob", "key1", "batch"), HopIdentity("alice", "key2"), HopIdentity("alice", "")]
    headers = [signer.authorization(identity) for identity in identities]
    assert [verifier.verify(header) for header in headers + headers] == identities + identities


def test_more_callers_than_are_remembered_are_still_told_apart() -> None:
    clock = Clock()
    signer = HopSigner(SECRET, "cache", clock=clock)
    verifier = HopVerifier([SECRET], "cache", clock=clock)
    for number in range(1_100):
        identity = HopIdentity(f"tenant{number}", "key")
        assert verifier.verify(signer.authorization(identity)) == identity


def test_the_keys_consent_to_capture_travels_with_the_call_and_is_not_there_by_default() -> None:
    clock = Clock()
    signer, verifier = HopSigner(SECRET, "cache", clock=clock), HopVerifier([SECRET], "cache", clock=clock)
    consenting = HopIdentity("alice", "key1", "batch", captures_content=True)
    assert verifier.verify(signer.authorization(consenting)) == consenting
    assert verifier.verify(signer.authorization(ALICE)).captures_content is False
    assert verifier.verify(forged(cap="true", exp=int(clock()) + 60)).captures_content is False
