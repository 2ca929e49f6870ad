"""Names in the *state* store. One hash tag for all: a change and its audit entry are one transaction, in one slot."""

from __future__ import annotations

KEYS = "v1:{keys}:all"
"""Sorted set of every key's id, all with score 0: read in the order of ids."""
TENANTS = "v1:{keys}:tenants"
"""The same for tenants that have a record."""
USED = "v1:{keys}:used"
"""Sorted set: a key's id, and when the fleet saw it last (Unix seconds)."""
AUDIT = "v1:{keys}:audit"


def key(kid: str) -> str:
    return f"v1:{{keys}}:key:{kid}"


def tenant(name: str) -> str:
    return f"v1:{{keys}}:tenant:{name}"


def keys_of(tenant_name: str) -> str:
    """As `KEYS`, of one tenant."""
    return f"v1:{{keys}}:of:{tenant_name}"
