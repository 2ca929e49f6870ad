"""Seals cached answers, so that the cache and its store hold opaque bytes and a mixed-up reply does not open.

AES-256-GCM with a random 96-bit nonce, under a key per tenant (HKDF-SHA256, RFC 5869); the associated data is the
tenant and the place: the fingerprint, of a flight's frames also the flight and the frame's number. Layout: version
(1 byte), nonce (12), ciphertext with its tag. Version 2 is deflated (RFC 1950) before it is sealed, which its
associated data says as well: a stream's events are one frame of JSON over and over, and shrink to a twentieth.
"""

from __future__ import annotations

import os
import zlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_PLAIN, _DEFLATED = b"\x01", b"\x02"
_WORTH_DEFLATING_BYTES = 4 * 1024
"""A stream of twenty chunks. Level 1 takes 0.2 ms for one of two hundred."""
_NONCE_BYTES = 12
_TENANTS = 4_096


class SealBrokenError(Exception):
    """The bytes are damaged, or another tenant's, or another place's: a miss and an alarm, never an answer."""


class Sealer:
    """Seals under `secret`; opens what was sealed under it or, while it is being rotated, under `previous`."""

    def __init__(self, secret: str, previous: str | None = None) -> None:
        self._secrets = [text.encode() for text in (secret, previous) if text is not None]
        self._ciphers: dict[str, list[AESGCM]] = {}

    @property
    def fingerprint_key(self) -> bytes:
        """Of the secret in use alone: a fingerprint has to be one."""
        return _derive(self._secrets[0], b"spillway fingerprint v1")

    def seal(self, value: bytes, *, tenant: str, place: str) -> bytes:
        nonce, version = os.urandom(_NONCE_BYTES), _PLAIN
        if len(value) >= _WORTH_DEFLATING_BYTES:
            value, version = zlib.compress(value, 1), _DEFLATED
        return version + nonce + self._of(tenant)[0].encrypt(nonce, value, _context(tenant, place, version))

    def open(self, sealed: bytes, *, tenant: str, place: str) -> bytes:
        """Return the value, or raise `SealBrokenError`."""
        version, nonce = sealed[:1], sealed[1 : 1 + _NONCE_BYTES]
        if version not in {_PLAIN, _DEFLATED} or len(nonce) != _NONCE_BYTES:
            raise SealBrokenError
        for cipher in self._of(tenant):
            try:
                value = cipher.decrypt(nonce, sealed[1 + _NONCE_BYTES :], _context(tenant, place, version))
            except InvalidTag:
                continue
            return zlib.decompress(value) if version == _DEFLATED else value
        raise SealBrokenError

    def _of(self, tenant: str) -> list[AESGCM]:
        ciphers = self._ciphers.get(tenant)
        if ciphers is None:
            if len(self._ciphers) >= _TENANTS:
                self._ciphers.clear()
            purpose = b"spillway entry v1\0" + tenant.encode()
            ciphers = self._ciphers[tenant] = [AESGCM(_derive(secret, purpose)) for secret in self._secrets]
        return ciphers


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)


def _context(tenant: str, place: str, version: bytes) -> bytes:
    context = f"{place}:{tenant}".encode()
    return context if version == _PLAIN else context + version
