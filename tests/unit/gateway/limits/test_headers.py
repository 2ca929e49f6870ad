"""`x-ratelimit-*` in OpenAI's names and format: the tightest limit of each kind."""

from __future__ import annotations

import pytest

from gateway.access.keys import Limits
from gateway.decision import HEADER, Decision
from gateway.limits.headers import duration, show
from gateway.limits.scopes import Claim, Scope
from gateway.limits.verdict import Standing, Verdict

KEY = Claim.of(Scope("key", Limits(60, 1_000, 4, 1.0, 5.0), "k"), 100)
TENANT = Claim.of(Scope("tenant", Limits(requests_per_minute=10, tokens_per_minute=10_000), "t"), 100)


def _shown(*standings: Standing, claims: list[Claim], replicas: int = 1, is_exact: bool = True) -> dict[str, str]:
    headers: dict[str, str] = {}
    verdict = Verdict(is_admitted=True, now_us=0, day=0, month=0, standings=standings, is_exact=is_exact)
    show(verdict, claims, headers, Decision(headers), replicas=replicas)
    return headers


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "0ms"),
        (1, "1ms"),
        (120_000, "120ms"),
        (999_000, "999ms"),
        (1_000_000, "1s"),
        (1_000_001, "2s"),
        (59_000_000, "59s"),
        (60_000_000, "1m0s"),
        (360_000_000, "6m0s"),
        (3_723_000_000, "1h2m3s"),
        (3_600_000_000, "1h0m0s"),
    ],
)
def test_a_duration_as_openai_writes_it(us: int, text: str) -> None:
    assert duration(us) == text


def test_a_duration_is_never_shorter_than_true() -> None:
    assert duration(999_001) == "1000ms"
    assert duration(59_999_999) == "1m0s"


def test_what_is_left_of_each_kind_and_when_it_is_full() -> None:
    shown = _shown(Standing(0, 30_000_000, 6_000_000, 1, 250_000, 250_000), claims=[KEY])
    assert {name: value for name, value in shown.items() if name != HEADER} == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "30",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "6s",
    }
    assert shown[HEADER] == (
        "requests=30/60@key; tokens=900/1000@key; concurrency=3/4@key; day_micro_usd=750000/1000000@key; "
        "month_micro_usd=4750000/5000000@key"
    )


def test_the_tightest_limit_of_each_kind_is_shown() -> None:
    full = Standing(0, 0, 0, 0, 0, 0)
    shown = _shown(full, full, claims=[KEY, TENANT])
    assert (shown["x-ratelimit-limit-requests"], shown["x-ratelimit-limit-tokens"]) == ("10", "1000")


def test_nothing_left_is_zero_and_never_less() -> None:
    shown = _shown(Standing(3, 90_000_000, 90_000_000, 9, 2_000_000, 9_000_000), claims=[KEY])
    assert (shown["x-ratelimit-remaining-requests"], shown["x-ratelimit-remaining-tokens"]) == ("0", "0")
    assert "concurrency=0/4" in shown[HEADER]
    assert "day_micro_usd=0/" in shown[HEADER]


def test_a_process_that_decides_alone_shows_its_share() -> None:
    shown = _shown(Standing(0, 0, 0, 0, 0, 0), claims=[KEY], replicas=4, is_exact=False)
    assert (shown["x-ratelimit-limit-requests"], shown["x-ratelimit-remaining-requests"]) == ("15", "15")


def test_what_is_not_limited_is_not_shown() -> None:
    claim = Claim.of(Scope("key", Limits(max_concurrency=1), "k"), 1)
    assert _shown(Standing(0, 0, 0, 0, 0, 0), claims=[claim]) == {HEADER: "concurrency=1/1@key"}
