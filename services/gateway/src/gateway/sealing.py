"""Seals cached answers, so that the cache and its store hold opaque bytes and a mixed-up reply does not open.

AES-256-GCM with a random 96-bit nonce, under a key per tenant (HKDF-SHA256, RFC 5869); the associated data is the
tenant and the fingerprint. Layout: version (1 byte), nonce (12), ciphertext with its tag.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION = b"\x01"
_NONCE_BYTES = 12
_TENANTS = 4_096


class SealBrokenError(Exception):
    """The entry is damaged, or another tenant's, or another request's: a miss and an alarm, never an answer."""


class Sealer:
    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._ciphers: dict[str, AESGCM] = {}

    @property
    def fingerprint_key(self) -> bytes:
        return self._derive(b"spillway fingerprint v1")

    def seal(self, value: bytes, *, tenant: str, fingerprint: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher(tenant).encrypt(nonce, value, _context(tenant, fingerprint))

    def open(self, sealed: bytes, *, tenant: str, fingerprint: str) -> bytes:
        """Return the value, or raise `SealBrokenError`."""
        nonce = sealed[1 : 1 + _NONCE_BYTES]
        if sealed[:1] != _VERSION or len(nonce) != _NONCE_BYTES:
            raise SealBrokenError
        try:
            return self._cipher(tenant).decrypt(nonce, sealed[1 + _NONCE_BYTES :], _context(tenant, fingerprint))
        except InvalidTag:
            raise SealBrokenError from None

    def _cipher(self, tenant: str) -> AESGCM:
        cipher = self._ciphers.get(tenant)
        if cipher is None:
            if len(self._ciphers) >= _TENANTS:
                self._ciphers.clear()
            cipher = self._ciphers[tenant] = AESGCM(self._derive(b"spillway entry v1\0" + tenant.encode()))
        return cipher

    def _derive(self, purpose: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(self._secret)


def _context(tenant: str, fingerprint: str) -> bytes:
    return f"{fingerprint}:{tenant}".encode()
