from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.deadline import Deadline
from common.errors import InvalidRequest, RateLimited, ServiceError, UpstreamFailed
from inference.batching import Batcher, Share
from inference.catalogue import Batching
from inference.errors import AttemptFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping

BOUND_S = 5
NOW = Batching(max_items=8, max_wait_ms=0)
LATER = Batching.model_construct(max_items=8, max_wait_ms=BOUND_S * 2000)
"""So long that only a full batch is sent."""


class Model:
    """An upstream that answers when it is told to, refuses what holds `bad`, and remembers what it was asked."""

    def __init__(self, *, is_open: bool = False, fails_with: AttemptFailedError | None = None) -> None:
        self.asked: list[list[str]] = []
        self.ended: list[str] = []
        self.opened = asyncio.Event()
        self.fails_with = fails_with
        if is_open:
            self.opened.set()

    async def __call__(self, body: Mapping[str, Any], deadline: Deadline) -> bytes:
        items = [body["input"]] if isinstance(body["input"], str) else body["input"]
        is_first = not self.asked
        self.asked.append(items)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self.opened.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        if self.fails_with is not None and not is_first:
            raise self.fails_with
        if any("bad" in item for item in items):
            error = InvalidRequest(f"Bad input among {items}")
            raise AttemptFailedError(error, "status_400")
        data = [{"index": place, "embedding": item} for place, item in enumerate(items)]
        return json.dumps({"data": data, "usage": {"prompt_tokens": sum(map(len, items))}}).encode()


def request(*items: str) -> dict[str, Any]:
    return {"model": "m", "input": list(items)}


def ask(
    batcher: Batcher, model: Model, *items: str, batching: Batching = NOW, kind: str = "t", patience_s: float = BOUND_S
) -> asyncio.Task[Share]:
    return asyncio.create_task(batcher.ask(kind, request(*items), Deadline.after(patience_s), batching, model))


def vectors(share: Share) -> list[str]:
    return [vector["embedding"] for vector in json.loads(share.body)["data"]]


async def under_way(batcher: Batcher, model: Model) -> asyncio.Task[Share]:
    """A call that has been sent and waits for its answer, so that what follows gathers."""
    first = ask(batcher, model, "first")
    await turns()
    assert model.asked == [["first"]]
    return first


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_request_that_finds_nothing_under_way_goes_at_once() -> None:
    batcher, model = Batcher(), Model(is_open=True)
    share = await ask(batcher, model, "a", batching=LATER)
    assert (vectors(share), share.requests, model.asked) == (["a"], 1, [["a"]])
    assert batcher.is_idle


async def test_requests_that_come_meanwhile_go_together_and_each_gets_its_own() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        first = await under_way(batcher, model)
        others = [ask(batcher, model, f"{n}a", f"{n}b") for n in range(3)]
        await turns()
        model.opened.set()
        shares = await asyncio.gather(*others)
        await first
    assert model.asked == [["first"], ["0a", "0b", "1a", "1b", "2a", "2b"]]
    assert [vectors(share) for share in shares] == [[f"{n}a", f"{n}b"] for n in range(3)]
    assert {share.requests for share in shares} == {3}
    assert batcher.is_idle


async def test_of_those_that_share_a_call_one_reports_it_and_its_inputs_are_told_once() -> None:
    told: list[int] = []
    batcher, model = Batcher(told.append), Model()
    async with asyncio.timeout(BOUND_S):
        first = await under_way(batcher, model)
        others = [ask(batcher, model, f"{n}a", f"{n}b") for n in range(3)]
        left = ask(batcher, model, "left")
        await turns()
        left.cancel()
        model.opened.set()
        shares = await asyncio.gather(*others)
        assert not (await first).rides_along
    assert sorted(share.rides_along for share in shares) == [False, True, True]
    assert told == [1, 7]


async def test_of_those_that_share_a_failure_one_reports_it() -> None:
    batcher = Batcher()
    model = Model(fails_with=AttemptFailedError(UpstreamFailed("away"), "status_503", is_retryable=True))
    async with asyncio.timeout(BOUND_S):
        first = await under_way(batcher, model)
        others = [ask(batcher, model, f"{n}") for n in range(3)]
        await turns()
        model.opened.set()
        failures = await asyncio.gather(*others, return_exceptions=True)
        await first
    assert sorted(one.rides_along for one in failures if isinstance(one, AttemptFailedError)) == [False, True, True]


async def test_a_full_batch_waits_no_longer_and_none_is_more_than_full() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        others = [ask(batcher, model, *"abc", batching=LATER) for _ in range(3)]  # 9 inputs; 8 go into one
        await turns()
        assert [len(items) for items in model.asked] == [1, 6]
        others += [ask(batcher, model, *"defgh", batching=LATER)]
        await turns()
        assert [len(items) for items in model.asked] == [1, 6, 8]
        model.opened.set()
        assert [vectors(share) for share in await asyncio.gather(*others)] == [["a", "b", "c"]] * 3 + [list("defgh")]


async def test_requests_for_other_targets_are_not_joined() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        other = ask(batcher, model, "a", batching=LATER, kind="another target")
        await turns()
        assert model.asked == [["first"], ["a"]]
        model.opened.set()
        await other


async def test_one_that_the_upstream_refuses_fails_alone_and_is_told_of_itself_only() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        good, bad = ask(batcher, model, "a secret of alice"), ask(batcher, model, "bad")
        await turns()
        model.opened.set()
        assert vectors(await good) == ["a secret of alice"]
        with pytest.raises(AttemptFailedError) as failed:
            await bad
    assert "alice" not in failed.value.error.message
    assert model.asked[1:] == [["a secret of alice", "bad"], ["a secret of alice"], ["bad"]]
    assert batcher.is_idle


