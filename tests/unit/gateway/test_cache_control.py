from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from common.deadline import Deadline
from common.telemetry.timings import Timings
from gateway.access.authentication import Caller
from gateway.access.keys import Policy
from gateway.caching.cache_control import Plan, plan_of
from gateway.call import CHAT, EMBEDDINGS, Call
from support.cache_service import ALICE, BOUND_S

if TYPE_CHECKING:
    from gateway.access.keys import CachePolicy


def plan(*directives: str, policy: CachePolicy = "all", endpoint: str = CHAT, **fields: Any) -> Plan:
    return plan_of(
        Call(
            Caller("alice", "key1", Policy(cache=policy)),
            ALICE,
            "req_1",
            endpoint,
            {"model": "m", **fields},
            b"{}",
            Deadline.after(BOUND_S),
            Timings(),
            cache_control=frozenset(directives),
        )
    )


def test_by_default_the_cache_is_read_and_written() -> None:
    assert plan() == Plan(looks=True, keeps=True)


def test_no_cache_wants_a_fresh_answer_that_is_stored() -> None:
    assert plan("no-cache") == Plan(looks=False, keeps=True, why="no-cache")


@pytest.mark.parametrize("others", [(), ("no-cache",), ("max-age=5",), ("only-if-cached",)])
def test_no_store_passes_the_cache_by_whatever_else_is_said(others: tuple[str, ...]) -> None:
    assert plan("no-store", *others).is_bypass


@pytest.mark.parametrize(
    ("directives", "most_s"),
    [(("max-age=60",), 60), (('max-age="60"',), 60), (("max-age=60", "max-age=5"), 5), (("max-age=soon",), 0)],
)
def test_the_least_age_that_is_named_counts(directives: tuple[str, ...], most_s: float) -> None:
    assert plan(*directives) == Plan(max_age_s=most_s)


def test_a_directive_that_nobody_knows_changes_nothing() -> None:
    assert plan("no-transform", "x=1") == plan()


def test_a_policy_of_off_passes_the_cache_by_and_says_so() -> None:
    assert plan(policy="off") == Plan(looks=False, keeps=False, why="policy-off")


@pytest.mark.parametrize(
    "fields", [{"temperature": 0}, {"temperature": 0.0}, {"seed": 0}, {"seed": 7, "temperature": 1}]
)
def test_a_deterministic_policy_takes_a_seed_or_a_temperature_of_zero(fields: dict[str, Any]) -> None:
    assert plan(policy="deterministic", **fields) == Plan()


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.1}, {"temperature": None}, {"seed": None}, {"top_p": 0.1}])
def test_and_passes_the_cache_by_for_all_else(fields: dict[str, Any]) -> None:
    assert plan(policy="deterministic", **fields).why == "policy-deterministic"


def test_embeddings_are_deterministic() -> None:
    assert plan(policy="deterministic", endpoint=EMBEDDINGS) == Plan()
