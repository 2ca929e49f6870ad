"""Calls under limits, and the scripts of the limits run at a time of the test's choice."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.deadline import Deadline
from common.identity import HopIdentity
from common.telemetry.timings import Timings
from gateway.access.authentication import Caller
from gateway.call import CHAT, Call
from gateway.catalogue import ModelCatalogue
from gateway.decision import Decision
from gateway.limits.scopes import Claim, Scope
from gateway.limits.settling import LEASE_US, mark_of
from gateway.limits.store import load_script
from gateway.limits.verdict import Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from common.wire import Price
    from gateway.access.keys import Limits, Policy

SECOND = 1_000_000
MODEL = "m"
BOUND_S = 60
_numbers = itertools.count()


def unique(name: str) -> str:
    """A name that no other test uses, so that all may share one store."""
    return f"{name}-{next(_numbers)}"


def call_under(policy: Policy, *, tenant: str = "alice", key_id: str = "k1", endpoint: str = CHAT, **body: Any) -> Call:
    """A call of that key; what goes with its answer is in `answer_headers`."""
    headers: dict[str, str] = {}
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]} | body
    return Call(
        Caller(tenant, key_id, policy),
        HopIdentity(tenant, key_id),
        unique("req"),
        endpoint,
        asked,
        b"{}",
        Deadline.after(BOUND_S),
        Timings(),
        choices=body.get("n", 1),
        answer_headers=headers,
        decision=Decision(headers),
    )


def known_models(price: Price | None = None, *, longest: int | None = None) -> ModelCatalogue:
    """A catalogue that knows one model."""
    catalogue = ModelCatalogue()
    catalogue._catalogue = {"revision": "1", "models": {MODEL: {"price": price, "max_output_tokens": longest}}}
    return catalogue


def scope_of(limits: Limits, *, tenant: str = "alice", key_id: str = "k1") -> Scope:
    return Scope("key", limits, f"v1:limit:{{{tenant}}}:key:{key_id}")


@dataclass(frozen=True)
class Reply:
    outcome: int
    day: int
    month: int
    standings: Sequence[Standing]

    @property
    def is_admitted(self) -> bool:
        return self.outcome == 1


class Scripts:
    """The scripts as they are shipped, run on a real server at `now` (µs)."""

    def __init__(self, client: Redis, now: int, tenant: str) -> None:
        self.client = client
        self.now = now
        self.tenant = tenant
        self._texts = {name: load_script(name).text for name in ("admit", "settle", "renew")}

    def _run(self, name: str, keys: Sequence[str], words: Sequence[str | int]) -> Any:
        return self.client.eval(self._texts[name], len(keys), *keys, *words)

    def admit(self, call: str, claims: Sequence[Claim], *, cost: int = 0, not_after: int = 0) -> Reply:
        keys = [name for claim in claims for name in (claim.scope.counters, claim.scope.leases)]
        words = [word for claim in claims for word in claim.words()]
        outcome, _, day, month, *rest = self._run("admit", keys, [self.now, not_after, call, LEASE_US, cost, *words])
        return Reply(outcome, day, month, [Standing(*rest[at : at + 6]) for at in range(0, len(rest), 6)])

    def settle(
        self, call: str, claims: Sequence[Claim], moves: Sequence[tuple[int, int, int]], *, day: int = 0, month: int = 0
    ) -> int:
        """`moves`: for each claim µs of requests, µs of tokens, micro-dollars."""
        keys = [mark_of(self.tenant, call)]
        words: list[str | int] = []
        for claim, move in zip(claims, moves, strict=True):
            keys += [claim.scope.counters, claim.scope.leases]
            words += [*move, int(claim.has_budget)]
        return int(self._run("settle", keys, [self.now, call, 300, day, month, *words]))

    def renew(self, call: str, claims: Sequence[Claim]) -> int:
        keys = [mark_of(self.tenant, call), *(claim.scope.leases for claim in claims)]
        return int(self._run("renew", keys, [self.now, call, LEASE_US]))

    def hash_of(self, claim: Claim) -> Mapping[bytes, bytes]:
        kept: Any = self.client.hgetall(claim.scope.counters)
        return dict(kept)
