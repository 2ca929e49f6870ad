"""The directive that a prompt carries."""

from __future__ import annotations

import pytest

from simulator.directive import Behaviour, read
from simulator.errors import InvalidRequest

DEFAULTS = Behaviour(ttft_ms=5, tokens=7)


def test_a_prompt_without_directive_behaves_by_default() -> None:
    assert read("What is a spillway? [sim] [[simple]]", DEFAULTS) is DEFAULTS


def test_a_directive_overrides_what_it_names_and_keeps_the_other_defaults() -> None:
    found = read("Hello [[sim tokens=3 itl_ms=1.5 how=rst cut_after=2]] world", DEFAULTS)
    assert found == Behaviour(ttft_ms=5, tokens=3, itl_ms=1.5, how="rst", cut_after=2)


def test_a_directive_may_be_empty() -> None:
    assert read("[[sim]]", DEFAULTS) == DEFAULTS


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[sim tokens=abc]]", "tokens=abc"),
        ("[[sim tokens=0]]", "tokens=0"),
        ("[[sim status=200]]", "status=200"),
        ("[[sim how=loudly]]", "how=loudly"),
        ("[[sim colour=blue]]", "colour=blue"),
        ("[[sim ttft_ms=-1]]", "ttft_ms=-1"),
        ("[[sim ttft_ms=nan]]", "ttft_ms=nan"),
        ("[[sim stall]]", "stall: not a key=value"),
        ("[[sim tokens=1 tokens=2]]", "tokens=2: given twice"),
        ("[[sim tokens=1", "exactly one"),
        ("[[sim tokens=1]] and [[sim tokens=2]]", "exactly one"),
    ],
)
def test_a_bad_directive_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match="directive") as refused:
        read(text, DEFAULTS)
    assert named in refused.value.message
    assert (refused.value.status, refused.value.code) == (400, "bad_directive")


def test_without_times_it_misbehaves_always_and_with_times_so_often() -> None:
    assert Behaviour(how="end").fault(1_000) == "end"
    assert [Behaviour(how="end", times=2).fault(attempt) for attempt in (1, 2, 3)] == ["end", "end", None]


def test_a_cut_that_does_not_say_how_closes_the_connection() -> None:
    assert Behaviour(cut_after=0).fault(1) == "fin"
    assert Behaviour().fault(1) is None
