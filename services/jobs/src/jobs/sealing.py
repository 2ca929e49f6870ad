"""Seals what a tenant sent and got, so that the state store, its file and its backups hold no prompt and no answer.

AES-256-GCM with a random 96-bit nonce, under a key per tenant (HKDF-SHA256, RFC 5869); the associated data is the job
and the field, so that mixed-up bytes do not open. Layout: version (1 byte), nonce (12), ciphertext with its tag.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSION = b"\x01"
_NONCE_BYTES = 12
_TENANTS = 4_096


class SealBrokenError(Exception):
    """The bytes are damaged, of another job, or sealed under a secret that is not known any more."""


class Sealer:
    """Seals under the first of `secrets` and opens under any: the second is the one before a rotation."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        self._ciphers: dict[str, list[AESGCM]] = {}
        self._name_key = _derive(self._secrets[0], b"spillway job names v1")

    def seal(self, value: bytes, *, tenant: str, job_id: str, field: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._of(tenant)[0].encrypt(nonce, value, f"{job_id}:{field}".encode())

    def open(self, sealed: bytes, *, tenant: str, job_id: str, field: str) -> bytes:
        """Return the value, or raise `SealBrokenError`."""
        nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] == _VERSION and len(nonce) == _NONCE_BYTES:
            for cipher in self._of(tenant):
                try:
                    return cipher.decrypt(nonce, ciphertext, f"{job_id}:{field}".encode())
                except InvalidTag:
                    continue
        raise SealBrokenError

    def digest(self, value: bytes) -> str:
        """A keyed hash, for what has to be compared but not known: Idempotency-Keys and the requests behind them."""
        return hmac.new(self._name_key, value, hashlib.sha256).hexdigest()

    def _of(self, tenant: str) -> list[AESGCM]:
        ciphers = self._ciphers.get(tenant)
        if ciphers is None:
            if len(self._ciphers) >= _TENANTS:
                self._ciphers.clear()
            purpose = b"spillway job v1\0" + tenant.encode()
            ciphers = self._ciphers[tenant] = [AESGCM(_derive(secret, purpose)) for secret in self._secrets]
        return ciphers


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)
