"""Names of what is kept in the *cache* store. The tenant comes from the caller's verified token, never from its words.

A fingerprint is 64 hex digits that the gateway made: 16 of them stand for the model, 48 for the request. The tenant is
the hash tag, so that all keys of one script share a cluster slot. A flight's id is 32 hex digits, 16 of them its
gateway's.
"""

from __future__ import annotations

import re
from typing import Final

MODEL_DIGITS: Final = 16
FINGERPRINT = "^[0-9a-f]{64}$"
FLIGHT = "^[0-9a-f]{32}$"
MODEL = "^[0-9a-f]{16}$"
GATEWAY = "^[0-9a-f]{16}$"
GATEWAY_DIGITS: Final = 16
BELLS = "v1:bells"
"""The channel for the name of a flight whose events or end changed, of `followers_of` it when those did, and for the id
of a gateway that is gone.
"""
_GLOB = re.compile(r"([*?\[\]\\^])")


def entry(tenant: str, fingerprint: str) -> str:
    return f"v1:entry:{{{tenant}}}:{fingerprint}"


def flight(tenant: str, fingerprint: str, flight_id: str) -> list[str]:
    """The newest flight of a request; the events of the one with this id, which may be an earlier one; who follows."""
    stem = f"{{{tenant}}}:{fingerprint}"
    return [f"v1:flight:{stem}", f"v1:events:{stem}:{flight_id}", f"v1:followers:{stem}"]


def followers_of(flight: str) -> str:
    return f"{flight}:followers"


def gateway_of(flight: str) -> str:
    return flight[:GATEWAY_DIGITS]


def gateway(gateway_id: str) -> str:
    return f"v1:gateway:{gateway_id}"


def counters(tenant: str) -> str:
    return f"v1:stats:{{{tenant}}}"


def entries_like(tenant: str | None, model: str | None) -> str:
    """The glob of all entries of a tenant, of a model (its 16 digits), of both, or of everybody."""
    of_tenant = "*" if tenant is None else _GLOB.sub(r"\\\1", tenant)
    return f"v1:entry:{{{of_tenant}}}:{model or ''}*"


def tenant_of(counters_name: str) -> str:
    return counters_name.partition("{")[2].rpartition("}")[0]
