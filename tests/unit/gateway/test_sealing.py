from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.caching.sealing import SealBrokenError, Sealer

SECRET = "a-secret-of-the-gateway"
NAME = "0" * 64
ANSWER = b'{"choices": []}'


def sealed(value: bytes = ANSWER) -> bytes:
    return Sealer(SECRET).seal(value, tenant="alice", place=NAME)


def opens(
    data: bytes, tenant: str = "alice", place: str = NAME, secret: str = SECRET, expected: bytes = ANSWER
) -> bool:
    try:
        return Sealer(secret).open(data, tenant=tenant, place=place) == expected
    except SealBrokenError:
        return False


@given(value=st.binary(max_size=100), tenant=st.text(st.characters(codec="utf-8"), min_size=1, max_size=10))
def test_what_was_sealed_opens_for_its_tenant_and_request(value: bytes, tenant: str) -> None:
    sealer = Sealer(SECRET)
    assert sealer.open(sealer.seal(value, tenant=tenant, place=NAME), tenant=tenant, place=NAME) == value


@pytest.mark.parametrize("count", [1, 100, 10_000])
def test_the_events_of_a_stream_shrink_and_open_whole(count: int) -> None:
    value = b"".join(b'data: {"choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % at for at in range(count))
    data = sealed(value)
    assert opens(data, expected=value)
    assert len(data) < len(value) / 5 or count == 1


def test_what_is_deflated_is_told_by_the_seal_and_not_by_a_byte_that_anybody_may_flip() -> None:
    for value in (b"short", b"long " * 10_000):
        data = sealed(value)
        for version in (b"\x01", b"\x02"):
            assert opens(version + data[1:], expected=value) == (version == data[:1])


def test_another_process_with_the_same_secret_opens_it() -> None:
    assert opens(sealed())


def test_while_the_secret_is_rotated_what_the_old_one_sealed_opens_and_the_new_one_seals() -> None:
    rotating = Sealer("another-secret-of-the-gateway", SECRET)
    assert rotating.open(sealed(), tenant="alice", place=NAME) == ANSWER
    assert opens(rotating.seal(ANSWER, tenant="alice", place=NAME), secret="another-secret-of-the-gateway")
    assert not opens(rotating.seal(ANSWER, tenant="alice", place=NAME))
    with pytest.raises(SealBrokenError):
        rotating.open(sealed(), tenant="bob", place=NAME)


def test_fingerprints_are_made_with_the_secret_in_use_alone() -> None:
    new, old = "another-secret-of-the-gateway", SECRET
    assert Sealer(new, old).fingerprint_key == Sealer(new).fingerprint_key != Sealer(old).fingerprint_key


def test_it_opens_for_no_other_tenant_request_or_secret() -> None:
    assert not opens(sealed(), tenant="bob")
    assert not opens(sealed(), place="1" + NAME[1:])
    assert not opens(sealed(), secret="another-secret-of-the-gateway")


def test_a_tenant_and_a_request_cannot_be_told_apart_wrongly() -> None:
    sealer = Sealer(SECRET)
    data = sealer.seal(ANSWER, tenant="b:alice", place="a")
    with pytest.raises(SealBrokenError):
        sealer.open(data, tenant="alice", place="a:b")


def test_one_flipped_bit_anywhere_breaks_the_seal() -> None:
    data = sealed()
    for place in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        assert not opens(bytes(damaged))


def test_an_entry_cut_anywhere_does_not_open() -> None:
    data = sealed()
    for length in range(len(data)):
        with pytest.raises(SealBrokenError):
            Sealer(SECRET).open(data[:length], tenant="alice", place=NAME)


def test_bytes_that_follow_an_entry_break_the_seal() -> None:
    assert not opens(sealed() + b"\x00")


def test_the_answer_does_not_show_and_no_two_seals_are_alike() -> None:
    one, other = sealed(), sealed()
    assert ANSWER not in one
    assert one != other


def test_more_tenants_than_are_remembered_still_open_their_entries() -> None:
    sealer = Sealer(SECRET)
    data = sealer.seal(ANSWER, tenant="alice", place=NAME)
    for number in range(4_200):
        sealer.seal(b"", tenant=f"tenant{number}", place=NAME)
    assert sealer.open(data, tenant="alice", place=NAME) == ANSWER
