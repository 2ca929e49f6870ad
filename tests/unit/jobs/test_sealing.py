from __future__ import annotations

import pytest

from jobs.sealing import SealBrokenError, Sealer

OLD, NEW = "the-old-secret-0123456789", "the-new-secret-0123456789"
OF = {"tenant": "alice", "job_id": "job_1", "field": "request"}


def test_what_was_sealed_opens_again_and_shows_nothing() -> None:
    sealer = Sealer([NEW])
    sealed = sealer.seal(b"a prompt", **OF)
    assert b"prompt" not in sealed
    assert sealer.open(sealed, **OF) == b"a prompt"
    assert sealer.seal(b"a prompt", **OF) != sealed


@pytest.mark.parametrize("other", [{"tenant": "bob"}, {"job_id": "job_2"}, {"field": "result"}])
def test_it_opens_as_nothing_but_what_it_is(other: dict[str, str]) -> None:
    sealer = Sealer([NEW])
    with pytest.raises(SealBrokenError):
        sealer.open(sealer.seal(b"x", **OF), **(OF | other))


@pytest.mark.parametrize("damaged", [b"", b"\x01", b"\x01" + b"0" * 11, b"\x02" + b"0" * 40, b"\x01" + b"0" * 40])
def test_damaged_bytes_do_not_open(damaged: bytes) -> None:
    with pytest.raises(SealBrokenError):
        Sealer([NEW]).open(damaged, **OF)


def test_the_secret_before_a_rotation_still_opens_and_no_longer_seals() -> None:
    before, during, after = Sealer([OLD]), Sealer([NEW, OLD]), Sealer([NEW])
    assert during.open(before.seal(b"x", **OF), **OF) == b"x"
    assert after.open(during.seal(b"x", **OF), **OF) == b"x"
    with pytest.raises(SealBrokenError):
        after.open(before.seal(b"x", **OF), **OF)


def test_digests_are_keyed() -> None:
    assert Sealer([NEW]).digest(b"key") == Sealer([NEW]).digest(b"key") != Sealer([OLD]).digest(b"key")
