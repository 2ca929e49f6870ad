"""What a call asks for: never more than can ever fit, and refused at once if no waiting helps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.access.keys import Limits, Policy
from gateway.catalogue import ModelCatalogue
from gateway.limits.demand import Demand, cost_of, demand_of, rate_of
from gateway.limits.errors import PricesUnavailable, PriceUnknown, TooLargeForLimit
from gateway.limits.estimate import input_tokens
from gateway.limits.learning import DEFAULT_OUTPUT_TOKENS, Experience
from gateway.limits.scopes import scopes_of
from support.limits import call_under, known_models

if TYPE_CHECKING:
    from gateway.call import Call

PRICE = {"input_usd": 1.0, "output_usd": 2.0}
SHADOW_BUDGET = Limits(budget_usd_per_day=1.0, mode="shadow")
BUDGET = Limits(budget_usd_per_day=1.0)


def _demand(call: Call, catalogue: ModelCatalogue | None = None, experience: Experience | None = None) -> Demand:
    scopes = scopes_of(call.caller, call.model)
    return demand_of(call, scopes, catalogue or known_models(PRICE), experience or Experience())  # type: ignore[arg-type]


def _under(limits: Limits, **body: Any) -> Call:
    return call_under(Policy(limits), **body)


def test_it_is_input_and_declared_output() -> None:
    call = _under(Limits(tokens_per_minute=10_000), max_tokens=100)
    read = input_tokens(call)
    demand = _demand(call)
    assert (demand.input_tokens, demand.tokens, demand.cost) == (read, read + 100, read + 200)


def test_without_a_declaration_it_is_what_such_calls_were_answered() -> None:
    call = _under(Limits(tokens_per_minute=10_000), n=2)
    read = input_tokens(call)
    assert _demand(call).tokens == read + 2 * DEFAULT_OUTPUT_TOKENS
    experience = Experience()
    for _ in range(10):
        experience.learn("k1", call.model, 30, 1.0)
    assert _demand(call, experience=experience).tokens == read + 2 * 30


def test_a_guess_never_makes_a_call_too_large() -> None:
    assert _demand(_under(Limits(tokens_per_minute=50))).tokens == 50
    poor = _under(Limits(budget_usd_per_day=0.0001))
    assert _demand(poor).cost <= 100


def test_a_declaration_may_make_it_too_large() -> None:
    with pytest.raises(TooLargeForLimit, match="limit is 50 per minute") as refused:
        _demand(_under(Limits(tokens_per_minute=50), max_tokens=51))
    assert refused.value.status == 400


def test_input_alone_may_make_it_too_large() -> None:
    with pytest.raises(TooLargeForLimit):
        _demand(_under(Limits(tokens_per_minute=50), messages=[{"content": "a" * 400}]))


def test_a_call_that_costs_more_than_a_whole_budget_is_too_large() -> None:
    for limits in (Limits(budget_usd_per_day=0.0001), Limits(budget_usd_per_month=0.0001)):
        with pytest.raises(TooLargeForLimit):
            _demand(_under(limits, max_tokens=1_000))


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=0), Limits(max_concurrency=0)])
def test_a_limit_of_nothing_is_never_met_by_waiting(limits: Limits) -> None:
    with pytest.raises(TooLargeForLimit):
        _demand(_under(limits))


def test_a_shadow_refuses_nothing_however_large() -> None:
    call = _under(Limits(tokens_per_minute=1, requests_per_minute=0, mode="shadow"), max_tokens=500)
    assert _demand(call).tokens == input_tokens(call) + 500
    assert _demand(_under(SHADOW_BUDGET), known_models(None)).cost == 0


def test_what_cannot_be_counted_is_not_spent() -> None:
    with pytest.raises(PriceUnknown) as refused:
        _demand(_under(BUDGET), known_models(None))
    assert refused.value.status == 403
    with pytest.raises(PricesUnavailable) as away:
        _demand(_under(BUDGET), ModelCatalogue())
    assert away.value.status == 503


def test_a_model_that_does_not_exist_is_inferences_to_refuse() -> None:
    assert _demand(_under(BUDGET, model="no-such-model")).cost == 0


def test_a_model_writes_no_more_than_it_can() -> None:
    call = _under(Limits(tokens_per_minute=10_000), max_tokens=5_000)
    assert _demand(call, known_models(PRICE, longest=100)).tokens == input_tokens(call) + 100  # type: ignore[arg-type]


def test_a_rate_takes_a_request_and_nothing_else() -> None:
    limits = Limits(6, 100, 1, 1.0, 2.0)
    demand = rate_of(scopes_of(call_under(Policy(limits)).caller, "m"))
    assert (demand.tokens, demand.cost) == (0, 0)
    assert demand.claims[0].words() == (10_000_000, 0, -1, -1, -1, 0)
    assert not demand.claims[0].has_budget


def test_a_key_without_limits_needs_no_price() -> None:
    assert _demand(call_under(Policy()), ModelCatalogue()).claims == ()


@pytest.mark.parametrize(
    ("price", "read", "written", "cost"),
    [
        (None, 1, 1, None),
        (PRICE, 10, 5, 20),
        ({"input_usd": 0.15, "output_usd": 0.6}, 1, 0, 1),
        ({"input_usd": 0.1, "output_usd": 0.2}, 10, 10, 3),  # 0.1 + 0.2 is not 4
        ({"input_usd": 0.0, "output_usd": 0.0}, 10, 10, 0),
    ],
)
def test_money_is_in_micro_dollars_rounded_up(price: object, read: int, written: int, cost: int | None) -> None:
    assert cost_of(price, read, written) == cost  # type: ignore[arg-type]
