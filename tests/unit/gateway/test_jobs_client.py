"""The jobs service as the gateway sees it: whatever it does while it is asked, the client is told that it is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest

from common.identity import HopIdentity, HopSigner
from gateway.jobs.jobs_client import JobsClient, JobsUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ALICE = HopIdentity("alice", "key1")


class BreaksOff(httpx2.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"error"'
        raise httpx2.ReadError("reset")


def client_that_answers(status: int) -> JobsClient:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, stream=BreaksOff()))
    client = httpx2.AsyncClient(transport=transport, base_url="http://jobs")
    return JobsClient(client, HopSigner("a-hop-secret-of-the-tests-0123456789abcdef", "jobs"))


@pytest.mark.parametrize("status", [200, 404])
async def test_an_answer_that_breaks_off_is_a_service_that_is_away(status: int) -> None:
    with pytest.raises(JobsUnavailable):
        await client_that_answers(status).request("GET", "/v1/jobs", identity=ALICE, request_id="req_1")


async def test_an_error_that_breaks_off_instead_of_events_is_one_too() -> None:
    with pytest.raises(JobsUnavailable):
        await client_that_answers(404).follow("/v1/jobs/j/events", identity=ALICE, request_id="req_1", headers={})
