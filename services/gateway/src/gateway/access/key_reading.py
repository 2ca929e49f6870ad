"""Reads keys with their tenants, from the keys file first and then from the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.telemetry.spans import UNTRACED, StoreSpans
from gateway.access import key_store
from gateway.access.key_directory import Known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from gateway.access.keys_file import DeclaredKeys


@dataclass(frozen=True, slots=True)
class KeyReader:
    store: Redis
    declared: DeclaredKeys
    spans: StoreSpans = UNTRACED

    async def one(self, kid: str) -> Known | None:
        """A key that is declared together with its tenant costs no I/O. Raises `StoreUnavailableError`."""
        declared = self.declared.now
        key = declared.keys.get(kid)
        if key is not None and (tenant := declared.tenants.get(key.tenant)) is not None:
            return Known.of(key, tenant)
        with self.spans.operation("look_up_key"):
            key = key or await key_store.fetch_key(self.store, kid)
            if key is None:
                return None
            tenant = declared.tenants.get(key.tenant) or await key_store.fetch_tenant(self.store, key.tenant)
            return Known.of(key, tenant)

    async def many(self, kids: Sequence[str]) -> list[Known]:
        """Those that exist, in two reads. Raises `StoreUnavailableError`."""
        declared = self.declared.now
        keys = [declared.keys[kid] for kid in kids if kid in declared.keys]
        keys += await key_store.fetch_keys(self.store, [kid for kid in kids if kid not in declared.keys])
        names = sorted({key.tenant for key in keys} - declared.tenants.keys())
        tenants = {record.tenant: record for record in await key_store.fetch_tenants(self.store, names)}
        tenants |= declared.tenants
        return [Known.of(key, tenants.get(key.tenant)) for key in keys]