async def test_a_failure_that_all_share_is_each_ones_own_exception_in_our_words() -> None:
    shown = RateLimited("Too many tokens: 'a secret of alice'", headers={"retry-after": "7"})
    batcher = Batcher()
    model = Model(fails_with=AttemptFailedError(shown, "status_429", is_retryable=True, retry_after_s=7))
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        others = [ask(batcher, model, "a"), ask(batcher, model, "b")]
        await turns()
        model.opened.set()
        one, other = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(one, AttemptFailedError)
    assert isinstance(other, AttemptFailedError)
    assert one.error is not other.error
    one.error.headers["x-upstream-attempts"] = "1"
    assert other.error.headers == {"retry-after": "7"}
    assert (other.reason, other.is_retryable, other.retry_after_s) == ("status_429", True, 7)
    assert (other.error.status, "alice" in other.error.message) == (429, False)
    assert len(model.asked) == 2  # nobody was asked alone: the upstream has had enough


async def test_refused_credentials_are_not_tried_once_more_for_each() -> None:
    refused = AttemptFailedError(UpstreamFailed("no", code="upstream_auth"), "status_401")
    batcher, model = Batcher(), Model(fails_with=refused)
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        others = [ask(batcher, model, "a"), ask(batcher, model, "b")]
        await turns()
        model.opened.set()
        results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(result) for result in results] == [AttemptFailedError] * 2
    assert len(model.asked) == 2


async def test_one_that_leaves_before_the_call_is_not_in_it() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        stays, leaves = ask(batcher, model, "a", batching=LATER), ask(batcher, model, "b", batching=LATER)
        await turns()
        leaves.cancel()
        await turns()
        full = ask(batcher, model, *"cdefghi", batching=LATER)
        await turns()
        model.opened.set()
        assert (vectors(await stays), vectors(await full)) == (["a"], list("cdefghi"))
    assert leaves.cancelled()
    assert model.asked[1] == list("acdefghi")


async def test_the_last_one_that_leaves_before_the_call_takes_it_along() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        first = await under_way(batcher, model)
        leaves = ask(batcher, model, "b", batching=LATER)
        await turns()
        leaves.cancel()
        model.opened.set()
        await first
        await turns()
    assert model.asked == [["first"]]
    assert batcher.is_idle


async def test_one_that_leaves_a_call_under_way_leaves_the_others_their_answers() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        await under_way(batcher, model)
        stays, leaves = ask(batcher, model, *"abcd", batching=LATER), ask(batcher, model, *"efgh", batching=LATER)
        await turns()
        leaves.cancel()
        await turns()
        model.opened.set()
        assert vectors(await stays) == list("abcd")
    assert model.ended == []


async def test_a_call_that_everybody_has_left_is_cancelled() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        first = await under_way(batcher, model)
        others = [ask(batcher, model, *"abcd", batching=LATER), ask(batcher, model, *"efgh", batching=LATER)]
        await turns()
        assert len(model.asked) == 2
        for other in others:
            other.cancel()
        await turns()
        assert model.ended == ["cancelled"]
        model.opened.set()
        await first
    assert batcher.is_idle


async def test_an_end_of_the_service_ends_every_call_and_every_wait() -> None:
    batcher, model = Batcher(), Model()
    async with asyncio.timeout(BOUND_S):
        async with batcher.running():
            first = await under_way(batcher, model)
            sent = [ask(batcher, model, *items, batching=LATER) for items in ("abcd", "efgh")]
            gathering = ask(batcher, model, "i", batching=LATER)
            await turns()
            assert len(model.asked) == 2
        ends = await asyncio.gather(*sent, gathering, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
        model.opened.set()
        await first
    assert batcher.is_idle


@given(draw=st.data())
@settings(deadline=None, max_examples=60)
def test_whoever_comes_leaves_and_fails_each_gets_what_it_would_get_alone(draw: st.DataObject) -> None:
    texts = st.lists(st.sampled_from(["a", "bb", "ccc", "bad"]), min_size=1, max_size=4)
    requests = draw.draw(st.lists(st.tuples(texts, st.booleans(), st.integers(0, 3)), min_size=1, max_size=12))
    max_items = draw.draw(st.integers(2, 9))

    async def scenario() -> None:
        batcher, model = Batcher(), Model()
        tasks = []
        for place, (items, _, pause) in enumerate(requests):
            named = [f"{place}:{item}" for item in items]
            batching = Batching.model_construct(max_items=max_items, max_wait_ms=0)
            tasks.append(ask(batcher, model, *named, batching=batching))
            await turns(pause)
        for task, (_, leaves, _) in zip(tasks, requests, strict=True):
            if leaves:
                task.cancel()
        model.opened.set()
        async with asyncio.timeout(BOUND_S):
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await turns()
        tokens = 0
        for place, ((items, leaves, _), result) in enumerate(zip(requests, results, strict=True)):
            if leaves:
                assert isinstance(result, asyncio.CancelledError)
            elif "bad" in items:
                assert isinstance(result, AttemptFailedError)
                assert isinstance(result.error, ServiceError)
                assert all(f"{place}:{item}" in result.error.message for item in items)
            else:
                assert isinstance(result, Share)
                assert vectors(result) == [f"{place}:{item}" for item in items]
                tokens += json.loads(result.body)["usage"]["prompt_tokens"]
        assert all(len(asked) <= max(max_items, 4) for asked in model.asked)
        assert tokens <= sum(len(item) for asked in model.asked for item in asked)
        assert batcher.is_idle

    asyncio.run(scenario())
