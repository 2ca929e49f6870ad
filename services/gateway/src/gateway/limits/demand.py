"""What a call asks for before it runs: tokens and money, from an estimate that errs on the large side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.limits.errors import PricesUnavailable, PriceUnknown, TooLargeForLimit
from gateway.limits.estimate import choices, declared_output_tokens, input_tokens
from gateway.limits.scopes import Claim, micro_dollars

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.wire import Price
    from gateway.call import Call
    from gateway.catalogue import ModelCatalogue
    from gateway.limits.learning import Experience
    from gateway.limits.scopes import Scope


@dataclass(frozen=True, slots=True)
class Demand:
    input_tokens: int
    tokens: int
    """Input and output together."""
    cost: int
    """Micro-dollars."""
    claims: Sequence[Claim]


def demand_of(call: Call, scopes: Sequence[Scope], catalogue: ModelCatalogue, experience: Experience) -> Demand:
    """Estimate `call`. Output is what the caller declares, else what such calls have been answered with so far, but
    then no more than the limits grant at all: nobody is refused for a guess. Raises what no waiting can mend.
    """
    read = input_tokens(call)
    if not scopes:
        return Demand(read, read, 0, ())
    price = catalogue.price(call.model)
    enforced = [scope for scope in scopes if not scope.is_shadow]
    if any(_has_budget(scope) for scope in enforced) and price is None:
        _refuse_without_price(call, catalogue)
    declared = declared_output_tokens(call)
    written = declared
    if written is None:
        written = experience.output_tokens(call.caller.key_id, call.model) * choices(call)
        written = min(written, *(_room(scope, read, price) for scope in enforced)) if enforced else written
    longest = catalogue.max_output_tokens(call.model)
    if longest is not None:
        written = min(written, longest * choices(call))
    tokens, cost = read + max(written, 0), cost_of(price, read, max(written, 0)) or 0
    for scope in enforced:
        _check_that_it_can_fit(scope, tokens, cost)
    return Demand(read, tokens, cost, tuple(Claim.of(scope, tokens) for scope in scopes))


def rate_of(scopes: Sequence[Scope]) -> Demand:
    """Of a call that runs nothing: it counts as a request, and needs no token, no money and no place."""
    return Demand(0, 0, 0, tuple(Claim.of_rate(scope) for scope in scopes))


def cost_of(price: Price | None, read: int, written: int) -> int | None:
    """In micro-dollars, rounded up. A price per million tokens in dollars is one per token in micro-dollars."""
    if price is None:
        return None
    return math.ceil(round(read * price["input_usd"] + written * price["output_usd"], 6))


def _has_budget(scope: Scope) -> bool:
    return scope.limits.budget_usd_per_day is not None or scope.limits.budget_usd_per_month is not None


def _refuse_without_price(call: Call, catalogue: ModelCatalogue) -> None:
    if not catalogue.is_known:
        raise PricesUnavailable("The prices of the models are not known yet, and this key has a budget.")
    if catalogue.has(call.model):  # else inference will say that there is no such model
        raise PriceUnknown("The price of this model is not known, so that no key with a budget may use it.")


def _room(scope: Scope, read: int, price: Price | None) -> int:
    """The most output tokens that could ever fit, beside so much input."""
    limits = scope.limits
    room = [] if limits.tokens_per_minute is None else [limits.tokens_per_minute - read]
    if price is not None and price["output_usd"] > 0:
        budgets = (limits.budget_usd_per_day, limits.budget_usd_per_month)
        left = [micro_dollars(budget) - read * price["input_usd"] for budget in budgets if budget is not None]
        room += [math.floor(micro / price["output_usd"]) for micro in left]
    return min(room, default=2**53)


def _check_that_it_can_fit(scope: Scope, tokens: int, cost: int) -> None:
    limits, whose = scope.limits, scope.name.replace("_", "'s ")
    if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
        raise TooLargeForLimit(
            f"The request needs up to {tokens} tokens; the {whose} limit is {limits.tokens_per_minute} per minute."
        )
    for budget, period in ((limits.budget_usd_per_day, "day"), (limits.budget_usd_per_month, "month")):
        if budget is not None and cost > micro_dollars(budget):
            raise TooLargeForLimit(
                f"The request may cost {cost / 1e6:.6f} US dollars; the {whose} budget is {budget} a {period}."
            )
    if limits.requests_per_minute == 0 or limits.max_concurrency == 0:
        raise TooLargeForLimit(f"The {whose} limit lets no request through.")
