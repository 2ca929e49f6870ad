from __future__ import annotations

import pytest

from common.errors import InvalidRequest
from jobs.events import CHUNK_FIELD, EventLog, first_wanted, is_last
from jobs.sealing import Sealer

SEALER = Sealer(["a-secret-of-the-tests-0123456789"])
LOG = EventLog(SEALER, tenant="alice", job_id="job_1")


def state(name: str) -> bytes:
    return b's{"state":"%s","attempts":1,"at":1.000}' % name.encode()


def chunk(data: bytes) -> bytes:
    return b"c" + SEALER.seal(data, tenant="alice", job_id="job_1", field=CHUNK_FIELD)


def test_a_state_is_an_event_of_that_type_and_a_chunk_has_no_type() -> None:
    assert LOG.rendered(0, state("queued")) == (
        b'id: 0\nevent: state\ndata: {"state":"queued","attempts":1,"at":1.000}\n\n'
    )
    assert LOG.rendered(7, chunk(b'{"a":1}')) == b'id: 7\ndata: {"a":1}\n\n'


def test_the_answer_is_what_came_since_the_last_start() -> None:
    stored = [
        state("queued"), state("running"), chunk(b"1"), state("delayed"), state("queued"),
        state("running"), chunk(b"2"), chunk(b"3"), state("succeeded"),
    ]  # fmt: skip
    assert LOG.last_attempt(stored) == [b"2", b"3"]


@pytest.mark.parametrize("name", ["succeeded", "failed", "cancelled", "expired"])
def test_a_final_state_is_the_last_event(name: str) -> None:
    assert is_last(state(name))


@pytest.mark.parametrize("event", [state("queued"), state("running"), state("delayed"), chunk(b"{}")])
def test_nothing_else_is_the_last_event(event: bytes) -> None:
    assert not is_last(event)


def test_a_follower_goes_on_after_the_event_it_saw() -> None:
    assert [first_wanted(seen, 3) for seen in (None, "", "0", "1", "2")] == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("seen", ["3", "-1", "x", "1.0", "²", " 1", "9" * 5_000])
def test_an_id_that_no_event_has_is_refused(seen: str) -> None:
    with pytest.raises(InvalidRequest):
        first_wanted(seen, 3)
